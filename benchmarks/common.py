"""What the benchmarks share: CPU of processes, the best of several rounds, a table with ratios."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall and CPU seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table: what was measured, of whom, and how much."""

    what: str
    who: str
    """Name and version."""
    value: float
    unit: str
    goal: str = ""


def cpu_of(pid: int) -> float:
    """CPU seconds, user and system, that a process and the children it has waited for have used.

    In steps of 10 ms.
    """
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    fields = stat[stat.rindex(")") + 2 :].split()
    return sum(int(field) for field in fields[11:15]) / TICKS_PER_S


def cost_of(argv: Sequence[str], **more: object) -> Cost:
    """Run a command to its end, and what it and its children cost.

    :param more: as for `os.posix_spawn`: `env`, `file_actions`.
    :raises RuntimeError: it failed.
    """
    env = dict(more.pop("env", None) or os.environ)  # type: ignore[call-overload]
    began = time.perf_counter()
    pid = os.posix_spawnp(argv[0], list(argv), env, **more)  # type: ignore[arg-type]
    _, status, used = os.wait4(pid, 0)
    wall_s = time.perf_counter() - began
    if (code := os.waitstatus_to_exitcode(status)) != 0:
        raise RuntimeError(f"{argv[0]} ended with {code}")
    return Cost(wall_s, used.ru_utime + used.ru_stime)


def least(count: int, measure: Callable[[], T], by: Callable[[T], float]) -> T:
    """The cheapest of `count` rounds: other work on a machine only ever adds."""
    return min((measure() for _ in range(count)), key=by)


def heading(title: str) -> None:
    """What ran where, and whether the machine was free for it."""
    load = os.getloadavg()[0]
    print(f"{title}\n{_processor()}, {os.cpu_count()} CPUs, load {load:.1f}")
    if load > 0.5:
        print("WARNING: the machine is not idle; CPU times and ratios stand, wall times do not")
    print(flush=True)


def table(figures: Iterable[Figure]) -> None:
    """Every figure, and after the first of each `what` its ratio to that one."""
    first: dict[str, Figure] = {}
    for figure in figures:
        base = first.setdefault(figure.what, figure)
        ratio = "" if base is figure else _ratio(figure, base)
        goal = f"  goal {figure.goal}" if figure.goal else ""
        print(
            f"{figure.what:34} {figure.who:34} {figure.value:10.3f} {figure.unit:8}{ratio}{goal}",
            flush=True,
        )


def _ratio(figure: Figure, base: Figure) -> str:
    """Of this line's value to the first one's."""
    return f"{figure.value / base.value:7.2f} x {base.who.split()[0]}" if base.value else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine
