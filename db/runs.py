"""Runs: one attempt of a step on a gang of nodes, from its intent to its one end reason.

    open_runs ──► set_running ──► set_completing ──► end_runs
    (CONFIGURING)   (RUNNING)       (COMPLETING)       then: COMPLETED, FAILED, CANCELLED, PENDING

Whoever reports names the run and its epoch. A report about a run that is closed, or under another
epoch, changes nothing: it comes from somebody who was given up, and who has to stop.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import and_, bindparam, func, insert, select, update

from scsched.db import gangs
from scsched.db.batches import epoch_parameters, portions, under_epoch
from scsched.db.gangs import NewNode as NewNode
from scsched.db.models import Market, runs, steps
from scsched.db.moves import NOW, TO, Moved, Rule, advance
from scsched.db.open_runs import OpenRun as OpenRun
from scsched.db.open_runs import open_runs_of as open_runs_of
from scsched.db.session import Session
from scsched.db.stops import ask_stop as ask_stop
from scsched.steps.state import EndReason, StepState


@dataclass(frozen=True, slots=True)
class NewRun:
    """The intent to run a step that is PENDING under `epoch`. `token` names the attempt."""

    step_id: int
    epoch: int
    pool: str
    market: Market
    layout: Mapping[str, object]
    token: str
    new_nodes: tuple[NewNode, ...] = ()
    reuse_nodes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedRun:
    run_id: int
    step_id: int
    workflow_id: int
    attempt: int
    epoch: int
    node_ids: tuple[int, ...]
    """The new nodes in the order given, then the reused ones."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, and what becomes of its step. None leaves the step's value as it is."""

    run_id: int
    epoch: int
    reason: EndReason
    then: StepState
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""
    iterations_done: int = 0
    iterations_lost: int = 0
    resumed_from: int | None = None
    """The iteration it went on from."""
    not_before: datetime | None = None
    allow_spot: bool | None = None
    larger: bool | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """Which runs were closed now, and which were not open under that epoch any more."""

    closed: tuple[int, ...]
    skipped: tuple[int, ...]


def open_runs(session: Session, new_runs: Sequence[NewRun], now: datetime) -> list[OpenedRun]:
    """Record the intent to run these steps, before any provider hears of it.

    A step that is no longer PENDING and free to start under its epoch is left out of the answer.

    :raises StaleStep: a node to be reused is gone or busy. The whole transaction is undone.
    """
    new_of = {new.step_id: new for new in new_runs}
    pairs = [(new.step_id, new.epoch) for new in new_runs]
    why = {new.step_id: _configuring_text(new) for new in new_runs}
    moved = advance(session, _OPEN, pairs, now, why)
    if not moved:
        return []
    run_ids = _insert_runs(session, [(step, new_of[step.step_id]) for step in moved], now)
    node_ids = gangs.assemble(
        session,
        [gangs.Gang.of(step, run_ids[step.step_id], new_of[step.step_id]) for step in moved],
        now,
    )
    return [
        OpenedRun(
            run_id=run_ids[step.step_id],
            step_id=step.step_id,
            workflow_id=step.workflow_id,
            attempt=step.attempts,
            epoch=step.epoch,
            node_ids=node_ids[run_ids[step.step_id]],
        )
        for step in moved
    ]


def set_running(
    session: Session, reports: Iterable[tuple[int, int]], now: datetime
) -> frozenset[int]:
    """The protocol has started. Gives the runs of (run id, epoch) that are open, now or before."""
    live: set[int] = set()
    for portion in portions(reports):
        rows = session.execute(_SET_RUNNING, {**epoch_parameters(portion), "now": now})
        run_of = {row.step_id: row.id for row in rows}
        live.update(run_of.values())
        _advance_runs(session, run_of, StepState.RUNNING, now, "the protocol started")
    return frozenset(live)


def set_completing(
    session: Session, reports: Iterable[tuple[int, int]], now: datetime
) -> frozenset[int]:
    """The protocol ended well and its outputs are being checked. Gives the open ones, as above."""
    live = set_running(session, reports, now)
    for portion in portions(sorted(live)):
        rows = session.execute(select(runs.c.step_id, runs.c.id).where(runs.c.id.in_(portion)))
        run_of = {row.step_id: row.id for row in rows}
        _advance_runs(session, run_of, StepState.COMPLETING, now, "checking the outputs")
    return frozenset(live)


def end_runs(session: Session, ends: Sequence[RunEnd], now: datetime) -> Ended:
    """Close these runs, move their steps on and free their nodes. Safe to repeat."""
    closed: list[int] = []
    for alike, group in _alike(ends).items():
        rows = _close(session, alike, [(end.run_id, end.epoch) for end in group], now)
        closed.extend(row.id for row in rows)
        _move_on(session, alike, rows, now)
    gangs.free(session, closed, now)
    done = set(closed)
    skipped = tuple(end.run_id for end in ends if end.run_id not in done)
    return Ended(closed=tuple(closed), skipped=skipped)


