"""Memory and CPU limits of one host, and its freezer: control groups of version 1 or 2.

The control group is also the truth about which processes belong to a host.
"""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "cpu", "pids", "freezer")
CPU_PERIOD_US = 100_000
KILL_S = 10.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One host's group: a directory per controller (version 1), or one (version 2)."""

    name: str
    unified: bool

    @classmethod
    def named(cls, name: str) -> Self:
        return cls(name, unified=_unified())

    @classmethod
    def of(cls, record: Mapping[str, object]) -> Self:
        return cls(str(record["name"]), bool(record["unified"]))

    @property
    def record(self) -> Mapping[str, object]:
        return {"name": self.name, "unified": self.unified}

    def make(self, *, memory_bytes: int, cpus: int) -> None:
        for path in self._paths():
            path.mkdir()
        quota = cpus * CPU_PERIOD_US
        if self.unified:
            (ROOT / self.name / "memory.max").write_text(str(memory_bytes))
            (ROOT / self.name / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
            return
        (ROOT / "memory" / self.name / "memory.limit_in_bytes").write_text(str(memory_bytes))
        (ROOT / "cpu" / self.name / "cpu.cfs_quota_us").write_text(str(quota))

    def add(self, pid: int) -> None:
        for path in self.procs():
            path.write_text(str(pid))

    def procs(self) -> list[Path]:
        """Files that list its processes and take new ones."""
        return [path / "cgroup.procs" for path in self._paths()]

    def pids(self) -> list[int]:
        """Of all its processes; none when the group is gone."""
        found: set[int] = set()
        for path in self.procs():
            with _maybe_gone():
                found.update(int(word) for word in path.read_text().split())
        return sorted(found)

    def freeze(self) -> None:
        """All processes stand still when this returns."""
        if self.unified:
            (ROOT / self.name / "cgroup.freeze").write_text("1")
            return
        state = ROOT / "freezer" / self.name / "freezer.state"
        deadline = time.monotonic() + KILL_S
        while state.read_text().strip() != "FROZEN":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} does not freeze")
            state.write_text("FROZEN")
            time.sleep(POLL_S)

    def thaw(self) -> None:
        path, word = ROOT / "freezer" / self.name / "freezer.state", "THAWED"
        if self.unified:
            path, word = ROOT / self.name / "cgroup.freeze", "0"
        with _maybe_gone():
            path.write_text(word)

    def remove(self) -> None:
        """Ends every process in it, then the group itself. Gone already: nothing happens."""
        self.thaw()
        deadline = time.monotonic() + KILL_S
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {pids} of {self.name} do not end")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(POLL_S)
        for path in self._paths():
            with _maybe_gone():
                path.rmdir()

    def _paths(self) -> list[Path]:
        if self.unified:
            return [ROOT / self.name]
        return [ROOT / controller / self.name for controller in CONTROLLERS]


def lacking() -> str:
    """Why hosts cannot be limited here; "": they can."""
    if _unified():
        missing = {"memory", "cpu"} - set((ROOT / "cgroup.subtree_control").read_text().split())
        return f"cgroup controllers {sorted(missing)} are not enabled" if missing else ""
    missing = {one for one in CONTROLLERS if not os.access(ROOT / one, os.W_OK)}
    return f"no cgroup controllers {sorted(missing)}" if missing else ""


@contextlib.contextmanager
def _maybe_gone() -> Iterator[None]:
    """A group that somebody removes has no such file, or, once it is open, no such device."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()
