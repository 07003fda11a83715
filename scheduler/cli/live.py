"""The live picture of one workflow on a terminal, drawn with rich."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scsched.scheduler.cli.columns import clock, reason
from scsched.scheduler.render import MARKS, clean, duration, iterations, money, resolution
from scsched.steps.state import ACTIVE, TERMINAL

if TYPE_CHECKING:
    from types import TracebackType

    from scsched.scheduler.cli import schema

_STYLES = {
    "RUNNING": "yellow",
    "COMPLETING": "yellow",
    "CONFIGURING": "cyan",
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "dim",
    "ATTENTION": "magenta",
}
_BAR = 20
_EVENTS = 4
"""The newest events kept at the foot of the picture."""


class Picture:
    """Use as a context: `draw` redraws, and what was drawn last stays on the screen."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._events: deque[schema.Event] = deque(maxlen=_EVENTS)

    def __enter__(self) -> Picture:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def draw(self, workflow: schema.WorkflowAnswer, events: list[schema.Event]) -> None:
        self._events.extend(events)
        lines = picture(workflow, list(self._events), height=self._console.size.height - 1)
        self._live.update(Text("\n").join(lines), refresh=True)


def picture(
    workflow: schema.WorkflowAnswer, events: list[schema.Event], *, height: int
) -> list[Text]:
    """The picture's lines, `height` at most: steps that tell the most are kept."""
    head = [_title(workflow)]
    foot = [_event(event) for event in events]
    room = max(3, height - len(head) - len(foot) - 1)
    kept, left_out = _kept(workflow["steps"], room)
    body = [line for step in kept for line in _step(step)]
    if left_out:
        body.append(Text(f"   and {left_out} more steps: scsched show {workflow['id']}", "dim"))
    return head + body + ([Text("events", "dim"), *foot] if foot else [])


def _title(w: schema.WorkflowAnswer) -> Text:
    text = Text.assemble((f"{w['id']} {clean(w['name'])}", "bold"), f"  {clean(w['user'])}  ")
    text.append(w["state"], _STYLES.get(w["state"], ""))
    text.append(f"  {w['steps_done']}/{w['steps_total']} steps  {duration(w['run_s'])}")
    text.append(f"  {money(w['usd'])}")
    return text if w["state"] in TERMINAL else text.append("     Ctrl-C leaves", "dim")


def _kept(steps: list[schema.Step], room: int) -> tuple[list[schema.Step], int]:
    """Steps in their order; where room is short, those that run or failed, then the next ones."""
    if len(steps) <= room:
        return steps, 0
    ranked = sorted(range(len(steps)), key=lambda i: (_dullness(steps[i]), i))
    kept = sorted(ranked[: room - 1])
    return [steps[i] for i in kept], len(steps) - len(kept)


def _dullness(step: schema.Step) -> int:
    if step["state"] in ACTIVE:
        return 0
    if step["state"] == "FAILED" or step["reason"] == "Interactive":
        return 1
    return 2 if step["state"] == "PENDING" else 3


def _step(step: schema.Step) -> list[Text]:
    style = _STYLES.get(step["state"], "")
    mark = "!" if step["reason"] == "Interactive" else MARKS.get(step["state"], "?")
    line = Text.assemble(
        (f" {mark} ", style), f"{step['id']:>5} {clean(step['label'])[:34]:<34} ", end=""
    )
    line.append(f"{step['state']:<11}", style)
    parts = [
        duration(step["run_s"]) if step["run_s"] else "",
        f"{step['pool']} x{step['nodes']}" if step["pool"] and step["nodes"] else "",
        f"try {step['attempts']}" if step["attempts"] > 1 else "",
        iterations(step["progress"]),
        _bar(step["progress"]),
        resolution(step["progress"]),
        money(step["usd"]) if step["usd"] else "",
    ]
    line.append(" " + "  ".join(clean(part) for part in parts if part))
    if step["state"] in ("PENDING", "FAILED") and (why := reason(step)):
        line.append(f" {clean(why)}")
    line.no_wrap, line.overflow = True, "ellipsis"
    return [line]


def _bar(progress: schema.Progress | None) -> str:
    """Only where the end is known: nobody knows how many iterations auto-refine will take."""
    if not progress or not progress["of"] or progress["iteration"] is None:
        return ""
    done = min(_BAR, _BAR * progress["iteration"] // progress["of"])
    return "#" * done + "-" * (_BAR - done)


def _event(event: schema.Event) -> Text:
    step = f" {event['step']}" if event["step"] else ""
    line = Text(f"   {clock(event['at'])}{step} {clean(event['text'])}", "dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
