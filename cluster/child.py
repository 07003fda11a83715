"""One RELION command as a process group of its own, stopped in three steps.

SIGTERM to us ──► RELION_JOB_ABORT_NOW ──grace──► SIGTERM to the group ──grace──► SIGKILL
                  where storage answers
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, Never

from scsched.cluster.abort import Abort

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STOPPED = 128 + signal.SIGTERM
ABORT_GRACE_S = 10.0
"""RELION looks for its signal file between pools of particles: 0.3 to 1 s on small sets."""
TERM_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Graces:
    abort_s: float = ABORT_GRACE_S
    term_s: float = TERM_GRACE_S


class Child:
    """Runs commands one after the other; once told to stop it starts no more."""

    def __init__(self, abort_file: Path, graces: Graces | None = None) -> None:
        self.stopped = False
        self._abort_file = abort_file
        self._graces = graces or Graces()
        self._waiting = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def run(self, argv: Sequence[str]) -> int:
        """Its exit code, 128 + n when signal n ended it; 143 once we were told to stop."""
        if self.stopped:
            return STOPPED
        process = subprocess.Popen(list(argv), process_group=0)
        try:
            self._wait(process)
        except _Stopped:
            self._stop(process)
        if self.stopped:
            return STOPPED
        code = process.returncode
        return code if code >= 0 else 128 - code

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        self._waiting = True
        try:
            if self.stopped:
                raise _Stopped
            process.wait()
        finally:
            self._waiting = False

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        abort, family = Abort(self._abort_file), _Family(process.pid)
        if not (abort.ask() and family.ended(process, within_s=self._graces.abort_s)):
            family.signal(signal.SIGTERM)
            family.ended(process, within_s=self._graces.term_s)
        family.signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # what waits for storage cannot die
            process.wait(self._graces.term_s)
        family.ended(process, within_s=self._graces.term_s)
        abort.over()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        first, self.stopped = not self.stopped, True
        if first and self._waiting:
            _raise_stopped()


class _Stopped(BaseException):
    """A stop signal came while we waited."""


def _raise_stopped() -> Never:
    raise _Stopped


class _Family:
    """A process, its group, and whatever descended from it: mpirun's ranks leave its group."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._known: dict[int, str] = {}
        """Start time by process id: a number may be given to another process later."""

    def alive(self) -> list[int]:
        """Its processes that still run; zombies do not."""
        table = _processes()
        grown = True
        while grown:
            new = {
                pid: found.started
                for pid, found in table.items()
                if pid not in self._known
                and (found.group == self._leader or found.parent in self._known)
            }
            self._known.update(new)
            grown = bool(new)
        return [
            pid
            for pid, started in self._known.items()
            if pid in table and table[pid].started == started and table[pid].state not in "ZX"
        ]

    def signal(self, number: signal.Signals) -> None:
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    def ended(self, process: subprocess.Popen[bytes], *, within_s: float) -> bool:
        """Whether all of it is gone within that time."""
        deadline = time.monotonic() + within_s
        while self.alive():
            process.poll()
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


class _Process(NamedTuple):
    state: str
    parent: int
    group: int
    started: str


def _processes() -> dict[int, _Process]:
    """Every process of this machine. https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html"""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                words = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = _Process(
                    words[0], int(words[1]), int(words[2]), words[19]
                )
    return found
