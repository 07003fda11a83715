"""What `watch`, `wait` and `run` share: follow to the end, then say the outcome."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scsched.scheduler.cli import targets
from scsched.scheduler.cli.events import Following, put_events
from scsched.scheduler.cli.targets import Target
from scsched.scheduler.client import Client
from scsched.scheduler.render import clean, put, put_json, talk
from scsched.steps.errors import UsageError

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

LIVE_POLL_S = 1.0
"""On a terminal progress is drawn every second, event or not."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def follow(following: Following, *, as_json: bool = False) -> None:
    """Until the end: a live picture on a terminal, a line an event in a pipe."""
    gates = _Gates()
    if as_json or not sys.stdout.isatty():
        for batch in following.batches():
            put_events(batch, as_json=as_json)
            gates.tell(following.workflow)
        return
    from scsched.scheduler.cli.live import Picture

    following.poll_s = LIVE_POLL_S
    with Picture() as picture:
        for batch in following.batches():
            if following.workflow:
                picture.draw(following.workflow, batch)


def wait(
    client: Client, found: Sequence[Target], *, deadline: float | None, as_json: bool = False
) -> int:
    """Wait for all of them; returns the exit code of the worst."""
    ends = []
    for target in found:
        following = Following(client, target.workflow, step=target.step, deadline=deadline)
        gates = _Gates()
        for _ in following.batches():
            gates.tell(following.workflow)
        ends.append((target, following.state))
    if as_json:
        items = [{"workflow": t.workflow, "step": t.step, "state": state} for t, state in ends]
        put_json({"schema": "scsched/v1", "items": items})
    else:
        put(*(f"{target}\t{state}" for target, state in ends))
    return targets.outcome(state for _, state in ends)


def to_the_end(client: Client, workflow: int) -> Following:
    """Wait for the end of one workflow in silence, but for what its gates ask of a person."""
    following, gates = Following(client, workflow), _Gates()
    for _ in following.batches():
        gates.tell(following.workflow)
    return following


def conclude(following: Following) -> int:
    """Say how it ended and what now; returns the exit code."""
    workflow, state = following.target.workflow, following.state
    if state == "FAILED":
        _say_failures(client=following.client, workflow=following.workflow)
    elif state == "CANCELLED":
        talk(f"{workflow} was cancelled; go on from where it stopped: scsched resubmit {workflow}")
    elif state == "COMPLETED":
        talk(f"{workflow} is done; what it used: scsched receipt {workflow}")
    return targets.outcome([state])


def say_it_goes_on(workflow: int) -> None:
    talk(
        "",
        f"{workflow} goes on without you. Look again: scsched watch {workflow}   "
        f"stop it: scsched cancel {workflow}",
    )


def deadline(timeout: str) -> float | None:
    """`90`, `15m` or `2h` from now, on time.monotonic(); None for an empty text.

    :raises UsageError: it is no span of time.
    """
    if not timeout:
        return None
    span = _SPAN.fullmatch(timeout.strip().lower())
    if span is None:
        raise UsageError(f"--timeout {timeout}: no span of time", hint="write 90, 15m or 2h")
    return time.monotonic() + float(span[1]) * _UNIT_S[span[2]]


class _Gates:
    """Says once of every gate what a person has to do, so that nobody waits for oneself."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, workflow: schema.WorkflowAnswer | None) -> None:
        if workflow is None:
            return
        if workflow["state"] == "HELD":
            self._once(str(workflow["id"]), workflow["reason_text"])
        if workflow["state"] == "ATTENTION":
            for step in workflow["steps"]:
                if step["reason"] in ("Interactive", "JobHeldUser"):
                    self._once(f"{workflow['id']}.{step['id']}", step["reason_text"])

    def _once(self, selector: str, text: str | None) -> None:
        if selector not in self._told:
            self._told.add(selector)
            talk(f"{selector} waits: {clean(text or 'for a person')}")


def _say_failures(*, client: Client, workflow: schema.WorkflowAnswer | None) -> None:
    failed = [step for step in (workflow or {"steps": []})["steps"] if step["state"] == "FAILED"]
    for step in failed[:5]:
        selector = f"{step['workflow']}.{step['id']}"
        end = step["last_end"]
        talk(f"{selector} {clean(step['label'])} failed: {end['reason'] if end else 'no run'}")
        last = end["detail"].splitlines()[-5:] if end else []
        talk(*(f"  | {clean(line)}" for line in last))
        talk(f"  all it printed: scsched logs {selector} --stderr")
        talk(f"  try it again:   scsched resubmit {selector}")
