"""Runs with what they cost: the lines of receipts and of the history."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ColumnElement, select

from scsched.db import money
from scsched.db.batches import portions
from scsched.db.models import charges, nodes, runs, steps, workflows
from scsched.db.money import Interval
from scsched.db.session import Session
from scsched.db.views import PastRun, Receipt, RunView
from scsched.steps.errors import NotFound


def runs_of(
    session: Session,
    now: datetime,
    *,
    workflow_id: int | None = None,
    step_id: int | None = None,
) -> list[RunView]:
    """The runs of a step or of a workflow, oldest first."""
    if step_id is not None:
        rows = session.execute(_RUNS.where(runs.c.step_id == step_id).order_by(runs.c.id)).all()
        paid = _paid_by_runs(session, [row.id for row in rows])
    else:
        one = runs.c.workflow_id == workflow_id
        rows = session.execute(_RUNS.where(one).order_by(runs.c.id)).all()
        paid = _paid(session, charges.c.workflow_id == workflow_id)
    return [_run_view(row, paid[row.id], now) for row in rows]


def receipt(session: Session, workflow_id: int, now: datetime) -> Receipt:
    """What the workflow has cost until `now`.

    :raises NotFound: no such workflow.
    """
    owner = session.execute(
        select(workflows.c.submitted_at, workflows.c.ended_at).where(workflows.c.id == workflow_id)
    ).one_or_none()
    if owner is None:
        raise NotFound(f"no workflow {workflow_id}", hint="scsched hist lists past ones")
    lines = runs_of(session, now, workflow_id=workflow_id)
    paid = session.execute(
        _CHARGES.add_columns(nodes.c.up_at)
        .join(nodes, nodes.c.id == charges.c.node_id)
        .where(charges.c.workflow_id == workflow_id)
    ).all()
    free = [row for row in paid if row.run_id is None]
    boot, idle, boot_free = _booting(paid), _idle(free), _booting(free)
    return Receipt(
        workflow_id=workflow_id,
        lines=tuple(lines),
        boot_usd=money.usd(boot, now),
        boot_hours=money.hours(boot, now),
        boot_without_run_usd=money.usd(boot_free, now),
        boot_without_run_hours=money.hours(boot_free, now),
        idle_usd=money.usd(idle, now),
        idle_hours=money.hours(idle, now),
        total_usd=money.usd(_intervals(paid), now),
        total_hours=money.hours(_intervals(paid), now),
        lost_iterations=sum(line.iterations_lost for line in lines),
        wall_s=((owner.ended_at or now) - owner.submitted_at).total_seconds(),
    )


def hist(
    session: Session,
    now: datetime,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    uid: int | None = None,
    limit: int = 100,
) -> list[PastRun]:
    """Runs that started in [since, until), newest first."""
    which: list[ColumnElement[bool]] = []
    if since is not None:
        which.append(runs.c.started_at >= since)
    if until is not None:
        which.append(runs.c.started_at < until)
    if uid is not None:
        which.append(workflows.c.uid == uid)
    query = (
        _RUNS.add_columns(workflows.c.name, workflows.c.uid, workflows.c.username)
        .join(workflows, workflows.c.id == runs.c.workflow_id)
        .where(*which)
        .order_by(runs.c.started_at.desc(), runs.c.id.desc())
        .limit(limit)
    )
    rows = session.execute(query).all()
    paid = _paid_by_runs(session, [row.id for row in rows])
    return [
        PastRun(row.name, row.uid, row.username, _run_view(row, paid[row.id], now)) for row in rows
    ]


def run_usd(views: Iterable[RunView]) -> Decimal:
    return sum((view.usd for view in views), Decimal(0))


_RUNS = select(
    runs.c.id,
    runs.c.workflow_id,
    runs.c.step_id,
    steps.c.ref.label("step"),
    steps.c.label,
    steps.c.protocol,
    runs.c.attempt,
    runs.c.epoch,
    steps.c.state,
    runs.c.pool,
    runs.c.market,
    runs.c.layout,
    runs.c.started_at,
    runs.c.running_at,
    runs.c.ended_at,
    runs.c.end_reason,
    runs.c.exit_code,
    runs.c.signal,
    runs.c.detail,
    runs.c.resumed_from,
    runs.c.iterations_done,
    runs.c.iterations_lost,
    runs.c.progress,
    runs.c.stop_reason,
).join(steps, steps.c.id == runs.c.step_id)
_FIELDS = tuple(column.name for column in _RUNS.selected_columns)
_CHARGES = select(
    charges.c.run_id, charges.c.node_id, charges.c.started_at, charges.c.ended_at,
    charges.c.usd_per_hour,
)  # fmt: skip


def _paid_by_runs(session: Session, run_ids: Sequence[int]) -> Mapping[int, list[Any]]:
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for ids in portions(run_ids):
        found.update(_paid(session, charges.c.run_id.in_(ids)))
    return found


def _paid(session: Session, which: ColumnElement[bool]) -> Mapping[int, list[Any]]:
    """The charges of each run."""
    found: defaultdict[int, list[Any]] = defaultdict(list)
    for row in session.execute(_CHARGES.where(which, charges.c.run_id.is_not(None))):
        found[row.run_id].append(row)
    return found


def _intervals(rows: Iterable[Any]) -> list[Interval]:
    return [Interval(row.started_at, row.ended_at, row.usd_per_hour) for row in rows]


def _booting(rows: Iterable[Any]) -> list[Interval]:
    """The part of each charge before its node answered."""
    return [
        Interval(row.started_at, _earlier(row.ended_at, row.up_at), row.usd_per_hour)
        for row in rows
        if row.up_at is None or row.started_at < row.up_at
    ]


def _idle(rows: Iterable[Any]) -> list[Interval]:
    """The part of each charge since its node answered."""
    return [
        Interval(max(row.started_at, row.up_at), row.ended_at, row.usd_per_hour)
        for row in rows
        if row.up_at is not None
    ]


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _run_view(row: Any, paid: Sequence[Any], now: datetime) -> RunView:
    values = {name: getattr(row, name) for name in _FIELDS}
    intervals = _intervals(paid)
    return RunView(
        **{**values, "state": row.end_reason or row.state},
        nodes=len({charge.node_id for charge in paid}),
        hours=money.hours(intervals, now),
        usd=money.usd(intervals, now),
    )
