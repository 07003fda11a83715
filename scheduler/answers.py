"""Rows as the API gives them: plain JSON values, times in ISO 8601 UTC, dollars as numbers."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

from scsched.db.views import (
    CurrentStep,
    EventView,
    NodeView,
    PastRun,
    Receipt,
    RunView,
    StepView,
    WorkflowView,
)
from scsched.scheduler.audit import Difference, Found
from scsched.scheduler.broker import Unplaceable
from scsched.scheduler.why import LastRun, Means, Standing, Why, configuring, given_up, why
from scsched.steps.state import StepState

Json = dict[str, object]
_PROGRESS = ("iteration", "of", "resolution_a", "seconds_per_iteration")


def workflow(view: WorkflowView, now: datetime, unplaced: Mapping[int, Unplaceable]) -> Json:
    found = _why_current(view, now, unplaced)
    return {
        "id": view.id,
        "name": view.name,
        "user": view.username,
        "uid": view.uid,
        "state": view.state,
        "market": str(view.market),
        "priority": view.priority,
        "steps_total": view.steps_total,
        "steps_done": view.steps_done,
        "steps_failed": view.steps_failed,
        "now": _now(view.now),
        "progress": _progress(view.now.progress if view.now else None),
        "pool": view.pool,
        "nodes": view.nodes,
        "run_s": view.run_s,
        "usd": _usd(view.usd),
        "reason": found.reason if found else None,
        "reason_text": found.sentence if found else None,
        "tags": dict(view.tags),
        "submitted_at": iso(view.submitted_at),
        "ended_at": iso(view.ended_at),
    }


def step(view: StepView, now: datetime, unplaced: Mapping[int, Unplaceable], means: Means) -> Json:
    found = why_step(view, now, unplaced, means)
    last = view.last_run
    active = last is not None and last.ended_at is None
    ended = next((run for run in (last,) if run and run.end_reason), None)
    return {
        "id": view.ref,
        "workflow": view.workflow_id,
        "label": view.label,
        "protocol": view.protocol,
        "class": str(view.resource_class),
        "state": str(view.state),
        "reason": found.reason if found else None,
        "reason_text": found.sentence if found else None,
        "attempts": view.attempts,
        "progress": _progress(last.progress if last else None),
        "run_s": view.run_s,
        "usd": _usd(view.usd),
        "pool": last.pool if last and active else None,
        "nodes": last.nodes if last and active else 0,
        "gate": view.gate,
        "demand": asdict(view.demand) | {"shape": str(view.demand.shape)},
        "parents": list(view.parents),
        "started_at": iso(view.started_at),
        "ended_at": iso(view.ended_at),
        "last_end": {
            "reason": str(ended.end_reason),
            "exit_code": ended.exit_code,
            "detail": ended.detail,
        }
        if ended
        else None,
    }


def run(view: RunView) -> Json:
    return {
        "id": view.id,
        "workflow": view.workflow_id,
        "step": view.step,
        "attempt": view.attempt,
        "state": str(view.state),
        "pool": view.pool,
        "market": str(view.market),
        "nodes": _count(view.layout, "nodes"),
        "ranks": _count(view.layout, "ranks"),
        "threads": _count(view.layout, "threads"),
        "started_at": iso(view.started_at),
        "running_at": iso(view.running_at),
        "ended_at": iso(view.ended_at),
        "end_reason": str(view.end_reason) if view.end_reason else None,
        "exit_code": view.exit_code,
        "detail": view.detail,
        "resumed_from": view.resumed_from,
        "iterations_done": view.iterations_done,
        "iterations_lost": view.iterations_lost,
        "usd": _usd(view.usd),
        "hours": view.hours,
    }


def past_run(past: PastRun) -> Json:
    names = {"workflow_name": past.workflow_name, "user": past.username}
    return run(past.run) | names | {"protocol": past.run.protocol}


def node(view: NodeView) -> Json:
    return {
        "id": view.id,
        "name": view.name,
        "workflow": view.workflow_id,
        "pool": view.pool,
        "provider": view.provider,
        "provider_id": view.provider_id,
        "type": view.kind,
        "zone": view.zone,
        "market": str(view.market),
        "state": str(view.state),
        "cores": view.cores,
        "memory_gib": view.memory_gib,
        "usd_per_hour": _usd(view.usd_per_hour),
        "run": view.run_id,
        "launched_at": iso(view.launched_at),
        "notice_deadline": iso(view.notice_deadline),
        "ended_at": iso(view.ended_at),
        "end_reason": view.end_reason,
        "usd": _usd(view.usd),
    }


def event(view: EventView, names: Mapping[int, str]) -> Json:
    """:param names: user names by uid; an event without an actor is the broker's own."""
    actor = names.get(view.actor_uid) if view.actor_uid is not None else "scsched"
    return {
        "id": view.id,
        "at": iso(view.at),
        "workflow": view.workflow_id,
        "step": view.step,
        "run": view.run_id,
        "node": f"n{view.node_id}" if view.node_id is not None else None,
        "kind": view.kind,
        "actor": actor or str(view.actor_uid),
        "text": view.text,
    }


