"""One look at a node's storage: mounted, the driver's own, writable, sound and fast enough.

All of it touches the storage, and hangs when that does not answer: see `storage.bounded`.
"""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from scsched.cluster import mounts

TOKEN = "storage-token"  # noqa: S105
"""Name of the token's file. It is no secret: it only tells one file system from another."""
GIB = 2**30
MIB = 2**20
_VISIBLE_S = 5.0
_SAMPLE_MIB = 16
_SAMPLE_S = 5.0
"""A slow storage need not write all of the sample."""


class Word(StrEnum):
    """What is wrong with a storage, in one word."""

    OK = "ok"
    STALLED = "stalled"
    """It does not answer; who waits for it goes on when it does."""
    FULL = "full"
    READ_ONLY = "read-only"
    STALE = "stale"
    """The server no longer knows what is mounted (ESTALE): mount it again."""
    BROKEN = "broken"
    """Any other error."""
    UNMOUNTED = "unmounted"
    FOREIGN = "foreign"
    """Not the file system that the driver sees."""
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the storage of a node has to be."""

    folder: str
    """Holds the token; the node writes in it for a moment."""
    token: str
    mount: str = ""
    """Where the pool's storage has to be mounted; empty: anywhere."""
    fstype: str = ""
    """Or of which type it has to be there, when `mount` itself is no mount point."""
    min_free_gib: float = 0.0
    floor_mib_per_s: float = 0.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a node found. `problem` is a sentence that names node, path and what to do."""

    node: str
    word: Word = Word.OK
    problem: str = ""
    free: int | None = None
    """Bytes, as those below."""
    total: int | None = None
    mib_per_s: float = 0.0
    """Of writing and syncing a sample."""
    on: str = ""
    """Type and source of what is mounted."""
    seconds: float = 0.0


class Steps:
    """Where a piece of work is: when it hangs, this is what the message says."""

    def __init__(self) -> None:
        self.at = "beginning"
        self.since = time.monotonic()


def word_of(exc: OSError) -> Word:
    """What an error of the file system says about it."""
    return _WORDS.get(exc.errno or 0, Word.BROKEN)


def advice(word: Word) -> str:
    """What a person can do about it."""
    return _ADVICE.get(word, "look at the file server's log")


_WORDS = {
    errno.ENOSPC: Word.FULL,
    errno.EDQUOT: Word.FULL,
    errno.EROFS: Word.READ_ONLY,
    errno.ESTALE: Word.STALE,
    errno.ETIMEDOUT: Word.STALLED,
}
_ADVICE = {
    Word.FULL: "remove what is no longer needed, or enlarge it",
    Word.READ_ONLY: "mount it read-write, and look at the server's export",
    Word.STALE: "unmount it and mount it again",
    Word.STALLED: "look at the file server and the network to it",
}


class _Wrong(Exception):
    """The storage is not as wanted."""

    def __init__(self, word: Word, problem: str) -> None:
        super().__init__(problem)
        self.word = word


class Look:
    """One look at one storage; each part raises _Wrong or OSError when it is not as wanted."""

    def __init__(self, terms: Terms, node: str) -> None:
        self._terms = terms
        self._folder = Path(terms.folder)
        self._own = self._folder / f".check-{node}-{secrets.token_hex(4)}"
        self._found = Found(node=node)

    def all(self, steps: Steps) -> Found:
        """All of it, in the order in which one part needs the one before."""
        try:
            for at, part in self._parts():
                steps.at = at
                part()
        except _Wrong as exc:
            self._note(exc.word, str(exc))
        except OSError as exc:
            word = word_of(exc)
            hint = _permission(exc) or advice(word)
            self._note(word, f"{self._folder}: {steps.at}: {exc.strerror}; {hint}")
        finally:
            steps.at = "removing the files of the check"
            shutil.rmtree(self._own, ignore_errors=True)
        return self._found

    def _parts(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        return (
            ("looking at the mounts", self._mounted),
            ("reading the driver's token", self._same),
            ("measuring the free space", self._room),
            ("creating a file", self._exclusive),
            ("replacing a file", self._replaces),
            ("writing and syncing", self._fast),
        )

    def _note(self, word: Word, problem: str) -> None:
        self._found = replace(self._found, word=word, problem=f"node {self._found.node}: {problem}")

    def _mounted(self) -> None:
        there = mounts.of(os.path.realpath(self._folder))
        self._found = replace(self._found, on=str(there))
        wanted = self._terms.mount
        if not wanted:
            return
        there = mounts.of(os.path.realpath(wanted))
        is_it = there.point == os.path.normpath(wanted) or there.fstype == self._terms.fstype
        if not is_it:
            raise _Wrong(
                Word.UNMOUNTED,
                f"{wanted} is not mounted, it lies on {there}; "
                "mount the storage there before the node starts, or correct its path",
            )

    def _same(self) -> None:
        """The node's client may believe for seconds that a new file is not there (nfs(5)).

        Reading the folder makes it ask.
        """
        path, found = self._folder / TOKEN, ""
        end = time.monotonic() + min(_VISIBLE_S, self._terms.timeout_s / 2)
        while found != self._terms.token:
            if found or time.monotonic() > end:
                what = "another token than the driver's" if found else "no token of the driver"
                raise _Wrong(
                    Word.FOREIGN,
                    f"{path} holds {what}: this is not the file system that the driver sees, "
                    f"but {self._found.on}; mount the same export on both",
                )
            with suppress(FileNotFoundError, NotADirectoryError):
                os.listdir(self._folder)  # noqa: PTH208
                found = path.read_text(encoding="ascii", errors="replace").strip()
            if not found:
                time.sleep(0.1)

    def _room(self) -> None:
        space = os.statvfs(self._folder)
        free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        self._found = replace(self._found, free=free, total=total)
        if free < self._terms.min_free_gib * GIB:
            raise _Wrong(
                Word.FULL,
                f"{self._folder} has {free / GIB:.1f} GiB free, {self._terms.min_free_gib:g} "
                f"wanted; {advice(Word.FULL)}",
            )

    def _exclusive(self) -> None:
        self._own.mkdir()
        _write_new(self._own / "first", b"old")
        with suppress(FileExistsError):
            (self._own / "first").open("xb").close()
            raise _Wrong(
                Word.BROKEN,
                f"{self._folder} creates a file that exists once more (O_EXCL); "
                "keep projects on another file system",
            )

    def _replaces(self) -> None:
        first, second = self._own / "first", self._own / "second"
        _write_new(second, b"new")
        second.replace(first)
        if first.read_bytes() != b"new" or second.exists():
            raise _Wrong(
                Word.BROKEN,
                f"{self._folder} does not replace a file by rename; "
                "keep projects on another file system",
            )

    def _fast(self) -> None:
        floor = self._terms.floor_mib_per_s
        speed = _speed(self._own / "sample", _SAMPLE_MIB if floor else 1, self._folder)
        self._found = replace(self._found, mib_per_s=round(speed, 1))
        if speed < floor:
            raise _Wrong(
                Word.SLOW,
                f"{self._folder} takes {speed:.1f} MiB/s, the floor is {floor:g}; "
                "look at the network to the file server, or lower floor_mib_per_s",
            )


def _speed(path: Path, sample_mib: int, folder: Path) -> float:
    """MiB/s of writing and syncing; what was written is read back."""
    block = secrets.token_bytes(MIB)
    start, done = time.monotonic(), 0
    with path.open("xb") as file:
        while done < sample_mib and time.monotonic() - start < _SAMPLE_S:
            file.write(block)
            done += 1
        file.flush()
        os.fsync(file.fileno())
    speed = done / max(time.monotonic() - start, 1e-6)
    with path.open("rb") as file:
        same = all(file.read(MIB) == block for _ in range(done)) and not file.read(1)
    if not same:
        raise _Wrong(
            Word.BROKEN, f"{folder} gives back other bytes than were written; do not trust it"
        )
    return speed


def _write_new(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _permission(exc: OSError) -> str:
    if exc.errno not in (errno.EACCES, errno.EPERM):
        return ""
    return (
        f"make it writable for uid {os.geteuid()}, which has to be the same user on all nodes, "
        "and look at the export's squash options"
    )
