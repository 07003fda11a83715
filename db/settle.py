"""When a workflow has ended: nothing in it can go on."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, bindparam, case, exists, or_, update

from scsched.db.batches import one_of_ids, portions
from scsched.db.events import EventRow, event, record
from scsched.db.models import LIVE_STEPS, Outcome, steps, workflows
from scsched.db.session import Session
from scsched.steps.state import StepState


@dataclass(frozen=True, slots=True)
class Settled:
    """A workflow that ended, or (no outcome) goes on again."""

    workflow_id: int
    outcome: Outcome | None


def settle(session: Session, workflow_ids: Iterable[int], now: datetime) -> list[Settled]:
    """End the workflows in which nothing can go on, reopen those in which something can again.

    Something can go on if a step is active, or is PENDING and waits for no other step. Else every
    PENDING step waits, maybe through others, for one that failed or was cancelled.
    """
    settled: list[Settled] = []
    for portion in portions(workflow_ids):
        settled.extend(Settled(*row) for row in session.execute(_END, {"ids": portion, "now": now}))
        settled.extend(Settled(*row) for row in session.execute(_REOPEN, {"ids": portion}))
    record(session, now, [_settled_event(one) for one in settled])
    return settled


GOES_ON = exists().where(
    steps.c.workflow_id == workflows.c.id,
    LIVE_STEPS,
    or_(steps.c.state != StepState.PENDING, steps.c.unmet == 0),
)
"""Of a row of workflows: something in it can go on."""


def _has(state: StepState) -> ColumnElement[bool]:
    return exists().where(steps.c.workflow_id == workflows.c.id, steps.c.state == state)


_OUTCOME = case(
    (_has(StepState.FAILED), Outcome.FAILED),
    (_has(StepState.CANCELLED), Outcome.CANCELLED),
    else_=Outcome.COMPLETED,
)


_END = (
    update(workflows)
    .where(one_of_ids(workflows.c.id), workflows.c.ended_at.is_(None), ~GOES_ON)
    .values(ended_at=bindparam("now", type_=workflows.c.ended_at.type), outcome=_OUTCOME)
    .returning(workflows.c.id, workflows.c.outcome)
)
_REOPEN = (
    update(workflows)
    .where(one_of_ids(workflows.c.id), workflows.c.ended_at.is_not(None), GOES_ON)
    .values(ended_at=None, outcome=None)
    .returning(workflows.c.id, workflows.c.outcome)
)


def _settled_event(settled: Settled) -> EventRow:
    if settled.outcome is None:
        return event("reopened", "it can go on again", workflow_id=settled.workflow_id)
    said = f"the workflow ended: {settled.outcome}"
    return event("ended", said, workflow_id=settled.workflow_id)
