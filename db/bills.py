"""What a provider tells late of nodes that have ended on record: from and until when they cost.

A node may end on record without its provider's word: it was missing for too long, or nobody had
heard that it was launched. The word holds when it comes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import update

from scsched.db import charges
from scsched.db.events import event, record
from scsched.db.models import nodes
from scsched.db.nodes import NodeRec
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class Life:
    """Of a node that has ended on record, as its provider tells it."""

    node: NodeRec
    provider_id: str
    launched_at: datetime
    ended_at: datetime

    @property
    def starts_at(self) -> datetime:
        """What is on record of the launch stands."""
        return self.node.launched_at or self.launched_at

    @property
    def ends_at(self) -> datetime:
        return max(self.ended_at, self.starts_at)

    @property
    def is_new(self) -> bool:
        """Whether the record says otherwise."""
        node = self.node
        return node.ended_at is not None and (node.launched_at, node.ended_at) != (
            self.starts_at,
            self.ends_at,
        )


def correct(session: Session, lives: Iterable[Life], now: datetime) -> frozenset[int]:
    """They are paid for from and until then. What nobody had paid for is idle time of their
    workflows. Gives the nodes for which this was new; safe to repeat."""
    new = [life for life in lives if life.is_new and _written(session, life)]
    for life in new:
        _charge(session, life)
    told = [
        event(
            "node_corrected",
            f"{life.node.name}: its provider billed it from {life.starts_at:%H:%M:%S}"
            f" until {life.ends_at:%H:%M:%S}",
            workflow_id=life.node.workflow_id,
            node_id=life.node.id,
        )
        for life in new
    ]
    record(session, now, told)
    return frozenset(life.node.id for life in new)


def _written(session: Session, life: Life) -> bool:
    node = life.node
    found = session.execute(
        update(nodes)
        .where(nodes.c.id == node.id, nodes.c.ended_at == node.ended_at)
        .values(
            provider_id=node.provider_id or life.provider_id,
            launched_at=life.starts_at,
            ended_at=life.ends_at,
            priced_until=node.priced_until or life.starts_at,
        )
        .returning(nodes.c.id)
    )
    return found.one_or_none() is not None


def _charge(session: Session, life: Life) -> None:
    recorded = life.node.launched_at is not None
    paid_until = (life.node.ended_at if recorded else None) or life.starts_at
    if paid_until > life.ends_at:
        charges.cut(session, life.node.id, life.ends_at)
        return
    late = charges.Launched(
        life.node.id,
        None,
        life.node.workflow_id,
        life.node.uid,
        life.node.usd_per_hour,
        paid_until,
    )
    charges.start(session, [late])
    charges.stop(session, [life.node.id], life.ends_at)
