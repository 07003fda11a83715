"""The only statements that change a step's state.

Each is one guarded UPDATE ("these steps, if they are in a state that allows it") followed by its
events, in the caller's transaction. `move` is for who must know that all steps moved, `advance`
for who takes those that did.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from types import MappingProxyType
from typing import Any, NoReturn

from sqlalchemy import ColumnElement, Update, bindparam, exists, func, select, update

from scsched.db.batches import epoch_parameters, one_of_ids, portions, under_epoch
from scsched.db.events import event, record
from scsched.db.models import runs, step_parents, steps
from scsched.db.session import Session
from scsched.steps.errors import StaleStep
from scsched.steps.state import ACTIVE, TERMINAL, TRANSITIONS, StepState, sources


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A kind of move: to `target`, from all states that allow it or `only_from` some of them, if
    `also` holds; with `sets`, columns and what SQL makes of them."""

    target: StepState
    only_from: frozenset[StepState] = frozenset(StepState)
    also: tuple[ColumnElement[bool], ...] = ()
    sets: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)


TO: Mapping[StepState, Rule] = {target: Rule(target) for target in TRANSITIONS}


@dataclass(frozen=True, slots=True)
class Moved:
    """A step that changed its state."""

    step_id: int
    workflow_id: int
    epoch: int
    attempts: int


def move(
    session: Session,
    step_ids: Iterable[int] | Mapping[int, int],
    target: StepState,
    now: datetime,
    why: str,
    actor_uid: int | None = None,
    **values: object,
) -> list[Moved]:
    """Move all of these steps to `target`; with a mapping, each under the epoch given for it.

    :raises StaleStep: one of them is in another state or epoch. The whole transaction is undone.
    """
    keys: list[Any] = list(step_ids.items() if isinstance(step_ids, Mapping) else step_ids)
    moved = advance(session, TO[target], keys, now, why, actor_uid=actor_uid, values=values)
    missing = set(step_ids) - {step.step_id for step in moved}
    if missing:
        _refuse(session, min(missing), target)
    return moved


def advance(
    session: Session,
    rule: Rule,
    steps_or_pairs: Sequence[Any],
    now: datetime,
    why: str | Mapping[int, str],
    *,
    actor_uid: int | None = None,
    run_of: Mapping[int, int] | None = None,
    values: Mapping[str, object] = MappingProxyType({}),
) -> list[Moved]:
    """Move those of these steps that the rule lets move, and give them.

    Steps are named by id, or by (id, epoch). `why` may differ by step; `run_of` names the run
    that each event is about.
    """
    by_epoch = bool(steps_or_pairs) and isinstance(steps_or_pairs[0], tuple)
    statement = _statement(rule, by_epoch, tuple(sorted(values)))
    given = {f"new_{name}": value for name, value in values.items()}
    moved: list[Moved] = []
    for portion in portions(steps_or_pairs):
        keys = epoch_parameters(portion) if by_epoch else {"ids": portion}
        rows = session.execute(statement, {**given, **keys, "now": now})
        moved.extend(Moved(*row) for row in rows)
    if rule.target is StepState.COMPLETED:
        _met(session, [step.step_id for step in moved])
    told = [
        event(
            rule.target.lower(),
            why if isinstance(why, str) else why[step.step_id],
            workflow_id=step.workflow_id,
            step_id=step.step_id,
            run_id=run_of.get(step.step_id) if run_of else None,
            epoch=step.epoch,
            actor_uid=actor_uid,
        )
        for step in moved
    ]
    record(session, now, told)
    return moved


def undo(session: Session, error: StaleStep) -> NoReturn:
    """Undo the whole transaction, so that nothing of a refused batch stays, and raise."""
    session.rollback()
    raise error


@cache
def _statement(rule: Rule, by_epoch: bool, names: tuple[str, ...]) -> Update:
    these = under_epoch(steps.c.id, steps.c.epoch) if by_epoch else one_of_ids(steps.c.id)
    allowed = sorted(sources(rule.target) & rule.only_from)
    ended_at = NOW if rule.target in TERMINAL else None
    given = {name: bindparam(f"new_{name}", type_=steps.c[name].type) for name in names}
    return (
        update(steps)
        .where(these, steps.c.state.in_(allowed), *rule.also, *_no_open_run(rule.target))
        .values({"state": rule.target, "ended_at": ended_at, **rule.sets, **given})
        .returning(steps.c.id, steps.c.workflow_id, steps.c.epoch, steps.c.attempts)
    )


NOW: ColumnElement[datetime] = bindparam("now", type_=steps.c.ended_at.type)


def _no_open_run(target: StepState) -> list[ColumnElement[bool]]:
    """A step leaves the active states only after its run was closed."""
    if target in ACTIVE:
        return []
    return [~exists().where(runs.c.step_id == steps.c.id, runs.c.ended_at.is_(None))]


def _refuse(session: Session, step_id: int, target: StepState) -> NoReturn:
    row = session.execute(
        select(steps.c.state, steps.c.epoch).where(steps.c.id == step_id)
    ).one_or_none()
    found = f"{row.state} under epoch {row.epoch}" if row else "unknown"
    undo(session, StaleStep(step_id, target, found))


_COMPLETED_PARENT = one_of_ids(step_parents.c.parent_id)
_PARENT_COMPLETED = (
    update(steps)
    .where(steps.c.id.in_(select(step_parents.c.step_id).where(_COMPLETED_PARENT)))
    .values(
        unmet=steps.c.unmet
        - select(func.count())
        .where(step_parents.c.step_id == steps.c.id, _COMPLETED_PARENT)
        .scalar_subquery()
    )
)


def _met(session: Session, parent_ids: Sequence[int]) -> None:
    """The children of these steps wait for as many fewer."""
    for portion in portions(parent_ids):
        session.execute(_PARENT_COMPLETED, {"ids": portion})
