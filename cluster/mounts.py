"""What is mounted where, without touching any of it: a path on a dead NFS server hangs who asks.

The kernel's own table, /proc/self/mountinfo (proc_pid_mountinfo(5)), a line a mount:

    36 35 98:0 /export /shared rw,noatime master:1 - nfs4 server:/export rw,hard
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system."""

    point: str
    fstype: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.fstype or 'an unknown file system'} on {self.source or self.point}"


def of(path: str, table: str | None = None) -> Mount:
    """The mount that `path` is on by its name alone: links in it are not followed."""
    wanted = PurePosixPath(os.path.abspath(path))  # noqa: PTH100  # resolve() would touch it
    found = Mount("/")
    for mount in parse(_read() if table is None else table):
        deeper = len(mount.point) >= len(found.point)  # a later one on the same point hides it
        if deeper and wanted.is_relative_to(mount.point):
            found = mount
    return found


def parse(table: str) -> list[Mount]:
    """The mounts in the order in which they were made."""
    found = []
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(kind) > 1:
            found.append(Mount(_plain(fields[4]), kind[0], _plain(kind[1])))
    return found


def _plain(word: str) -> str:
    return _OCTAL.sub(lambda code: chr(int(code[1], 8)), word)


def _read() -> str:
    return _TABLE.read_text(encoding="utf-8", errors="surrogateescape")
