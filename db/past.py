"""How the former runs of steps ended, and whether they got anywhere."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from scsched.db.batches import one_of_ids, portions
from scsched.db.models import runs, steps
from scsched.db.session import Session
from scsched.steps.state import EndReason


@dataclass(frozen=True, slots=True)
class PastRun:
    reason: EndReason
    iterations_done: int
    worked_s: float = 0.0
    """From when its program had started to its end."""


def past_of(session: Session, step_ids: Iterable[int]) -> dict[int, tuple[PastRun, ...]]:
    """Ended runs by step, oldest first, since a person last resubmitted it."""
    found: defaultdict[int, list[PastRun]] = defaultdict(list)
    for portion in portions(step_ids):
        for row in session.execute(_PAST, {"ids": portion}):
            worked_s = worked(row.running_at, row.ended_at)
            found[row.step_id].append(PastRun(row.end_reason, row.iterations_done, worked_s))
    return {step_id: tuple(past) for step_id, past in found.items()}


def worked(running_at: datetime | None, until: datetime) -> float:
    """Seconds at work; 0 for a run whose program never started."""
    return 0.0 if running_at is None else max(0.0, (until - running_at).total_seconds())


_PAST = (
    select(
        runs.c.step_id,
        runs.c.end_reason,
        runs.c.iterations_done,
        runs.c.running_at,
        runs.c.ended_at,
    )
    .join(steps, steps.c.id == runs.c.step_id)
    .where(one_of_ids(runs.c.step_id), runs.c.end_reason.is_not(None))
    .where(runs.c.attempt > steps.c.forgiven)
    .order_by(runs.c.step_id, runs.c.attempt)
)
