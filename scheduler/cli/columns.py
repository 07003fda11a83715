"""The columns of every table: what a pipe gets, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from scsched.scheduler.render import Column, Row, duration, iterations, money, resolution
from scsched.steps.errors import UsageError


def _get(name: str) -> Any:
    return lambda row: row.get(name)


def _now(row: Row) -> str:
    now = row.get("now")
    return f"{now['step']} {now['label']}" if now else ""


def _progress(row: Row) -> str:
    progress = row.get("progress") or {}
    done, of = progress.get("iteration"), progress.get("of")
    if done is None:
        return ""
    return f"{done}/{of}" if of else str(done)


def _resolution(row: Row) -> object:
    return (row.get("progress") or {}).get("resolution_a")


def reason(row: Row) -> str:
    """`Resources: 2 of 2 nodes are busy`; also what to do about a gate or a failure."""
    word, text = row.get("reason") or "", row.get("reason_text") or ""
    end = row.get("last_end")
    if not word and not text and end and row.get("state") == "FAILED":
        word, text = end["reason"], next(reversed(end["detail"].strip().splitlines()), "")
    return f"{word}: {text}" if word and text else word or text


def _steps(row: Row) -> str:
    failed = row.get("steps_failed") or 0
    done = f"{row.get('steps_done')}/{row.get('steps_total')}"
    return f"{done} ({failed} failed)" if failed else done


def _step_id(row: Row) -> str:
    found = str(row.get("step"))
    workflow = row.get("workflow")
    return found if workflow is None or "." in found else f"{workflow}.{found}"


def _exit(row: Row) -> object:
    return row.get("exit_code")


def clock(iso: str | None) -> str:
    """The time as the wall shows it: `14:02:11` today, else `2026-11-22 14:02`."""
    if not iso:
        return ""
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(iso).astimezone()
    except ValueError:
        return iso
    today = datetime.now(UTC).astimezone().date()
    return at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M")


def _clock(name: str) -> Any:
    return lambda row: clock(row.get(name))


QUEUE = (
    Column("id", _get("id"), right=True),
    Column("workflow", _get("name"), flexible=True),
    Column("user", _get("user")),
    Column("state", _get("state")),
    Column("steps", lambda r: f"{r['steps_done']}/{r['steps_total']}", cell=_steps),
    Column("now", _now, flexible=True),
    Column(
        "progress", _progress, cell=lambda r: iterations(r.get("progress")), dispensable=True
    ),
    Column(
        "res", _resolution, cell=lambda r: resolution(r.get("progress")), right=True,
        dispensable=True,
    ),
    Column("pool", _get("pool"), dispensable=True),
    Column("nodes", _get("nodes"), right=True),
    Column("run_s", _get("run_s"), title="RUN", cell=lambda r: duration(r["run_s"]), right=True),
    Column("usd", _get("usd"), title="COST", cell=lambda r: money(r["usd"]), right=True),
    Column("reason", reason, flexible=True),
)  # fmt: skip
QUEUE_MORE = (
    Column("uid", _get("uid")),
    Column("market", _get("market")),
    Column("priority", _get("priority"), right=True),
    Column("failed", _get("steps_failed"), right=True),
    Column("submitted", _get("submitted_at"), cell=_clock("submitted_at")),
    Column("ended", _get("ended_at"), cell=_clock("ended_at")),
    Column("tags", lambda r: ",".join(f"{k}={v}" for k, v in sorted(r["tags"].items()))),
)

STEPS = (
    Column("id", _get("id"), right=True),
    Column("label", _get("label"), flexible=True),
    Column("protocol", _get("protocol")),
    Column("class", _get("class")),
    Column("state", _get("state")),
    Column("attempts", _get("attempts"), title="TRY", right=True),
    Column(
        "progress", _progress, cell=lambda r: iterations(r.get("progress")), dispensable=True
    ),
    Column(
        "res", _resolution, cell=lambda r: resolution(r.get("progress")), right=True,
        dispensable=True,
    ),
    Column("pool", _get("pool"), dispensable=True),
    Column("nodes", _get("nodes"), right=True),
    Column("run_s", _get("run_s"), title="RUN", cell=lambda r: duration(r["run_s"]), right=True),
    Column("usd", _get("usd"), title="COST", cell=lambda r: money(r["usd"]), right=True),
    Column("reason", reason, flexible=True),
)  # fmt: skip

RUNS = (
    Column("attempt", _get("attempt"), title="TRY", right=True),
    Column("run", _get("id"), right=True),
    Column("state", _get("state")),
    Column("pool", _get("pool")),
    Column("market", _get("market")),
    Column("nodes", _get("nodes"), right=True),
    Column("ranks", _get("ranks"), right=True),
    Column("threads", _get("threads"), right=True),
    Column("started", _get("started_at"), cell=_clock("started_at")),
    Column("ended", _get("ended_at"), cell=_clock("ended_at")),
    Column("end_reason", _get("end_reason"), title="END"),
    Column("exit_code", _exit, title="EXIT", right=True),
    Column("resumed_from", _get("resumed_from"), title="FROM IT", right=True, dispensable=True),
    Column("iterations_done", _get("iterations_done"), title="ITS", right=True),
    Column("iterations_lost", _get("iterations_lost"), title="LOST", right=True),
    Column("hours", _get("hours"), cell=lambda r: f"{r['hours']:.2f}", right=True),
    Column("usd", _get("usd"), title="COST", cell=lambda r: money(r["usd"]), right=True),
)

HIST = (
    Column("step", _step_id, right=True),
    Column("attempt", _get("attempt"), title="TRY", right=True),
    Column("workflow", _get("workflow_name"), flexible=True),
    Column("protocol", _get("protocol")),
    Column("user", _get("user")),
    *(c for c in RUNS if c.key not in ("attempt", "run", "state", "ranks", "threads")),
    Column("detail", _get("detail"), flexible=True, dispensable=True),
)
HIST_MORE = tuple(c for c in RUNS if c.key in ("run", "state", "ranks", "threads"))

NODES = (
    Column("name", _get("name")),
    Column("pool", _get("pool")),
    Column("provider", _get("provider")),
    Column("type", _get("type"), dispensable=True),
    Column("zone", _get("zone"), dispensable=True),
    Column("provider_id", _get("provider_id"), title="ID THERE", dispensable=True),
    Column("market", _get("market")),
    Column("state", _get("state")),
    Column("cores", _get("cores"), right=True),
    Column("memory_gib", _get("memory_gib"), title="GIB", cell=lambda r: f"{r['memory_gib']:.1f}",
           right=True),
    Column("usd_per_hour", _get("usd_per_hour"), title="$/H",
           cell=lambda r: f"{r['usd_per_hour']:.3f}", right=True),
    Column("workflow", _get("workflow"), right=True),
    Column("run", _get("run"), right=True),
    Column("launched", _get("launched_at"), cell=_clock("launched_at")),
    Column("notice", _get("notice_deadline"), title="TAKEN AT", cell=_clock("notice_deadline"),
           dispensable=True),
    Column("ended", _get("ended_at"), cell=_clock("ended_at"), dispensable=True),
    Column("end_reason", _get("end_reason"), title="END", dispensable=True),
    Column("usd", _get("usd"), title="COST", cell=lambda r: money(r["usd"]), right=True),
)  # fmt: skip

POOLS = (
    Column("pool", _get("pool")),
    Column("provider", _get("provider")),
    Column("market", _get("market")),
    Column("types", lambda r: ",".join(r["types"]), cell=lambda r: ", ".join(r["types"]),
           flexible=True, dispensable=True),
    Column("zones", lambda r: ",".join(r["zones"]), cell=lambda r: ", ".join(r["zones"]),
           flexible=True, dispensable=True),
    Column("up", _get("up"), right=True),
    Column("starting", _get("starting"), right=True),
    Column("idle", _get("idle"), right=True),
    Column("max_nodes", _get("max_nodes"), title="MAX", right=True),
    Column("usd_per_hour", _get("usd_per_hour"), title="$/H",
           cell=lambda r: f"{r['usd_per_hour']:.3f}", right=True),
    Column("classes", lambda r: ",".join(r["classes"]), cell=lambda r: ", ".join(r["classes"])
           or "any"),
    Column("held", _get("held"), flexible=True, dispensable=True),
)  # fmt: skip

DIFFERENCES = (
    Column("kind", _get("kind")),
    Column("node", _get("node")),
    Column("provider", _get("provider")),
    Column("provider_id", _get("provider_id"), title="ID THERE"),
    Column("fixed", _get("fixed"), cell=lambda r: "yes" if r["fixed"] else "no"),
    Column("sentence", _get("sentence"), title="WHAT", flexible=True),
)

PLAN = (
    Column("step", _get("step"), right=True),
    Column("label", _get("label"), flexible=True),
    Column("protocol", _get("protocol")),
    Column("class", _get("class")),
    Column("pool", _get("pool")),
    Column("market", _get("market")),
    Column("nodes", _get("nodes"), right=True),
    Column("ranks", _get("ranks"), right=True),
    Column("threads", _get("threads"), right=True),
    Column("memory_gib", _get("memory_gib"), title="GIB", cell=lambda r: f"{r['memory_gib']:.1f}",
           right=True),
    Column("usd_per_hour", _get("usd_per_hour"), title="$/H",
           cell=lambda r: f"{r['usd_per_hour']:.3f}", right=True),
)  # fmt: skip

RECEIPT = (
    Column("step", _get("step"), right=True),
    Column("label", _get("label"), flexible=True),
    Column("attempt", _get("attempt"), title="TRY", right=True),
    Column("pool", _get("pool")),
    Column("market", _get("market")),
    Column("nodes", _get("nodes"), right=True),
    Column("hours", _get("hours"), cell=lambda r: f"{r['hours']:.3f}", right=True),
    Column("iterations_done", _get("iterations_done"), title="ITS", right=True),
    Column("iterations_lost", _get("iterations_lost"), title="LOST", right=True),
    Column("end_reason", _get("end_reason"), title="END"),
    Column("usd", _get("usd"), title="COST", cell=lambda r: money(r["usd"]), right=True),
)

CONFIG = (
    Column("key", _get("key")),
    Column("value", _get("value")),
    Column("origin", _get("origin")),
)

MOVED = (
    Column("id", lambda r: f"{r['workflow']}.{r['step']}" if r.get("step") else r["workflow"]),
    Column("was", _get("was")),
    Column("now", _get("now")),
)


def chosen(wanted: str, usual: Sequence[Column], more: Iterable[Column] = ()) -> tuple[Column, ...]:
    """The columns of `-o id,state,usd`; the usual ones for an empty word."""
    if not wanted:
        return tuple(usual)
    known = {column.key: column for column in (*usual, *more)}
    names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"-o {unknown[0]}: no such column", hint=f"write any of {', '.join(known)}"
        )
    return tuple(known[name] for name in names)
