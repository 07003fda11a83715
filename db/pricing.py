"""Nodes whose price changes while they live: what is charged follows it, hour by hour."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from sqlalchemy import and_, or_, select, update

from scsched.db import charges
from scsched.db.events import event, record
from scsched.db.models import Market, nodes
from scsched.db.nodes import NodeRec, get
from scsched.db.session import Session


def unpriced(session: Session) -> list[NodeRec]:
    """Spot nodes with time that is not charged by the provider's prices yet; ended ones too."""
    query = select(nodes.c.id).where(
        nodes.c.market == Market.SPOT,
        nodes.c.launched_at.is_not(None),
        or_(
            nodes.c.ended_at.is_(None),
            and_(nodes.c.priced_until.is_not(None), nodes.c.priced_until < nodes.c.ended_at),
        ),
    )
    return get(session, session.scalars(query).all())


def reprice(
    session: Session, node: NodeRec, at: datetime, usd_per_hour: Decimal, now: datetime
) -> bool:
    """The node costs so much from `at` on; what it cost before stays. False: it did already."""
    if not charges.reprice(session, node.id, at, usd_per_hour):
        return False
    session.execute(update(nodes).where(nodes.c.id == node.id).values(usd_per_hour=usd_per_hour))
    told = event(
        "node_repriced",
        f"{node.name}: costs ${usd_per_hour:f} an hour since {at:%H:%M:%S}",
        workflow_id=node.workflow_id,
        run_id=node.run_id,
        node_id=node.id,
    )
    record(session, now, [told])
    return True


def priced(session: Session, until: Iterable[tuple[int, datetime]]) -> None:
    """The charges of these nodes follow the provider's prices up to then."""
    for node_id, at in until:
        session.execute(update(nodes).where(nodes.c.id == node_id).values(priced_until=at))
