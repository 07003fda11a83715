"""What a run does between a notice and the loss of its node. Pure.

    time left   ├──────────────────────────────┤ margin │ deadline
    needs       ├─ this iteration ─┤─ one more ─┤          Finish: stop when that one is certified
                ├─ this iteration ──────────────────────── ─ ─ StopNow: it would be lost anyway

Stopping early saves nothing of the work and gives the survivors a head start. Whatever is not
known is decided for letting it run: that costs at most the time of the notice.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from scsched.steps.spec import Resume

MARGIN_S = 5.0
"""Of the notice, kept for what follows an iteration: its files are read back and certified, which
the driver looks for every second, and the attempt is ended on all nodes."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is known of a run at one moment. None: not known."""

    resume: Resume
    begun: bool = True
    """Its program has started."""
    done: bool = False
    """Its program has ended well; its outputs are being checked."""
    iteration: int | None = None
    """The one at work."""
    of: int | None = None
    seconds_per_iteration: float | None = None
    elapsed_s: float | None = None
    """Since this iteration began."""
    phase_left_s: float | None = None
    """What RELION's own bar expects of this phase of it."""

    @classmethod
    def of_run(
        cls,
        resume: Resume,
        progress: Mapping[str, object] | None,
        now: datetime,
        *,
        begun: bool = True,
        done: bool = False,
    ) -> "Work":
        """From a driver's last report, which may be old: what it said is counted down."""
        said = progress or {}
        began, at, left = (_number(said, name) for name in ("began", "at", "phase_left_s"))
        stamp = now.timestamp()
        return cls(
            resume=resume,
            begun=begun,
            done=done,
            iteration=_count(said, "iteration"),
            of=_count(said, "of"),
            seconds_per_iteration=_number(said, "seconds_per_iteration"),
            elapsed_s=None if began is None else max(0.0, stamp - began),
            phase_left_s=None
            if left is None
            else max(0.0, left - max(0.0, stamp - (stamp if at is None else at))),
        )

    @property
    def needs_s(self) -> float | None:
        """Seconds until this iteration is done: the longer of two guesses.

        The newest finished iteration took so long, less what has passed; the bar says so much.
        """
        by_clock = None
        if self.seconds_per_iteration is not None:
            by_clock = max(0.0, self.seconds_per_iteration - (self.elapsed_s or 0.0))
        known = [guess for guess in (by_clock, self.phase_left_s) if guess is not None]
        return max(known, default=None)


@dataclass(frozen=True, slots=True)
class Finish:
    """Stop as soon as this iteration is certified."""

    iteration: int
    why: str


@dataclass(frozen=True, slots=True)
class LetRun:
    """To the end of the notice: what is done by then is kept."""

    why: str
    ends: bool = False
    """It is likely to have ended well by then."""


@dataclass(frozen=True, slots=True)
class StopNow:
    why: str


Decision = Finish | LetRun | StopNow


def decide(left_s: float, work: Work) -> Decision:
    """What a run does with `left_s` seconds until its first node goes."""
    left = f"{max(0.0, left_s):.0f} s left"
    if work.done:
        return LetRun(f"{left}, its outputs are being checked: let run", ends=True)
    if not work.begun:
        return StopNow(f"{left}, it has not begun: stopped")
    if work.resume is Resume.ITEM:
        return LetRun(f"{left}: let run, what is done by then is kept")
    if work.resume is Resume.NONE:
        return LetRun(f"{left}: let run, it may end by then")
    if work.iteration is None:
        return StopNow(f"{left}, no iteration has begun: stopped")
    return _by_time(left, left_s, work.iteration, work)


def _by_time(left: str, left_s: float, iteration: int, work: Work) -> Decision:
    needs_s = work.needs_s
    if needs_s is None:
        return Finish(
            iteration, f"{left}, iteration {iteration} needs a time that is not known yet"
        )
    needs = f"{left}, iteration {iteration} needs {needs_s:.0f} s more"
    if needs_s > left_s - MARGIN_S:
        return StopNow(f"{needs}: stopped")
    last = iteration + _more(left_s - MARGIN_S - needs_s, work)
    if work.of is not None and last >= work.of:
        return LetRun(f"{needs}, and {work.of} is its last: let run", ends=True)
    return Finish(last, f"{needs}: iteration {last} is finished first")


def _more(spare_s: float, work: Work) -> int:
    """Whole iterations that fit behind this one."""
    if not work.seconds_per_iteration or work.iteration is None:
        return 0
    fitting = math.floor(spare_s / work.seconds_per_iteration)
    return fitting if work.of is None else max(0, min(fitting, work.of - work.iteration))


def _number(said: Mapping[str, object], name: str) -> float | None:
    """A driver's word is not to be trusted: anything but a finite time is none."""
    found = said.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found) if found >= 0 else None


def _count(said: Mapping[str, object], name: str) -> int | None:
    found = said.get(name)
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
