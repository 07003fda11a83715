"""Follow a workflow by its events until it ends; a broker that restarts is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from scsched.scheduler.cli.targets import Target
from scsched.scheduler.client import Client
from scsched.scheduler.render import clean, put, put_json, talk
from scsched.steps.errors import BrokerUnreachable, StoreBusy
from scsched.steps.state import TERMINAL

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

GRACE_S = 60.0
"""So long a broker may be away once it has answered: it may be restarting, and RELION runs on."""
LOOK_S = 1.0
"""Between two looks at the state while events pour in."""

_T = TypeVar("_T")


class Patience:
    """Repeats a question while the broker is away; gives up at once if it never answered."""

    def __init__(
        self,
        *,
        grace_s: float = GRACE_S,
        sleep: Callable[[float], None] = time.sleep,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.grace_s = grace_s
        self.sleep = sleep
        self.give_up = give_up
        """Called between two tries; raises where it is known that nothing will answer."""
        self.answered = False

    def __call__(self, ask: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self.grace_s
        told = False
        while True:
            try:
                answer = ask()
            except (BrokerUnreachable, StoreBusy) as exc:
                if not self.answered or time.monotonic() > deadline:
                    raise
                self.give_up()
                if not told:
                    talk(f"scsched: {clean(exc)}: trying again for {self.grace_s:.0f} s")
                    told = True
                self.sleep(0.5)
            else:
                self.answered = True
                return answer


class Following:
    """One workflow: `batches()` gives its events until it has ended or `deadline` has passed."""

    def __init__(
        self,
        client: Client,
        workflow: int,
        *,
        step: str | None = None,
        patience: Patience | None = None,
        deadline: float | None = None,
        poll_s: float = 20.0,
    ) -> None:
        self.client = client
        self.target = Target(workflow, step)
        self.patience = patience or Patience()
        self.deadline = deadline
        """On time.monotonic()."""
        self.poll_s = poll_s
        self.last = 0
        self.state = ""
        self._looked_at = 0.0
        self.workflow: schema.WorkflowAnswer | None = None
        """As of the last look; None while a single step is followed."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    def batches(self) -> Iterator[list[schema.Event]]:
        """Events as they come, also empty lists: a time to draw."""
        self.look()
        yield self._next(0.0)
        unseen = False
        while not self.ended and not self._late():
            batch = self._next(min(LOOK_S, self._wait_s()) if unseen else self._wait_s())
            yield batch
            unseen = bool(batch) and time.monotonic() - self._looked_at < LOOK_S
            if not unseen:
                self.look()
        while batch := self._next(0.0):
            yield batch

    def look(self) -> None:
        """Ask for the state."""
        workflow, step = self.target
        self._looked_at = time.monotonic()
        if step is None:
            self.workflow = self.patience(lambda: self.client.workflow(workflow))
            self.state = self.workflow["state"]
        else:
            self.state = self.patience(lambda: self.client.step(workflow, step))["state"]

    def _next(self, wait_s: float) -> list[schema.Event]:
        workflow, step = self.target
        answer = self.patience(
            lambda: self.client.events(workflow=workflow, step=step, after=self.last, wait_s=wait_s)
        )
        self.last = max(self.last, answer["last"])
        return answer["items"]

    def _wait_s(self) -> float:
        if self.deadline is None:
            return self.poll_s
        return max(0.0, min(self.poll_s, self.deadline - time.monotonic()))

    def _late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def put_events(events: list[schema.Event], *, as_json: bool = False) -> None:
    """One line an event: time, step, kind, text; or one JSON object a line."""
    for event in events:
        if as_json:
            put_json({"schema": "scsched/v1", **event}, one_line=True)
        else:
            put("\t".join([event["at"], _subject(event), clean(event["kind"]), _text(event)]))


def _subject(event: schema.Event) -> str:
    if event["workflow"] is None:
        return clean(event["node"] or "-")
    return str(Target(event["workflow"], event["step"]))


def _text(event: schema.Event) -> str:
    """With the node it is about, which most texts name themselves."""
    node, text = event["node"], event["text"]
    return clean(text if node is None or text.startswith(f"{node}:") else f"{node}: {text}")
