"""Lines of the queue: what each workflow is doing, in six queries whatever their number."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select

from scsched.db.batches import portions
from scsched.db.models import GATE_PASSED, LIVE_STEPS, charges, nodes, runs, steps, workflows
from scsched.db.money import Interval, usd
from scsched.db.session import Session
from scsched.db.views import CurrentStep, WorkflowView
from scsched.steps.errors import NotFound
from scsched.steps.state import ACTIVE, StepState


def workflow_rows(
    session: Session,
    now: datetime,
    *,
    uid: int | None = None,
    live: bool = False,
    ids: Sequence[int] | None = None,
    limit: int = 1000,
) -> list[WorkflowView]:
    """Lines of the queue, newest first: one user's or all, only live ones, only these."""
    which: list[ColumnElement[bool]] = []
    if uid is not None:
        which.append(workflows.c.uid == uid)
    if live:
        which.append(workflows.c.ended_at.is_(None))
    if ids is not None:
        which.append(workflows.c.id.in_(ids))
    found = session.execute(
        _WORKFLOWS.where(*which).order_by(workflows.c.id.desc()).limit(limit)
    ).all()
    keys = [row.id for row in found]
    counts, started = _counts(session, keys)
    active = _active(session, keys)
    waiting = _waiting(session, keys)
    front = _front(session, [found[0].first_id for found in waiting.values()])
    paid = _paid(session, keys)
    return [
        _workflow_view(
            row,
            counts[row.id],
            started.get(row.id),
            active[row.id],
            waiting[row.id],
            front,
            paid[row.id],
            now,
        )
        for row in found
    ]


def workflow(session: Session, workflow_id: int, now: datetime) -> WorkflowView:
    """:raises NotFound: no such workflow."""
    found = workflow_rows(session, now, ids=[workflow_id])
    if not found:
        raise NotFound(f"no workflow {workflow_id}", hint="scsched queue lists them")
    return found[0]


_WORKFLOWS = select(
    workflows.c.id,
    workflows.c.name,
    workflows.c.uid,
    workflows.c.username,
    workflows.c.project,
    workflows.c.filename,
    workflows.c.market,
    workflows.c.exact,
    workflows.c.priority,
    workflows.c.held,
    workflows.c.tags,
    workflows.c.play_spot,
    workflows.c.submitted_at,
    workflows.c.ended_at,
    workflows.c.outcome,
)
_CURRENT = (
    select(
        steps.c.workflow_id,
        steps.c.id,
        steps.c.ref,
        steps.c.label,
        steps.c.state,
        steps.c.held,
        steps.c.gate,
        steps.c.gate_open,
        steps.c.not_before,
        steps.c.allow_spot,
        runs.c.progress,
        runs.c.stop_reason,
        runs.c.pool,
    )
    .outerjoin(runs, and_(runs.c.step_id == steps.c.id, runs.c.ended_at.is_(None)))
    .order_by(steps.c.position)
)
_ORDER = (StepState.COMPLETING, StepState.RUNNING, StepState.CONFIGURING, StepState.PENDING)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """PENDING steps of a workflow that wait for no other step, and for the same thing."""

    held: bool
    passed: bool
    """No gate before them, or an open one."""
    first_id: int


_WAITING = (
    select(
        steps.c.workflow_id,
        steps.c.held,
        GATE_PASSED.label("passed"),
        func.min(steps.c.id).label("first_id"),
    )
    .where(LIVE_STEPS, steps.c.state == StepState.PENDING, steps.c.unmet == 0)
    .group_by(steps.c.workflow_id, steps.c.held, GATE_PASSED)
)


def _counts(
    session: Session, keys: Sequence[int]
) -> tuple[Mapping[int, dict[StepState, int]], dict[int, datetime]]:
    """How many steps are in each state, and when the first one started."""
    counts: defaultdict[int, dict[StepState, int]] = defaultdict(dict)
    started: dict[int, datetime] = {}
    query = select(
        steps.c.workflow_id,
        steps.c.state,
        func.count().label("number"),
        func.min(steps.c.started_at).label("first"),
    ).group_by(steps.c.workflow_id, steps.c.state)
    for ids in portions(keys):
        for row in session.execute(query.where(steps.c.workflow_id.in_(ids))):
            counts[row.workflow_id][row.state] = row.number
            if row.first is not None:
                started[row.workflow_id] = min(started.get(row.workflow_id, row.first), row.first)
    return counts, started


