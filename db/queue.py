"""The queue: which steps could run now, what a person may do to them, when a workflow has ended."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Integer, and_, bindparam, or_, select, update

from scsched.db import demand as demands
from scsched.db.actions import Changed as Changed
from scsched.db.actions import cancel as cancel
from scsched.db.actions import hold as hold
from scsched.db.actions import hold_workflows as hold_workflows
from scsched.db.actions import release as release
from scsched.db.actions import release_workflows as release_workflows
from scsched.db.actions import requeue as requeue
from scsched.db.actions import resubmit as resubmit
from scsched.db.batches import portions
from scsched.db.models import ELIGIBLE_STEPS, GATE_PASSED, Exact, Market, runs, steps, workflows
from scsched.db.moves import Moved as Moved
from scsched.db.moves import move as move
from scsched.db.session import Session
from scsched.db.settle import Settled as Settled
from scsched.db.settle import settle as settle
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import EndReason


@dataclass(frozen=True, slots=True)
class Eligible:
    """A step that could start now. `ends` are its former runs' endings that still count."""

    step_id: int
    workflow_id: int
    ref: str
    label: str
    protocol: str
    resource_class: ResourceClass
    resume: Resume
    long_lived: bool
    demand: Demand
    priority: int
    epoch: int
    attempts: int
    allow_spot: bool
    larger: bool
    uid: int
    username: str
    market: Market
    exact: Exact
    project: str | None
    """Path of its workflow's project, once that is known."""
    ends: tuple[EndReason, ...] = ()


def eligible(
    session: Session, now: datetime, limit: int, after: Eligible | None = None
) -> list[Eligible]:
    """Steps that could start now, most urgent first, then oldest first; the first ones, or those
    behind `after`."""
    if after is None:
        found = session.execute(_ELIGIBLE, {"now": now, "limit": limit}).all()
    else:
        place = {"now": now, "limit": limit, "priority": after.priority, "id": after.step_id}
        found = session.execute(_ELIGIBLE_AFTER, place).all()
    ends = ends_of(session, [row.id for row in found if row.attempts > row.forgiven])
    return [
        Eligible(
            step_id=row.id,
            workflow_id=row.workflow_id,
            ref=row.ref,
            label=row.label,
            protocol=row.protocol,
            resource_class=row.resource_class,
            resume=row.resume,
            long_lived=row.long_lived,
            demand=demands.from_json(row.demand),
            priority=row.priority,
            epoch=row.epoch,
            attempts=row.attempts,
            allow_spot=row.allow_spot,
            larger=row.larger,
            uid=row.uid,
            username=row.username,
            market=row.market,
            exact=row.exact,
            project=row.project,
            ends=ends.get(row.id, ()),
        )
        for row in found
    ]


_ELIGIBLE = (
    select(
        steps.c.id,
        steps.c.workflow_id,
        steps.c.ref,
        steps.c.label,
        steps.c.protocol,
        steps.c.resource_class,
        steps.c.resume,
        steps.c.long_lived,
        steps.c.demand,
        steps.c.priority,
        steps.c.epoch,
        steps.c.attempts,
        steps.c.forgiven,
        steps.c.allow_spot,
        steps.c.larger,
        workflows.c.uid,
        workflows.c.username,
        workflows.c.market,
        workflows.c.exact,
        workflows.c.project,
    )
    .join(workflows, workflows.c.id == steps.c.workflow_id)
    .where(ELIGIBLE_STEPS, ~workflows.c.held, GATE_PASSED)
    .where(steps.c.not_before <= bindparam("now", type_=steps.c.not_before.type))
    .order_by(steps.c.priority.desc(), steps.c.id)
    .limit(bindparam("limit", type_=Integer))
)
_AS_URGENT = and_(
    steps.c.priority == bindparam("priority", type_=Integer),
    steps.c.id > bindparam("id", type_=Integer),
)
_ELIGIBLE_AFTER = _ELIGIBLE.where(
    or_(steps.c.priority < bindparam("priority", type_=Integer), _AS_URGENT)
)


def ends_of(session: Session, step_ids: Sequence[int]) -> dict[int, tuple[EndReason, ...]]:
    """How the former runs of each step ended, oldest first, since a person last resubmitted it."""
    found: defaultdict[int, list[EndReason]] = defaultdict(list)
    for portion in portions(step_ids):
        rows = session.execute(
            select(runs.c.step_id, runs.c.end_reason)
            .join(steps, steps.c.id == runs.c.step_id)
            .where(runs.c.step_id.in_(portion), runs.c.attempt > steps.c.forgiven)
            .where(runs.c.end_reason.is_not(None))
            .order_by(runs.c.step_id, runs.c.attempt)
        )
        for step_id, reason in rows:
            found[step_id].append(reason)
    return {step_id: tuple(reasons) for step_id, reasons in found.items()}


def set_demands(session: Session, demand_of: Mapping[int, Demand]) -> None:
    """Replace what steps need, now that their inputs are known."""
    for step_id, demand in demand_of.items():
        session.execute(
            update(steps).where(steps.c.id == step_id).values(demand=demands.to_json(demand))
        )
