"""Copies of SQLite files on storage whose locks may belong to a node that is gone.

An NFS server keeps the locks of a host that vanished for a lease, some 90 s, and one without a lock
service keeps none at all. So what others have written is copied aside, to this host's own disk, and
read there. Standard library only: `keeper_side.py` loads this file by path.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

BESIDE = ("-journal", "-wal", "")
"""What makes up a database, the file itself last. https://www.sqlite.org/tempfiles.html"""
TRIES = 3
LOCKED_S = 120.0
"""Longer than an NFS server's lease."""

Seen = tuple[int, int, int]


@contextlib.contextmanager
def aside(database: Path) -> Iterator[Path]:
    """A copy on local disk, for as long; what a killed process half wrote will be undone in it.

    :raises OSError: it cannot be read, or somebody is still writing it.
    """
    with tempfile.TemporaryDirectory(prefix="scsched-keeper-") as folder:
        for _ in range(TRIES):
            copy = Path(folder, database.name)
            if _copied(database, copy) == _looked_at(database):
                yield copy
                return
    raise OSError(f"{database} is being written")


def replace_by_copy(source: Path, target: Path) -> None:
    """A consistent copy of the database `source` in the place of `target`, in one move."""
    fresh = target.with_name(f"{target.name}.new")
    with tempfile.TemporaryDirectory(prefix="scsched-keeper-") as folder:
        local = Path(folder, target.name)
        with (
            contextlib.closing(sqlite3.connect(source, timeout=LOCKED_S)) as old,
            contextlib.closing(sqlite3.connect(local)) as new,
        ):
            old.backup(new)
        shutil.copyfile(local, fresh)
    for suffix in BESIDE[:-1]:
        target.with_name(f"{target.name}{suffix}").unlink(missing_ok=True)
    sync(fresh)
    fresh.replace(target)


def sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _copied(database: Path, copy: Path) -> list[Seen | None]:
    """The journal first: a change that begins after that shows in what is looked at next."""
    with contextlib.suppress(OSError):
        os.scandir(database.parent).close()  # or an NFS client may believe that one is missing
    return [_copied_one(*pair) for pair in zip(_parts(database), _parts(copy), strict=True)]


def _copied_one(source: Path, target: Path) -> Seen | None:
    target.unlink(missing_ok=True)
    try:
        with source.open("rb") as old, target.open("wb") as new:
            seen = _seen(old.fileno())
            shutil.copyfileobj(old, new)
            return seen
    except FileNotFoundError:
        return None


def _looked_at(database: Path) -> list[Seen | None]:
    """Opening a file has an NFS client ask the server."""
    found: list[Seen | None] = []
    for part in _parts(database):
        try:
            with part.open("rb") as stream:
                found.append(_seen(stream.fileno()))
        except FileNotFoundError:
            found.append(None)
    return found


def _seen(descriptor: int) -> Seen:
    found = os.fstat(descriptor)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _parts(database: Path) -> list[Path]:
    return [database.with_name(f"{database.name}{suffix}") for suffix in BESIDE]
