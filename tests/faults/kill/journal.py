"""What happened outside the broker, in one order: an append-only file, synced line by line.

Everybody appends to it: the harness its kills and the submissions that were acknowledged, the
provider its calls, the drivers what they execute. A line is one write to a file opened for
appending, so the order of the lines is an order in which things happened: whoever writes `begin`
before it starts and `end` after it has stopped was at work between the two at the most.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self


class Kind(StrEnum):
    ASKED = "asked"
    """A submission was sent; `token` is its key."""
    CUT = "cut"
    """The connection ended before the answer; the same key is sent again."""
    ACKED = "acked"
    STARTED = "started"
    """A broker; `word` says how."""
    TICK = "tick"
    """A broker begins its tick number `run`."""
    BUSY = "busy"
    """A broker found the lock of the one before it still held, and ended."""
    CRASHED = "crashed"
    """A broker ended by itself."""
    KILLED = "killed"
    """A broker, by us; `word` says which kind of moment was chosen."""
    PLANTED = "planted"
    """A node with our tag and a token that was never ours is about to be made."""
    ASKED_AGAIN = "requeue"
    """A person took the nodes from a step."""
    LAUNCH = "launch"
    """The provider was called; nothing has been done yet."""
    ANSWER = "answer"
    """What the provider says to the launch: the code of the error, or `launched`."""
    TERMINATE = "terminate"
    DRIVER = "driver"
    """A driver has begun."""
    FENCED = "fenced"
    WAITS = "waits"
    """A driver has an order whose nodes are not all there."""
    BEGIN = "begin"
    """A step is executed."""
    END = "end"
    """It is not any more, nor waited for; `word` says why."""
    DIES = "dies"
    """A driver, with all that it executes: it is about to kill itself, or has been stopped and will
    be killed by us; then `word` says which kind of moment was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line."""

    kind: Kind
    pid: int
    at: float = 0.0
    """Seconds since the epoch; for the reader's eyes, the order counts."""
    token: str = ""
    workflow: int = 0
    step: str = ""
    run: int = 0
    epoch: int = 0
    word: str = ""

    @classmethod
    def parse(cls, line: bytes) -> Self:
        found = json.loads(line)
        return cls(**{**found, "kind": Kind(found["kind"])})


class Journal:
    """The file at `path`; any number of threads and processes may write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of the world in that folder."""
        return cls(folder / "journal")

    def write(
        self,
        kind: Kind,
        *,
        pid: int = 0,
        token: str = "",
        workflow: int = 0,
        step: str = "",
        run: int = 0,
        epoch: int = 0,
        word: str = "",
    ) -> None:
        """Append one line; it is on disk on return."""
        entry = Entry(
            kind=kind,
            pid=pid or os.getpid(),
            at=time.time(),
            token=token,
            workflow=workflow,
            step=step,
            run=run,
            epoch=epoch,
            word=word[:200],
        )
        line = json.dumps({name: value for name, value in asdict(entry).items() if value != ""})
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, line.encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self) -> list[Entry]:
        return list(Tail(self.path))


class Tail:
    """Iterates over the lines that have come since the last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def __iter__(self) -> Iterator[Entry]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield Entry.parse(line)
