"""Asking for the end of runs; their drivers do it and report."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import ColumnElement, or_, update

from scsched.db.batches import portions
from scsched.db.events import event, record
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
) -> frozenset[int]:
    """Let the drivers stop these runs for this reason. A cancellation overrides any other reason;
    else the first stands. Gives the runs newly asked."""
    asked = (
        _stop(session, runs.c.id.in_(ids), reason, now, actor_uid) for ids in portions(run_ids)
    )
    return frozenset().union(*asked)


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
        _stop(session, runs.c.step_id.in_(ids), reason, now, actor_uid)
        for ids in portions(step_ids)
    )
    return frozenset().union(*asked)


def _stop(
    session: Session,
    which: ColumnElement[bool],
    reason: EndReason,
    now: datetime,
    actor_uid: int | None,
) -> frozenset[int]:
    open_to_it: ColumnElement[bool] = runs.c.stop_reason.is_(None)
    if reason is EndReason.CANCELLED:
        open_to_it = or_(open_to_it, runs.c.stop_reason != reason)
    asked = session.execute(
        update(runs)
        .where(which, runs.c.ended_at.is_(None), open_to_it)
        .values(stop_reason=reason, stop_asked_at=now)
        .returning(runs.c.id, runs.c.step_id, runs.c.workflow_id, runs.c.epoch)
    ).all()
    record(
        session,
        now,
        [
            event(
                "stop_asked",
                f"asked to stop: {reason}",
                workflow_id=run.workflow_id,
                step_id=run.step_id,
                run_id=run.id,
                epoch=run.epoch,
                actor_uid=actor_uid,
            )
            for run in asked
        ],
    )
    return frozenset(run.id for run in asked)