def receipt(view: Receipt) -> Json:
    return {
        "workflow": view.workflow_id,
        "lines": [_line(line) for line in view.lines],
        "boot_usd": _usd(view.boot_usd),
        "boot_hours": view.boot_hours,
        "boot_without_run_usd": _usd(view.boot_without_run_usd),
        "boot_without_run_hours": view.boot_without_run_hours,
        "idle_usd": _usd(view.idle_usd),
        "idle_hours": view.idle_hours,
        "total_usd": _usd(view.total_usd),
        "total_hours": view.total_hours,
        "lost_iterations": view.lost_iterations,
        "wall_s": view.wall_s,
    }


def audit(found: Found) -> Json:
    return {
        "ok": found.ok,
        "nodes": found.nodes,
        "usd_per_hour": _usd(found.usd_per_hour),
        "unpriced": found.unpriced,
        "items": [_difference(one) for one in found.differences],
    }


def why_step(
    view: StepView, now: datetime, unplaced: Mapping[int, Unplaceable], means: Means
) -> Why | None:
    """None for a step that does not wait, unless its driver made it fail."""
    if view.state is StepState.CONFIGURING and view.id in means.gangs:
        return configuring(means.gangs[view.id], means.driver, now)
    if view.state is StepState.FAILED:
        return given_up(_last(view.last_run), means.driver)
    if view.state is not StepState.PENDING:
        return None
    standing = Standing(
        ref=view.ref,
        workflow_id=view.workflow_id,
        held=view.held,
        workflow_held=view.workflow_held,
        gate=view.gate,
        gate_open=view.gate_open,
        unmet=view.unmet,
        not_before=view.not_before,
        parents=view.parents,
        stuck=view.stuck,
        last=_last(view.last_run),
        driver=means.driver,
    )
    return why(standing, now, unplaced.get(view.id))


def iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z") if at else None


def _why_current(
    view: WorkflowView, now: datetime, unplaced: Mapping[int, Unplaceable]
) -> Why | None:
    current = view.now
    if current is None or current.state is not StepState.PENDING:
        return None
    standing = Standing(
        ref=current.ref,
        workflow_id=view.id,
        held=current.held,
        workflow_held=view.held,
        gate=current.gate,
        gate_open=current.gate_open,
        unmet=0,
        not_before=current.not_before,
        parents={},
    )
    return why(standing, now, unplaced.get(current.id))


def _last(view: RunView | None) -> LastRun | None:
    if view is None or view.end_reason is None:
        return None
    return LastRun(view.end_reason, view.pool, view.detail)


def _now(current: CurrentStep | None) -> Json | None:
    if current is None:
        return None
    return {"step": current.ref, "label": current.label, "state": str(current.state)}


def _progress(progress: Mapping[str, object] | None) -> Json | None:
    if progress is None:
        return None
    return {name: progress.get(name) for name in _PROGRESS}


def _line(view: RunView) -> Json:
    return {
        "step": view.step,
        "label": view.label,
        "attempt": view.attempt,
        "pool": view.pool,
        "market": str(view.market),
        "nodes": view.nodes,
        "hours": view.hours,
        "iterations_done": view.iterations_done,
        "iterations_lost": view.iterations_lost,
        "end_reason": str(view.end_reason) if view.end_reason else None,
        "usd": _usd(view.usd),
    }


def _difference(one: Difference) -> Json:
    return {
        "kind": one.kind,
        "node": one.node.name if one.node else None,
        "provider": one.provider,
        "provider_id": one.seen.provider_id if one.seen else one.node and one.node.provider_id,
        "sentence": one.sentence,
        "fixed": one.fixed,
    }


def _usd(amount: Decimal) -> float:
    return round(float(amount), 6)


def _count(layout: Mapping[str, object], name: str) -> int:
    found = layout.get(name)
    return found if isinstance(found, int) else 1
