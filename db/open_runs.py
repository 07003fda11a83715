"""The runs that are going on, with their nodes: what the desired state of a driver is made of."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import bindparam, select

from scsched.db import demand as demands
from scsched.db import nodes
from scsched.db.models import Market, runs, steps
from scsched.db.session import Session
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import EndReason, StepState


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run without an end, its step, and the nodes given to it (one may have ended by now)."""

    run_id: int
    step_id: int
    workflow_id: int
    ref: str
    label: str
    protocol: str
    resource_class: ResourceClass
    resume: Resume
    long_lived: bool
    demand: Demand
    object_id: int | None
    job_dir: str | None
    state: StepState
    attempt: int
    epoch: int
    token: str
    pool: str
    market: Market
    layout: Mapping[str, object]
    started_at: datetime
    running_at: datetime | None
    progress: Mapping[str, object] | None
    stop_reason: EndReason | None
    stop_asked_at: datetime | None
    beat_at: datetime | None
    stop_after: int | None
    """Stop as soon as this iteration is whole: nodes of it are to go, or more are to join."""
    nodes: tuple[nodes.NodeRec, ...]


def open_runs_of(session: Session, workflow_id: int | None = None) -> list[OpenRun]:
    """Of one workflow, or of all; oldest first. Three queries whatever their number."""
    if workflow_id is None:
        rows = session.execute(_OPEN).all()
    else:
        rows = session.execute(_OPEN_OF, {"of_workflow": workflow_id}).all()
    gang: defaultdict[int, list[nodes.NodeRec]] = defaultdict(list)
    for node in nodes.of_runs(session, [row.run_id for row in rows]):
        if node.run_id is not None:
            gang[node.run_id].append(node)
    return [
        OpenRun(
            **{
                **row._mapping,
                "demand": demands.from_json(row.demand),
                "nodes": tuple(gang[row.run_id]),
            }
        )
        for row in rows
    ]


_COLUMNS = (
    runs.c.id.label("run_id"),
    runs.c.step_id,
    runs.c.workflow_id,
    steps.c.ref,
    steps.c.label,
    steps.c.protocol,
    steps.c.resource_class,
    steps.c.resume,
    steps.c.long_lived,
    steps.c.demand,
    steps.c.object_id,
    steps.c.job_dir,
    steps.c.state,
    runs.c.attempt,
    runs.c.epoch,
    runs.c.token,
    runs.c.pool,
    runs.c.market,
    runs.c.layout,
    runs.c.started_at,
    runs.c.running_at,
    runs.c.progress,
    runs.c.stop_reason,
    runs.c.stop_asked_at,
    runs.c.beat_at,
    runs.c.stop_after,
)
_OPEN = (
    select(*_COLUMNS)
    .join(steps, steps.c.id == runs.c.step_id)
    .where(runs.c.ended_at.is_(None))
    .order_by(runs.c.id)
)
_OPEN_OF = _OPEN.where(runs.c.workflow_id == bindparam("of_workflow"))
