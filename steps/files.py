"""Whole files in place by rename, on storage that several hosts share.

Where a server restarts, a rename that it did may be asked again by the client, which had no answer:
the second one finds nothing to rename (RFC 1813, "Duplicate request cache"). So "no such file" is
looked into.
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_HOST_LETTERS = 40


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """`path` as `write` makes it, by rename, on disk when this returns."""
    part = _part(path)
    try:
        write(part)
        _to_disk(part)
        move(part, path)
    finally:
        part.unlink(missing_ok=True)
    _to_disk(path.parent)


def move(source: Path, target: Path) -> None:
    """Rename, also when it was done and the server's answer to it was lost.

    :raises FileNotFoundError: there is no `source`, and `target` is not what it was.
    """
    moved = source.stat()
    try:
        source.replace(target)
    except FileNotFoundError:
        if not _is(target, moved):
            raise


def _is(path: Path, wanted: os.stat_result) -> bool:
    """Asked of the server: opening the folder, then the file, ends what the host remembers."""
    try:
        with os.scandir(path.parent), path.open("rb") as file:
            return os.path.samestat(os.fstat(file.fileno()), wanted)
    except OSError:
        return False


def _part(path: Path) -> Path:
    """A name that nobody else has: process ids repeat from host to host."""
    host = os.uname().nodename[:_HOST_LETTERS]
    return path.with_name(f".{path.name}.{host}.{os.getpid()}.{secrets.token_hex(4)}.part")


def _to_disk(path: Path) -> None:
    """fsync; a folder on some network file systems cannot be, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
