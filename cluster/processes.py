"""Processes found by the tags in their environment, and killed until none is left.

A process is a pid together with its start time, since pids are used again. A zombie counts as
dead. See proc(5); `/proc/PID/environ` is the environment at the last exec, so a tag given at the
start of a program cannot be dropped by its children unless they clear their environment.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PAUSE_S = 0.01
_ENOUGH_PASSES = 20
"""That find nothing, where others on the machine start and end programs all the time."""


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process, now and for ever: `start_ticks` are clock ticks since boot."""

    pid: int
    start_ticks: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_ticks}"


@dataclass(frozen=True, slots=True)
class _Stat:
    process: Process
    ppid: int
    zombie: bool
    image: int
    """Where the environment lies in memory: another value after an exec."""


def identify(pid: int) -> Process | None:
    """The live process with this pid now."""
    stat = _stat(pid)
    return None if stat is None or stat.zombie else stat.process


def parse(text: str) -> Process:
    """The process that `str(process)` names.

    :raises ValueError: `text` is not `<pid>:<start ticks>`.
    """
    pid, ticks = text.split(":")
    return Process(int(pid), int(ticks))


def alive(process: Process) -> bool:
    """Whether it runs; a zombie does not."""
    return identify(process.pid) == process


def send(process: Process, signum: int) -> bool:
    """Signal this very process; False when it is gone or is not ours."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        if not alive(process):
            return False
        signal.pidfd_send_signal(handle, signum)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


class Table:
    """Passes over /proc that read each program's environment once."""

    def __init__(self) -> None:
        self._environs: dict[tuple[Process, int], dict[str, str]] = {}
        self._dead: set[Process] = set()
        self.missed = 0
        """How many, in the last pass, had ended before they were read: each may have forked."""

    def environs(self, *, uid: int | None = None) -> dict[Process, dict[str, str]]:
        """The environment of every live process, of `uid` or of all that we may read."""
        return dict(self._look(_pids(), uid))

    def find(self, tags: Mapping[str, str], *, uid: int | None = None) -> list[Process]:
        """Live processes that carry all `tags`, oldest first."""
        hits = [process for process, environ in self._look(_pids(), uid) if _has(environ, tags)]
        return sorted(hits, key=lambda process: (process.start_ticks, process.pid))

    def hunt(self, tags: Mapping[str, str], *, uid: int | None = None) -> Iterator[Process]:
        """The same, each as soon as it is seen, the last made first: so one that forks is met."""
        for process, environ in self._look(sorted(_pids(), reverse=True), uid):
            if _has(environ, tags):
                yield process

    def _look(
        self, pids: Sequence[int], uid: int | None
    ) -> Iterator[tuple[Process, dict[str, str]]]:
        seen: dict[tuple[Process, int], dict[str, str]] = {}
        dead: set[Process] = set()
        gone = 0
        for pid in pids:
            owned_by = uid if uid is None else owner(pid)
            if owned_by != uid and owned_by is not None:
                continue
            stat = _stat(pid) if owned_by == uid else None
            if stat is None:
                gone += 1
            elif stat.zombie:
                dead.add(stat.process)
            else:
                key = (stat.process, stat.image)
                environ = self._environs.get(key) or _environ(pid)
                if environ:
                    seen[key] = environ
                    yield stat.process, environ
                else:
                    gone += not alive(stat.process)
        self.missed = gone + len(dead - self._dead)
        self._environs, self._dead = seen, dead


def find(tags: Mapping[str, str], *, uid: int | None = None) -> list[Process]:
    """Live processes that carry all `tags`, oldest first."""
    return Table().find(tags, uid=uid)


def kill_tagged(
    tags: Mapping[str, str],
    *,
    uid: int | None = None,
    spare: frozenset[int] = frozenset(),
    timeout_s: float = 10.0,
) -> int:
    """SIGKILL every process with all `tags`, except pids in `spare`, until none is left.

    Parents first, as they would tell of their children's end. A process may fork while we look: it
    ends after two passes in a row that found none and missed none, or after many that found none.
    Returns how many processes were killed.

    :raises TimeoutError: some are left after `timeout_s` (stuck in the kernel, or not ours).
    """
    table = Table()
    first = [process for process in table.find(tags, uid=uid) if process.pid not in spare]
    killed = {process for process in first if send(process, signal.SIGKILL)}
    clean = empty = 0
    deadline = time.monotonic() + timeout_s
    while clean < 2 and empty < _ENOUGH_PASSES:
        left = []
        for process in table.hunt(tags, uid=uid):
            if process.pid not in spare:
                left.append(process)
                if send(process, signal.SIGKILL):
                    killed.add(process)
        empty = 0 if left else empty + 1
        clean = 0 if left or table.missed else clean + 1
        if left and time.monotonic() > deadline:
            named = " ".join(f"{key}={value}" for key, value in tags.items())
            pids = ", ".join(str(process.pid) for process in left)
            raise TimeoutError(f"{named}: pid {pids} still there after {timeout_s:g} s of SIGKILL")
        if not table.missed:
            time.sleep(_PAUSE_S)
    return len(killed)


def runs(pid: int, word: str) -> bool:
    """Whether `word` is a word of its command line."""
    return os.fsencode(word) in _read(pid, "cmdline").split(b"\0")


def descendants(pid: int) -> list[Process]:
    """Live children of `pid`, their children, and so on."""
    children: dict[int, list[_Stat]] = {}
    for stat in _stats():
        children.setdefault(stat.ppid, []).append(stat)
    found: list[Process] = []
    queue = [pid]
    while queue:
        for stat in children.get(queue.pop(), []):
            found.append(stat.process)
            queue.append(stat.process.pid)
    return found


def reap_orphans(*, spare: frozenset[int]) -> int:
    """Collect dead children of ours that nobody waits for; `spare` are those somebody does.

    For a process that adopts the orphans of its children (PR_SET_CHILD_SUBREAPER).
    """
    me, count = os.getpid(), 0
    for pid in _pids():
        stat = _stat(pid)
        if stat is not None and stat.zombie and stat.ppid == me and pid not in spare:
            with suppress(ChildProcessError):
                count += os.waitpid(pid, os.WNOHANG)[0] == pid
    return count


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; see proc(5)."""
    with suppress(OSError):
        for line in (_PROC / "vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    """Empty when the process is gone or not ours; without pathlib, which costs as much again."""
    try:
        file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        parts = iter(lambda: os.read(file, 65536), b"")
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(file)


def _has(environ: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return tags.items() <= environ.items()


def _stats() -> Iterator[_Stat]:
    for pid in _pids():
        stat = _stat(pid)
        if stat is not None and not stat.zombie:
            yield stat


def owner(pid: int) -> int | None:
    """The uid it runs as; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116 - once per process and pass
    except OSError:
        return None


def _stat(pid: int) -> _Stat | None:
    text = _read(pid, "stat")
    if not text:
        return None
    # The name in parentheses may hold blanks and parentheses itself.
    fields = text[text.rindex(b")") + 2 :].split()
    image = int(fields[47]) if len(fields) > 47 else 0
    return _Stat(
        process=Process(pid, int(fields[19])),
        ppid=int(fields[1]),
        # A thread of the kernel has no memory of its own, and is none of ours.
        zombie=fields[0] in (b"Z", b"X") or fields[20] == b"0",
        image=image,
    )


def _environ(pid: int) -> dict[str, str]:
    """Empty when it may not be read, or in the middle of an exec: read again the next time."""
    data = _read(pid, "environ")
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if b"=" in item)
    return {key: value for key, _, value in pairs}
