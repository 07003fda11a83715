"""Asking for the end of runs; their drivers do it and report."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, or_, select, update

from scsched.db.batches import portions
from scsched.db.events import EventRow, event, record
from scsched.db.models import runs
from scsched.db.session import Session
from scsched.steps.state import EndReason


def ask_stop(
    session: Session,
    run_ids: Iterable[int],
    reason: EndReason,
    now: datetime,
    *,
    actor_uid: int | None = None,
    why: str = "",
) -> frozenset[int]:
    """Let the drivers stop these runs for this reason. A cancellation overrides any other reason;
    else the first stands. Gives the runs newly asked."""
    asked = (
        _stop(session, runs.c.id.in_(ids), reason, now, actor_uid, why) for ids in portions(run_ids)
    )
    return frozenset().union(*asked)


def stop_after(session: Session, run_id: int, iteration: int, why: str, now: datetime) -> bool:
    """Let the driver stop this run as soon as that iteration is certified. False: it has ended, is
    to stop at once, or is to stop no later than that."""
    asked = session.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.ended_at.is_(None), runs.c.stop_reason.is_(None))
        .where(or_(runs.c.stop_after.is_(None), runs.c.stop_after > iteration))
        .values(stop_after=iteration)
        .returning(*_ASKED)
    ).all()
    told = f"asked to stop after iteration {iteration}: {why}"
    record(session, now, [_told(run, "stop_after_asked", told) for run in asked])
    return bool(asked)


def let_run(session: Session, run_id: int, why: str, now: datetime) -> None:
    """Nothing is asked of this run; the event says why."""
    found = session.execute(select(*_ASKED).where(runs.c.id == run_id, runs.c.ended_at.is_(None)))
    record(session, now, [_told(run, "let_run", why) for run in found])


def stop_steps(
    session: Session,
    step_ids: Iterable[int],
    reason: EndReason,
    now: datetime,
    *,
    actor_uid: int | None = None,
) -> frozenset[int]:
    """The same for the open runs of these steps."""
    asked = (
        _stop(session, runs.c.step_id.in_(ids), reason, now, actor_uid, "")
        for ids in portions(step_ids)
    )
    return frozenset().union(*asked)


def _stop(
    session: Session,
    which: ColumnElement[bool],
    reason: EndReason,
    now: datetime,
    actor_uid: int | None,
    why: str,
) -> frozenset[int]:
    open_to_it: ColumnElement[bool] = runs.c.stop_reason.is_(None)
    if reason is EndReason.CANCELLED:
        open_to_it = or_(open_to_it, runs.c.stop_reason != reason)
    asked = session.execute(
        update(runs)
        .where(which, runs.c.ended_at.is_(None), open_to_it)
        .values(stop_reason=reason, stop_asked_at=now)
        .returning(*_ASKED)
    ).all()
    told = f"asked to stop: {reason}{why and f': {why}'}"
    record(session, now, [_told(run, "stop_asked", told, actor_uid) for run in asked])
    return frozenset(run.id for run in asked)


_ASKED = (runs.c.id, runs.c.step_id, runs.c.workflow_id, runs.c.epoch)


def _told(run: Any, kind: str, text: str, actor_uid: int | None = None) -> EventRow:
    return event(
        kind,
        text,
        workflow_id=run.workflow_id,
        step_id=run.step_id,
        run_id=run.id,
        epoch=run.epoch,
        actor_uid=actor_uid,
    )
