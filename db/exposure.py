"""How long the spot nodes of each pool lived, and how many of them were taken back."""

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from scsched.db.models import Market, nodes
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class Lives:
    """Of the nodes of one pool."""

    reclaims: int = 0
    node_hours: float = 0.0


def lives_of(session: Session, since: datetime, now: datetime) -> dict[str, Lives]:
    """By pool: of the spot nodes that were intended since, the living ones up to `now`."""
    reclaims: defaultdict[str, int] = defaultdict(int)
    hours: defaultdict[str, float] = defaultdict(float)
    for row in session.execute(_SPOT.where(nodes.c.created_at >= since)):
        lived = (row.ended_at or now) - row.launched_at
        hours[row.pool] += max(0.0, lived.total_seconds()) / 3600.0
        taken = row.notice_at is not None or (row.end_reason or "").startswith("spot")
        reclaims[row.pool] += taken
    return {pool: Lives(reclaims[pool], hours[pool]) for pool in hours}


_SPOT = select(
    nodes.c.pool, nodes.c.launched_at, nodes.c.ended_at, nodes.c.notice_at, nodes.c.end_reason
).where(nodes.c.market == Market.SPOT, nodes.c.launched_at.is_not(None))
