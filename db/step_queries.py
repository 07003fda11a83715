"""The steps of a workflow, with what they wait for."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select

from scsched.db import demand as demands
from scsched.db.models import step_parents, steps, workflows
from scsched.db.receipts import run_usd, runs_of
from scsched.db.session import Session
from scsched.db.views import RunView, StepView
from scsched.steps.state import StepState

_NEVER = (StepState.FAILED, StepState.CANCELLED)


def steps_of(
    session: Session, workflow_id: int, now: datetime, refs: Collection[str] | None = None
) -> list[StepView]:
    """Steps in the order of the workflow: all, or those of these refs."""
    rows = session.execute(_STEPS.where(steps.c.workflow_id == workflow_id)).all()
    parents = _parents(session, workflow_id)
    stuck = _stuck(rows, parents)
    runs = _runs_by_step(runs_of(session, now, workflow_id=workflow_id))
    by_id = {row.id: row for row in rows}
    return [
        _view(row, [by_id[p] for p in parents[row.id]], row.id in stuck, runs[row.id], now)
        for row in rows
        if refs is None or row.ref in refs
    ]


_STEPS = (
    select(steps, workflows.c.held.label("workflow_held"))
    .join(workflows, workflows.c.id == steps.c.workflow_id)
    .order_by(steps.c.position)
)


def _parents(session: Session, workflow_id: int) -> Mapping[int, list[int]]:
    found: defaultdict[int, list[int]] = defaultdict(list)
    rows = session.execute(
        select(step_parents.c.step_id, step_parents.c.parent_id)
        .join(steps, steps.c.id == step_parents.c.step_id)
        .where(steps.c.workflow_id == workflow_id)
        .order_by(step_parents.c.parent_id)
    )
    for step_id, parent_id in rows:
        found[step_id].append(parent_id)
    return found


def _stuck(rows: Iterable[Any], parents: Mapping[int, Sequence[int]]) -> set[int]:
    """Steps that need, directly or not, one that failed or was cancelled."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for step_id, needed in parents.items():
        for parent_id in needed:
            children[parent_id].append(step_id)
    stuck: set[int] = set()
    todo = [row.id for row in rows if row.state in _NEVER]
    while todo:
        for child in children[todo.pop()]:
            if child not in stuck:
                stuck.add(child)
                todo.append(child)
    return stuck


def _runs_by_step(views: Iterable[RunView]) -> Mapping[int, list[RunView]]:
    found: defaultdict[int, list[RunView]] = defaultdict(list)
    for view in views:
        found[view.step_id].append(view)
    return found


def _view(
    row: Any, parents: Iterable[Any], stuck: bool, runs: Sequence[RunView], now: datetime
) -> StepView:
    return StepView(
        **{**row._mapping, "demand": demands.from_json(row.demand)},
        parents={parent.ref: parent.state for parent in parents},
        stuck=stuck and row.state is StepState.PENDING,
        last_run=runs[-1] if runs else None,
        run_s=sum(((run.ended_at or now) - run.started_at).total_seconds() for run in runs),
        usd=run_usd(runs),
    )
