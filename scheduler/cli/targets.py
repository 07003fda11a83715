"""What a selector names, and what its end means for the exit code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from scsched.scheduler import paths
from scsched.scheduler.client import Client
from scsched.steps.errors import NotFound, UsageError

DONE, FAILED, NOT_FINISHED, CANCELLED = 0, 100, 101, 103
OUTCOMES = {"COMPLETED": DONE, "FAILED": FAILED, "CANCELLED": CANCELLED}
"""Exit code by final state, of a workflow as of a step."""

_PLAIN = re.compile(r"([0-9]{1,12})(?:\.([A-Za-z0-9_:-]{1,40}))?")


class Target(NamedTuple):
    workflow: int
    step: str | None = None

    def __str__(self) -> str:
        return f"{self.workflow}.{self.step}" if self.step else str(self.workflow)


def client() -> Client:
    return Client(paths.find_socket())


def select(client: Client, selector: str) -> list[Target]:
    """Workflows and steps that `selector` names; never empty.

    :raises NotFound: it names nothing.
    """
    if plain := _PLAIN.fullmatch(selector):
        return [Target(int(plain[1]), plain[2])]
    items = client.select(selector)["items"]
    if not items:
        raise NotFound(f"{selector}: nothing by that name", hint="see scsched queue -a")
    return [Target(item["workflow"], item["step"]) for item in items]


def one_step(client: Client, selector: str) -> Target:
    """:raises UsageError: it names a whole workflow, or several steps."""
    found = select(client, selector)
    if len(found) == 1 and found[0].step:
        return found[0]
    raise UsageError(
        f"{selector}: names no single step",
        hint=f"write one such as {found[0].workflow}.311; see scsched show {found[0].workflow}",
    )


def one_workflow(client: Client, selector: str) -> int:
    """:raises UsageError: it names several workflows. A step stands for its workflow."""
    found = {target.workflow for target in select(client, selector)}
    if len(found) == 1:
        return found.pop()
    raise UsageError(f"{selector}: names {len(found)} workflows, one is wanted")


def outcome(states: Iterable[str]) -> int:
    """The exit code for final states: the worst, failed before cancelled."""
    codes = {OUTCOMES.get(state, NOT_FINISHED) for state in states}
    return next((code for code in (FAILED, CANCELLED, NOT_FINISHED) if code in codes), DONE)
