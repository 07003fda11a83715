"""One workflow or one step in full: what `show`, `why` and `receipt` print."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scsched.scheduler.cli import columns
from scsched.scheduler.client import Client
from scsched.scheduler.render import clean, duration, iterations, money, pairs, put, resolution
from scsched.scheduler.render import table as print_table
from scsched.steps.state import ACTIVE, TERMINAL

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema
    from scsched.scheduler.cli.targets import Target

MAX_EXPLAINED = 12
"""Steps of a workflow that `why` explains one by one."""


def workflow_card(item: schema.WorkflowAnswer) -> None:
    pairs(
        [
            ("id", item["id"]),
            ("name", item["name"]),
            ("user", item["user"]),
            ("state", item["state"]),
            ("steps", _steps_done(item)),
            ("reason", columns.reason(item)),
            ("market", item["market"]),
            ("priority", item["priority"]),
            ("tags", ", ".join(f"{k}={v}" for k, v in sorted(item["tags"].items()))),
            ("project", item["project"]),
            ("submitted", _time(item["submitted_at"])),
            ("ended", _time(item["ended_at"])),
            ("ran", _span(item["run_s"])),
            ("cost", _usd(item["usd"])),
        ]
    )
    put("")
    print_table(columns.STEPS, item["steps"])


def step_card(item: schema.StepAnswer) -> None:
    pairs(
        [
            ("id", f"{item['workflow']}.{item['id']}"),
            ("label", item["label"]),
            ("protocol", item["protocol"]),
            ("class", item["class"]),
            ("state", item["state"]),
            ("reason", columns.reason(item)),
            ("gate", item["gate"]),
            ("needs", _demand(item["demand"])),
            ("after steps", ", ".join(item["parents"])),
            ("progress", _progress(item)),
            ("started", _time(item["started_at"])),
            ("ended", _time(item["ended_at"])),
            ("cost", _usd(item["usd"])),
            ("directory", item["paths"]["job_dir"]),
        ]
    )
    if item["runs"]:
        put("")
        print_table(columns.RUNS, item["runs"])
    _last_end(item)
    _events(item["events"])


def why(client: Client, target: Target) -> list[tuple[str, str, schema.Why]]:
    """(selector, state, why) of the step, or of the workflow's steps that matter most now."""
    if target.step:
        item = client.step(target.workflow, target.step)
        return [(str(target), item["state"], item["why"])]
    workflow = client.workflow(target.workflow)
    steps = _telling(workflow["steps"])
    if not steps or workflow["state"] == "HELD":
        return [(str(target), workflow["state"], _whole(workflow))]
    answers = [client.step(target.workflow, step["id"]) for step in steps[:MAX_EXPLAINED]]
    return [(f"{target}.{a['id']} {clean(a['label'])}", a["state"], a["why"]) for a in answers]


def receipt(answer: schema.ReceiptAnswer) -> None:
    """Lines, then what no line has, then the total of both."""
    print_table(columns.RECEIPT, answer["lines"])
    put("")
    pairs(
        [
            ("workflow", answer["workflow"]),
            ("wall time", _span(answer["wall_s"])),
            ("node hours", _hours(answer["total_hours"])),
            ("of these booting", _hours(answer["boot_hours"])),
            ("of these idle", _hours(answer["idle_hours"])),
            ("iterations lost", str(answer["lost_iterations"])),
            ("boot cost, in lines", _usd(answer["boot_usd"] - answer["boot_without_run_usd"])),
            ("boot cost, no run", _usd(answer["boot_without_run_usd"])),
            ("idle cost", _usd(answer["idle_usd"])),
            ("total cost", _usd(answer["total_usd"])),
        ]
    )


def _telling(steps: Sequence[schema.Step]) -> list[schema.Step]:
    """Failures, gates and what runs; else what waits for more than its parents; else those."""
    ranks = [
        [s for s in steps if s["state"] == "FAILED" or s["reason"] == "Interactive"]
        + [s for s in steps if s["state"] in ACTIVE],
        [s for s in steps if s["state"] == "PENDING" and s["reason"] != "Dependency"],
        [s for s in steps if s["state"] not in TERMINAL],
    ]
    return next((found for found in ranks if found), [])


def _whole(workflow: schema.WorkflowAnswer) -> schema.Why:
    said = workflow["reason_text"] or f"all {workflow['steps_total']} steps have ended"
    return {"reason": workflow["reason"], "sentence": said, "detail": []}


def _last_end(item: schema.StepAnswer) -> None:
    end = item["last_end"]
    if not end or end["reason"] == "COMPLETED":
        return
    code = "" if end["exit_code"] is None else f", exit code {end['exit_code']}"
    put("", f"last run ended: {clean(end['reason'])}{code}")
    put(*(f"  | {clean(line)}" for line in end["detail"].splitlines()))
    if item["state"] == "FAILED":
        selector = f"{item['workflow']}.{item['id']}"
        put(
            f"  the whole of it: scsched logs {selector} --stderr   "
            f"try again: scsched resubmit {selector}"
        )


def _events(events: Iterable[schema.Event]) -> None:
    lines = [f"  {_time(e['at'])}  {clean(e['kind'])}  {clean(e['text'])}" for e in events]
    if lines:
        put("", "events", *lines)


def _steps_done(item: schema.WorkflowAnswer) -> str:
    failed = f", {item['steps_failed']} failed" if item["steps_failed"] else ""
    return f"{item['steps_done']} of {item['steps_total']} done{failed}"


def _progress(item: schema.StepAnswer) -> str:
    seconds = item["progress"] and item["progress"]["seconds_per_iteration"]
    pace = f"{seconds:.1f} s each" if seconds else ""
    found = iterations(item["progress"]), resolution(item["progress"]), pace
    return ", ".join(text for text in found if text)


def _demand(demand: dict[str, object]) -> str:
    return ", ".join(f"{key} {_short(value)}" for key, value in demand.items() if value)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else clean(value)


def _time(iso: str | None) -> str:
    return columns.clock(iso) if sys.stdout.isatty() else iso or ""


def _span(seconds: float) -> object:
    return duration(seconds) if sys.stdout.isatty() else float(seconds)


def _hours(hours: float) -> object:
    return f"{hours:.3f}" if sys.stdout.isatty() else float(hours)


def _usd(usd: float) -> object:
    return money(usd) if sys.stdout.isatty() else float(usd)
