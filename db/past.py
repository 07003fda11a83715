"""How the former runs of steps ended, and whether they got anywhere."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select

from scsched.db.batches import one_of_ids, portions
from scsched.db.models import runs, steps
from scsched.db.session import Session
from scsched.steps.state import EndReason


@dataclass(frozen=True, slots=True)
class PastRun:
    reason: EndReason
    iterations_done: int


def past_of(session: Session, step_ids: Iterable[int]) -> dict[int, tuple[PastRun, ...]]:
    """Ended runs by step, oldest first, since a person last resubmitted it."""
    found: defaultdict[int, list[PastRun]] = defaultdict(list)
    for portion in portions(step_ids):
        for step_id, reason, iterations_done in session.execute(_PAST, {"ids": portion}):
            found[step_id].append(PastRun(reason, iterations_done))
    return {step_id: tuple(past) for step_id, past in found.items()}


_PAST = (
    select(runs.c.step_id, runs.c.end_reason, runs.c.iterations_done)
    .join(steps, steps.c.id == runs.c.step_id)
    .where(one_of_ids(runs.c.step_id), runs.c.end_reason.is_not(None))
    .where(runs.c.attempt > steps.c.forgiven)
    .order_by(runs.c.step_id, runs.c.attempt)
)
