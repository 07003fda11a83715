"""Runs that are over: whose the nodes were, and how far the last one of a step came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select

from scsched.db.batches import one_of_ids, portions
from scsched.db.models import runs
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class FormerRun:
    step_id: int
    began: bool
    """Its program was seen to run."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The last word of a step's newest run on how it went, and on what it went."""

    progress: Mapping[str, object]
    layout: Mapping[str, object]


def runs_over(session: Session, run_ids: Iterable[int]) -> dict[int, FormerRun]:
    """Those of these runs that have ended."""
    return {
        run_id: FormerRun(step_id, running_at is not None)
        for ids in portions(sorted(set(run_ids)))
        for run_id, step_id, running_at in session.execute(_OVER, {"ids": ids})
    }


def paces_of(session: Session, step_ids: Iterable[int]) -> dict[int, Pace]:
    """By step, where its newest run that told any progress did."""
    return {
        step_id: Pace(progress, layout)
        for ids in portions(sorted(set(step_ids)))
        for step_id, progress, layout in session.execute(_PACE, {"ids": ids})
    }


_OVER = select(runs.c.id, runs.c.step_id, runs.c.running_at).where(
    one_of_ids(runs.c.id), runs.c.ended_at.is_not(None)
)
_NEWEST = (
    select(func.max(runs.c.id))
    .where(one_of_ids(runs.c.step_id), runs.c.progress.is_not(None))
    .group_by(runs.c.step_id)
)
_PACE = select(runs.c.step_id, runs.c.progress, runs.c.layout).where(runs.c.id.in_(_NEWEST))
