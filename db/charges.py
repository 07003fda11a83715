"""Who pays for a node, from its launch to its end, without a gap and without an overlap.

A node's open charge belongs to the run it works for, or to nobody while it is idle. A charge ends
at the moment at which the next one starts, even when the clock was set back in between.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import ColumnElement, bindparam, case, insert, update

from scsched.db.batches import one_of_ids, portions
from scsched.db.models import charges
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class Launched:
    """A node that is paid for from now on."""

    node_id: int
    run_id: int | None
    workflow_id: int
    uid: int
    usd_per_hour: Decimal


def start(session: Session, launched: Iterable[Launched], now: datetime) -> None:
    """Open the first charge of each node."""
    rows = [
        {
            "node_id": node.node_id,
            "run_id": node.run_id,
            "workflow_id": node.workflow_id,
            "uid": node.uid,
            "usd_per_hour": node.usd_per_hour,
            "started_at": now,
        }
        for node in launched
    ]
    if rows:
        session.execute(insert(charges), rows)


def switch(session: Session, run_of_node: Mapping[int, int | None], now: datetime) -> None:
    """From now on each node works for this run, or for nobody. Nodes without a charge stay so."""
    rows = [
        {
            "node_id": closed.node_id,
            "run_id": run_of_node[closed.node_id],
            "workflow_id": closed.workflow_id,
            "uid": closed.uid,
            "usd_per_hour": closed.usd_per_hour,
            "started_at": closed.ended_at,
        }
        for closed in stop(session, run_of_node, now)
    ]
    if rows:
        session.execute(insert(charges), rows)


@dataclass(frozen=True, slots=True)
class Closed:
    node_id: int
    workflow_id: int
    uid: int
    usd_per_hour: Decimal
    ended_at: datetime


def stop(session: Session, node_ids: Iterable[int], now: datetime) -> list[Closed]:
    """Close the open charge of each node that has one; give those closed."""
    rows = [
        row
        for portion in portions(node_ids)
        for row in session.execute(_STOP, {"ids": portion, "now": now})
    ]
    return [Closed(*row) for row in rows]


_AT: ColumnElement[datetime] = bindparam("now", type_=charges.c.ended_at.type)
_STOP = (
    update(charges)
    .where(one_of_ids(charges.c.node_id), charges.c.ended_at.is_(None))
    .values(ended_at=case((charges.c.started_at > _AT, charges.c.started_at), else_=_AT))
    .returning(
        charges.c.node_id,
        charges.c.workflow_id,
        charges.c.uid,
        charges.c.usd_per_hour,
        charges.c.ended_at,
    )
)