def progress(
    session: Session, reports: Iterable[tuple[int, int, Mapping[str, object]]], now: datetime
) -> None:
    """Keep the newest (run id, epoch, progress). Reports of closed runs are dropped; no event."""
    rows = [
        {"of_run": run_id, "under": epoch, "new_progress": dict(values), "now": now}
        for run_id, epoch, values in reports
    ]
    if rows:
        session.execute(_PROGRESS, rows)


def _configuring_text(new: NewRun) -> str:
    count = len(new.new_nodes) + len(new.reuse_nodes)
    return f"to run on {count} node{'s' * (count != 1)} of {new.pool} ({new.market})"


def _insert_runs(
    session: Session, opened: Sequence[tuple[Moved, NewRun]], now: datetime
) -> dict[int, int]:
    rows = session.execute(
        _INSERT,
        [
            {
                "step_id": step.step_id,
                "workflow_id": step.workflow_id,
                "attempt": step.attempts,
                "epoch": step.epoch,
                "token": new.token,
                "pool": new.pool,
                "market": new.market,
                "layout": dict(new.layout),
                "started_at": now,
            }
            for step, new in opened
        ],
    )
    return {row.step_id: row.id for row in rows}


def _advance_runs(
    session: Session, run_of: Mapping[int, int], target: StepState, now: datetime, why: str
) -> None:
    if run_of:
        advance(session, TO[target], list(run_of), now, why, run_of=run_of)


def _alike(ends: Iterable[RunEnd]) -> dict[RunEnd, list[RunEnd]]:
    """Runs that ended in the same way, which one statement can close."""
    groups: defaultdict[RunEnd, list[RunEnd]] = defaultdict(list)
    for end in ends:
        groups[replace(end, run_id=0, epoch=0)].append(end)
    return groups


def _close(
    session: Session, end: RunEnd, pairs: Sequence[tuple[int, int]], now: datetime
) -> list[Any]:
    closed: list[Any] = []
    how = {f"new_{name}": getattr(end, field) for name, field in _HOW.items()}
    for portion in portions(pairs):
        rows = session.execute(_CLOSE, {**how, **epoch_parameters(portion), "now": now})
        closed.extend(rows)
    return closed


def _move_on(session: Session, end: RunEnd, closed: Sequence[Any], now: datetime) -> None:
    """The steps of closed runs to `end.then`; a completed one passes the states it skipped."""
    run_of = {row.step_id: row.id for row in closed}
    if end.then is StepState.COMPLETED:
        late = {row.step_id: row.id for row in closed if row.running_at is None}
        _advance_runs(session, late, StepState.RUNNING, now, "the protocol started")
        _advance_runs(session, run_of, StepState.COMPLETING, now, "checking the outputs")
    if not run_of:
        return
    values = {"not_before": end.not_before, "allow_spot": end.allow_spot, "larger": end.larger}
    given: dict[str, object] = {name: value for name, value in values.items() if value is not None}
    why = f"{end.reason}: {end.detail}" if end.detail else str(end.reason)
    advance(session, TO[end.then], list(run_of), now, why, run_of=run_of, values=given)


_OPEN = Rule(
    StepState.CONFIGURING,
    also=(steps.c.unmet == 0, ~steps.c.held),
    sets={
        "epoch": steps.c.epoch + 1,
        "attempts": steps.c.attempts + 1,
        "started_at": func.coalesce(steps.c.started_at, NOW),
    },
)
_INSERT = insert(runs).returning(runs.c.step_id, runs.c.id)
_STILL_OPEN = and_(under_epoch(runs.c.id, runs.c.epoch), runs.c.ended_at.is_(None))
_SET_RUNNING = (
    update(runs)
    .where(_STILL_OPEN)
    .values(running_at=func.coalesce(runs.c.running_at, NOW), beat_at=NOW)
    .returning(runs.c.id, runs.c.step_id)
)
_HOW = {
    "end_reason": "reason",
    "exit_code": "exit_code",
    "signal": "signal",
    "detail": "detail",
    "iterations_done": "iterations_done",
    "iterations_lost": "iterations_lost",
    "resumed_from": "resumed_from",
}
"""Columns that tell how a run ended, and the fields of RunEnd they are from."""
_CLOSE = (
    update(runs)
    .where(_STILL_OPEN)
    .values(ended_at=NOW, **{c: bindparam(f"new_{c}", type_=runs.c[c].type) for c in _HOW})
    .returning(runs.c.id, runs.c.step_id, runs.c.running_at)
)
_PROGRESS = (
    update(runs)
    .where(runs.c.id == bindparam("of_run"), runs.c.epoch == bindparam("under"))
    .where(runs.c.ended_at.is_(None))
    .values(
        progress=bindparam("new_progress", type_=runs.c.progress.type),
        beat_at=bindparam("now", type_=runs.c.beat_at.type),
    )
)