def _active(session: Session, keys: Sequence[int]) -> Mapping[int, list[CurrentStep]]:
    found: defaultdict[int, list[CurrentStep]] = defaultdict(list)
    query = _CURRENT.where(LIVE_STEPS, steps.c.state.in_(sorted(ACTIVE)))
    for ids in portions(keys):
        for row in session.execute(query.where(steps.c.workflow_id.in_(ids))):
            workflow_id, *values = row
            found[workflow_id].append(CurrentStep(*values))
    return found


def _waiting(session: Session, keys: Sequence[int]) -> Mapping[int, list[_Waiting]]:
    """Of each workflow; first those that wait for nobody, then at a gate, then held ones."""
    found: defaultdict[int, list[_Waiting]] = defaultdict(list)
    for ids in portions(keys):
        for row in session.execute(_WAITING.where(steps.c.workflow_id.in_(ids))):
            found[row.workflow_id].append(_Waiting(row.held, bool(row.passed), row.first_id))
    for kinds in found.values():
        kinds.sort(key=lambda kind: (kind.held, not kind.passed))
    return found


def _front(session: Session, step_ids: Iterable[int]) -> dict[int, CurrentStep]:
    found: dict[int, CurrentStep] = {}
    for ids in portions(step_ids):
        for row in session.execute(_CURRENT.where(steps.c.id.in_(ids))):
            _, *values = row
            found[values[0]] = CurrentStep(*values)
    return found


def _paid(session: Session, keys: Sequence[int]) -> Mapping[int, list[Any]]:
    """The charges of each workflow: they partition the lives of its nodes. A node that lives has
    an open one."""
    found: defaultdict[int, list[Any]] = defaultdict(list)
    query = select(
        charges.c.workflow_id, nodes.c.pool, charges.c.started_at, charges.c.ended_at,
        charges.c.usd_per_hour,
    ).join(nodes, nodes.c.id == charges.c.node_id).order_by(charges.c.node_id)  # fmt: skip
    for ids in portions(keys):
        for row in session.execute(query.where(charges.c.workflow_id.in_(ids))):
            found[row.workflow_id].append(row)
    return found


def _workflow_view(
    row: Any,
    counts: Mapping[StepState, int],
    started: datetime | None,
    active: Sequence[CurrentStep],
    waiting: Sequence[_Waiting],
    front: Mapping[int, CurrentStep],
    paid: Sequence[Any],
    now: datetime,
) -> WorkflowView:
    first = min(active, key=lambda step: _ORDER.index(step.state), default=None)
    if first is None and waiting:
        first = front[waiting[0].first_id]
    up = [charge for charge in paid if charge.ended_at is None]
    intervals = [Interval(one.started_at, one.ended_at, one.usd_per_hour) for one in paid]
    values = {**row._mapping}
    outcome = values.pop("outcome")
    return WorkflowView(
        **values,
        state=str(outcome) if outcome else _state(row.held, active, waiting),
        started_at=started,
        steps_total=sum(counts.values()),
        steps_done=counts.get(StepState.COMPLETED, 0),
        steps_failed=counts.get(StepState.FAILED, 0),
        steps_active=sum(counts.get(state, 0) for state in ACTIVE),
        now=first,
        pool=(first.pool if first else None) or (up[0].pool if up else None),
        nodes=len(up),
        run_s=((row.ended_at or now) - started).total_seconds() if started else 0.0,
        usd=usd(intervals, now),
    )


def _state(held: bool, active: Sequence[CurrentStep], waiting: Sequence[_Waiting]) -> str:
    if active:
        return "RUNNING"
    if held or (waiting and waiting[0].held):
        return "HELD"
    return "ATTENTION" if waiting and not waiting[0].passed else "PENDING"
