"""Who pays for a node, from its launch to its end, without a gap and without an overlap.

A node's open charge belongs to the run it works for, or to nobody while it is idle. A charge ends
at the moment at which the next one starts, even when the clock was set back in between. Where the
provider tells when it began and stopped to bill, and at what price, its word holds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Column, ColumnElement, bindparam, case, insert, or_, select, update

from scsched.db.batches import one_of_ids, portions
from scsched.db.models import charges
from scsched.db.money import Interval
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class Launched:
    """A node that is paid for from now on."""

    node_id: int
    run_id: int | None
    workflow_id: int
    uid: int
    usd_per_hour: Decimal
    at: datetime


def start(session: Session, launched: Iterable[Launched]) -> None:
    """Open the first charge of each node."""
    rows = [
        {
            "node_id": node.node_id,
            "run_id": node.run_id,
            "workflow_id": node.workflow_id,
            "uid": node.uid,
            "usd_per_hour": node.usd_per_hour,
            "started_at": node.at,
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


def cut(session: Session, node_id: int, at: datetime) -> None:
    """Nothing is paid for the node after `at`, though that was noticed later: its charges end
    there, and those that began later have no length."""
    session.execute(_CUT, {"of_node": node_id, "now": at})


def reprice(session: Session, node_id: int, at: datetime, usd_per_hour: Decimal) -> bool:
    """The node costs so much from `at` on. False: it did already.

    Also when its charges went from run to run since, or it has ended. Prices of an hour are set in
    the order of time: what a later hour costs is set after it.
    """
    change = session.execute(
        select(charges)
        .where(charges.c.node_id == node_id, charges.c.usd_per_hour != usd_per_hour)
        .where(or_(charges.c.ended_at.is_(None), charges.c.ended_at > at))
    ).all()
    for row in change:
        of_row = update(charges).where(charges.c.id == row.id)
        if row.started_at >= at:
            session.execute(of_row.values(usd_per_hour=usd_per_hour))
            continue
        session.execute(of_row.values(ended_at=at))
        rest = {**row._mapping, "started_at": at, "usd_per_hour": usd_per_hour}
        del rest["id"]
        session.execute(insert(charges).values(rest))
    return bool(change)


def paid_for(
    session: Session, by: Column[int], keys: Sequence[int]
) -> defaultdict[int, list[Interval]]:
    """What was and is paid for, by node or by workflow: by a column of the charges."""
    found: defaultdict[int, list[Interval]] = defaultdict(list)
    query = select(by, charges.c.started_at, charges.c.ended_at, charges.c.usd_per_hour)
    for ids in portions(keys):
        for key, *interval in session.execute(query.where(by.in_(ids))):
            found[key].append(Interval(*interval))
    return found


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
_CUT = (
    update(charges)
    .where(charges.c.node_id == bindparam("of_node"))
    .where(or_(charges.c.ended_at.is_(None), charges.c.ended_at > _AT))
    .values(
        started_at=case((charges.c.started_at > _AT, _AT), else_=charges.c.started_at),
        ended_at=_AT,
    )
)
