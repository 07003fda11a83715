"""What a person may do to steps and workflows. `queue` offers these as its own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Text, and_, case, or_, select, type_coerce, update

from scsched.db.batches import portions
from scsched.db.events import event, record
from scsched.db.models import ELIGIBLE_STEPS, GATE_PASSED, runs, steps, workflows
from scsched.db.moves import Rule, advance
from scsched.db.session import Session
from scsched.db.stops import stop_steps
from scsched.steps.state import TERMINAL, EndReason, StepState


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a step that a person wanted something of; words as the queue has them."""

    step_id: int
    workflow_id: int
    ref: str
    was: str
    now: str


def hold(session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int) -> list[Changed]:
    """Let these steps not start, or not start again. A running one runs on."""
    return _asked(session, step_ids, now, actor_uid, _hold)


def release(
    session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[Changed]:
    """Let held steps start. A step that is not held and waits at its gate passes it."""
    return _asked(session, step_ids, now, actor_uid, _release)


def requeue(
    session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[Changed]:
    """Take the nodes from running steps, which start again from their checkpoints, and let those
    that wait for a time start now."""
    return _asked(session, step_ids, now, actor_uid, _requeue)


def cancel(
    session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[Changed]:
    """Waiting steps end at once; the runs of others are asked to stop."""
    return _asked(session, step_ids, now, actor_uid, _cancel)


def resubmit(
    session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[Changed]:
    """Failed and cancelled steps wait again, and their failures are counted anew."""
    return _asked(session, step_ids, now, actor_uid, _resubmit)


def hold_workflows(
    session: Session, workflow_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[int]:
    """Let none of their steps start; give those not held before."""
    return _flag_workflows(session, workflow_ids, now, actor_uid, held=True)


def release_workflows(
    session: Session, workflow_ids: Iterable[int], now: datetime, actor_uid: int
) -> list[int]:
    """Let their steps start, except those held themselves; give those that were held.
    Gates stay as they are."""
    return _flag_workflows(session, workflow_ids, now, actor_uid, held=False)


_Verb = Callable[[Session, Sequence[int], datetime, int], None]


def _asked(
    session: Session, step_ids: Iterable[int], now: datetime, actor_uid: int, verb: _Verb
) -> list[Changed]:
    ids = list(dict.fromkeys(step_ids))
    was = _words(session, ids)
    for portion in portions(ids):
        verb(session, portion, now, actor_uid)
    became = _words(session, ids)
    return [
        Changed(step_id, row.workflow_id, row.ref, row.word, became[step_id].word)
        for step_id, row in ((step_id, was[step_id]) for step_id in ids if step_id in was)
    ]


def _hold(session: Session, ids: Sequence[int], now: datetime, actor_uid: int) -> None:
    found = and_(steps.c.id.in_(ids), ~steps.c.held, steps.c.state.not_in(sorted(TERMINAL)))
    _flag(session, found, now, "held", "held by a person", actor_uid, held=True)


def _release(session: Session, ids: Sequence[int], now: datetime, actor_uid: int) -> None:
    at_gate = and_(steps.c.id.in_(ids), ELIGIBLE_STEPS, ~GATE_PASSED)
    _flag(
        session, at_gate, now, "gate_opened", "a person passed the gate", actor_uid, gate_open=True
    )
    held = and_(steps.c.id.in_(ids), steps.c.held)
    _flag(session, held, now, "released", "released by a person", actor_uid, held=False)


def _requeue(session: Session, ids: Sequence[int], now: datetime, actor_uid: int) -> None:
    stop_steps(session, ids, EndReason.PREEMPTED, now, actor_uid=actor_uid)
    later = and_(steps.c.id.in_(ids), steps.c.state == StepState.PENDING, steps.c.not_before > now)
    _flag(session, later, now, "requeued", "a person lets it start now", actor_uid, not_before=now)


def _cancel(session: Session, ids: Sequence[int], now: datetime, actor_uid: int) -> None:
    advance(session, _CANCEL, ids, now, "cancelled by a person", actor_uid=actor_uid)
    stop_steps(session, ids, EndReason.CANCELLED, now, actor_uid=actor_uid)


def _resubmit(session: Session, ids: Sequence[int], now: datetime, actor_uid: int) -> None:
    anew = {"not_before": now, "allow_spot": True, "larger": False}
    why = "resubmitted by a person"
    advance(session, _RESUBMIT, ids, now, why, actor_uid=actor_uid, values=anew)


_CANCEL = Rule(StepState.CANCELLED, only_from=frozenset({StepState.PENDING}))
_RESUBMIT = Rule(
    StepState.PENDING,
    only_from=frozenset({StepState.FAILED, StepState.CANCELLED}),
    sets={"forgiven": steps.c.attempts},
)


def _flag(
    session: Session,
    which: ColumnElement[bool],
    now: datetime,
    kind: str,
    text: str,
    actor_uid: int,
    **values: object,
) -> None:
    changed = session.execute(
        update(steps)
        .where(which)
        .values(**values)
        .returning(steps.c.id, steps.c.workflow_id, steps.c.epoch)
    )
    record(session, now, [
        event(kind, text, workflow_id=row.workflow_id, step_id=row.id, epoch=row.epoch,
              actor_uid=actor_uid)
        for row in changed
    ])  # fmt: skip


def _flag_workflows(
    session: Session, ids: Iterable[int], now: datetime, actor_uid: int, *, held: bool
) -> list[int]:
    changed = session.scalars(
        update(workflows)
        .where(workflows.c.id.in_(list(ids)), workflows.c.held.is_(not held))
        .values(held=held)
        .returning(workflows.c.id)
    ).all()
    kind = "held" if held else "released"
    record(session, now, [
        event(kind, f"the workflow was {kind} by a person", workflow_id=workflow_id,
              actor_uid=actor_uid)
        for workflow_id in changed
    ])  # fmt: skip
    return list(changed)


_WORD = case(
    (runs.c.stop_reason.is_not(None), "STOPPING"),
    (and_(steps.c.state == StepState.PENDING, or_(steps.c.held, workflows.c.held)), "HELD"),
    (and_(ELIGIBLE_STEPS, ~GATE_PASSED), "GATE"),
    else_=type_coerce(steps.c.state, Text),
).label("word")


def _words(session: Session, step_ids: Sequence[int]) -> dict[int, Any]:
    query = (
        select(steps.c.id, steps.c.workflow_id, steps.c.ref, _WORD)
        .join(workflows, workflows.c.id == steps.c.workflow_id)
        .outerjoin(runs, and_(runs.c.step_id == steps.c.id, runs.c.ended_at.is_(None)))
    )
    return {
        row.id: row
        for portion in portions(step_ids)
        for row in session.execute(query.where(steps.c.id.in_(portion)))
    }
