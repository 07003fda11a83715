"""Spot played on this machine: which entries of a workflow's schedule have been fired.

The event is the record: it is written before the nodes are taken.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from scsched.db.events import event, record
from scsched.db.models import events, workflows
from scsched.db.session import Session

KIND = "spot_played"


@dataclass(frozen=True, slots=True)
class Play:
    """A live workflow with a schedule of interruptions."""

    workflow_id: int
    schedule: str
    submitted_at: datetime
    fired: frozenset[int]
    """Entries of the schedule, by their place in it, from 0."""


def open_plays(session: Session) -> list[Play]:
    """Of the workflows that have not ended."""
    rows = session.execute(
        select(workflows.c.id, workflows.c.play_spot, workflows.c.submitted_at)
        .where(workflows.c.ended_at.is_(None), workflows.c.play_spot.is_not(None))
        .order_by(workflows.c.id)
    )
    return [Play(row.id, row.play_spot, row.submitted_at, _fired(session, row.id)) for row in rows]


def fired(session: Session, workflow_id: int, entry: int, text: str, now: datetime) -> None:
    """Record that this entry is fired now."""
    record(session, now, [event(KIND, f"#{entry + 1}: {text}", workflow_id=workflow_id)])


def _fired(session: Session, workflow_id: int) -> frozenset[int]:
    texts = session.scalars(
        select(events.c.text).where(events.c.workflow_id == workflow_id, events.c.kind == KIND)
    )
    return frozenset(int(text[1:].partition(":")[0]) - 1 for text in texts)
