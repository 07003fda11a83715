"""Which steps will want nodes soon: what idle nodes are kept for."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import and_, exists, or_, select

from scsched.db import demand as demands
from scsched.db.batches import portions
from scsched.db.models import GATE_PASSED, Exact, Market, step_parents, steps, workflows
from scsched.db.session import Session
from scsched.steps.spec import Demand, ResourceClass
from scsched.steps.state import ACTIVE, TERMINAL, StepState


@dataclass(frozen=True, slots=True)
class Soon:
    """A step that waits for nothing but nodes, time, or steps that run or could run now."""

    step_id: int
    workflow_id: int
    protocol: str
    resource_class: ResourceClass
    demand: Demand
    long_lived: bool
    allow_spot: bool
    larger: bool
    market: Market
    exact: Exact


def soon(session: Session, workflow_ids: Iterable[int]) -> list[Soon]:
    """Of these workflows; nothing that a person holds back, or behind what a person holds back."""
    found: list[Soon] = []
    for ids in portions(workflow_ids):
        for row in session.execute(_SOON.where(steps.c.workflow_id.in_(ids))):
            found.append(Soon(**{**row._mapping, "demand": demands.from_json(row.demand)}))
    return found


def unfinished(session: Session, step_ids: Iterable[int]) -> frozenset[int]:
    """Those of these steps that may still want a node."""
    query = select(steps.c.id).where(steps.c.state.not_in(sorted(TERMINAL)))
    return frozenset(
        step_id
        for ids in portions(step_ids)
        for step_id in session.scalars(query.where(steps.c.id.in_(ids)))
    )


_parent = steps.alias("parent")
_MOVING = or_(
    _parent.c.state.in_(sorted(ACTIVE | {StepState.COMPLETED})),
    and_(
        _parent.c.state == StepState.PENDING,
        _parent.c.unmet == 0,
        ~_parent.c.held,
        or_(_parent.c.gate == "", _parent.c.gate_open),
    ),
)
"""A parent that is done, runs, or could run now."""
_WAITS_FOR_LONG = exists().where(
    step_parents.c.step_id == steps.c.id, _parent.c.id == step_parents.c.parent_id, ~_MOVING
)
_SOON = (
    select(
        steps.c.id.label("step_id"),
        steps.c.workflow_id,
        steps.c.protocol,
        steps.c.resource_class,
        steps.c.demand,
        steps.c.long_lived,
        steps.c.allow_spot,
        steps.c.larger,
        workflows.c.market,
        workflows.c.exact,
    )
    .join(workflows, workflows.c.id == steps.c.workflow_id)
    .where(steps.c.state == StepState.PENDING, ~steps.c.held, ~workflows.c.held, GATE_PASSED)
    .where(or_(steps.c.unmet == 0, ~_WAITS_FOR_LONG))
)
