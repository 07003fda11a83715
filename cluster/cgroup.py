"""A memory limit for a node where the kernel and our rights allow one; else none.

Only root can make the group, as a rule, so on a person's own machine nodes go without, and an
out-of-memory kill is known from the machine's own counter. See cgroups(7).
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from scsched.cluster import processes

_ROOT = Path("/sys/fs/cgroup")
_V1 = _ROOT / "memory" / "scsched"
_V2 = _ROOT / "scsched"
_BUSY_S = 0.5
"""A killed process stays in its group until it is collected."""


def limit(name: str, memory_gib: float, pid: int) -> Path | None:
    """Put `pid`, and so its children, into a group of its own; None where that cannot be done."""
    v1 = (_ROOT / "memory").is_dir()
    base = _V1 if v1 else _V2
    path = base / name
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not v1:
            (base / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
        knob = "memory.limit_in_bytes" if v1 else "memory.max"
        (path / knob).write_text(str(int(memory_gib * 2**30)), encoding="ascii")
        (path / "cgroup.procs").write_text(str(pid), encoding="ascii")
    except OSError:
        with suppress(OSError):
            path.rmdir()
        return None
    return path


def remove(name: str) -> None:
    """Remove the group of a node that has ended."""
    for path in (_V1 / name, _V2 / name):
        end = time.monotonic() + _BUSY_S
        while path.is_dir() and time.monotonic() < end:
            try:
                path.rmdir()
            except OSError:
                time.sleep(0.01)


def oom_kills() -> int:
    """Kills for want of memory so far, in this process's group; without one, on this machine."""
    for path in _own():
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError):
                for line in (path / name).read_text(encoding="ascii").splitlines():
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
    return processes.oom_kills()


def _own() -> list[Path]:
    """The groups of ours that this process is in."""
    found: list[Path] = []
    with suppress(OSError):
        for line in Path(f"/proc/{os.getpid()}/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if path.startswith("/scsched/"):
                base = _ROOT / "memory" if "memory" in controllers.split(",") else _ROOT
                found.append(base / path.lstrip("/"))
    return found
