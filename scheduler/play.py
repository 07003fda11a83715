"""Playing spot on one machine: when a local node gets a notice, and when it is taken.

SCHEDULE := ENTRY { "," ENTRY }
ENTRY    := WHEN [ ":" HOW ]
WHEN     := SECONDS "s"          since the workflow was submitted, e.g. 90s
          | STEP "@it" K         when step STEP works on iteration K or later, e.g. 436@it4
HOW      := "kill"               every node of the run is taken without notice
          | "kill1"              one node only, the last of the gang
          | "notice=" SECONDS    a notice first, as a cloud gives it; 120 at most (default 120)
          | "notice1=" SECONDS   the same for one node
"""

import re
from dataclasses import dataclass

from scsched.steps.errors import UsageError

MAX_NOTICE_S = 120.0
"""EC2 gives two minutes; other clouds less."""

_ENTRY = re.compile(
    r"(?:(?P<at>\d{1,6}(?:\.\d{1,3})?)s|(?P<step>\d{1,9})@it(?P<iteration>\d{1,4}))"
    r"(?::(?:(?P<kill>kill)(?P<kill_one>1)?|notice(?P<notice_one>1)?=(?P<notice>\d{1,3})))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Interruption:
    """One entry of a schedule."""

    at_s: float | None
    step: str | None
    iteration: int | None
    notice_s: float | None
    """None: without notice."""
    one: bool
    """Only the last node of the gang."""

    def due(self, *, elapsed_s: float, iterations: dict[str, int]) -> bool:
        """:param iterations: what each running step works on, by step id."""
        if self.at_s is not None:
            return elapsed_s >= self.at_s
        return self.step in iterations and iterations[self.step] >= (self.iteration or 0)


def parse(schedule: str) -> tuple[Interruption, ...]:
    """:raises UsageError: names the entry that makes no sense."""
    return tuple(_entry(text.strip()) for text in schedule.split(",") if text.strip())


def _entry(text: str) -> Interruption:
    found = _ENTRY.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--play-spot: {text!r} makes no sense; write 90s:kill or 436@it4:notice=30"
        )
    notice_s = None if found["kill"] else float(found["notice"] or MAX_NOTICE_S)
    if notice_s is not None and notice_s > MAX_NOTICE_S:
        raise UsageError(f"--play-spot: {text!r}: a notice is {MAX_NOTICE_S:.0f} s or less")
    return Interruption(
        at_s=float(found["at"]) if found["at"] else None,
        step=found["step"],
        iteration=int(found["iteration"]) if found["iteration"] else None,
        notice_s=notice_s,
        one=bool(found["kill_one"] or found["notice_one"]),
    )
