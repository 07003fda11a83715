"""`scsched logs`: the broker says where the file is, and the user's own rights open it."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from scsched.scheduler.cli.events import Patience
from scsched.scheduler.cli.targets import Target
from scsched.scheduler.client import Client
from scsched.scheduler.render import clean, put, talk
from scsched.steps.errors import NotFound, PermissionDenied, UsageError
from scsched.steps.state import ACTIVE, TERMINAL

POLL_S = 0.5
LOOK_EVERY = 4
"""Polls of the file between two questions to the broker: has the step ended, is it a new run?"""
_BLOCK = 64 * 1024


def step_of(client: Client, found: Sequence[Target]) -> Target:
    """The step itself; of a workflow the one that runs, else the last that failed or ended.

    :raises UsageError: several workflows or steps are named.
    """
    if len(found) != 1:
        raise UsageError(f"{len(found)} things are named, one is wanted", hint="write 42.311")
    target = found[0]
    if target.step:
        return target
    steps = client.workflow(target.workflow)["steps"]
    started = [step for step in steps if step["attempts"]]
    for states in (ACTIVE, {"FAILED"}, TERMINAL):
        if matching := [step for step in started if step["state"] in states]:
            chosen = matching[-1]
            talk(f"{target}.{chosen['id']} {clean(chosen['label'])} {chosen['state']}")
            return Target(target.workflow, chosen["id"])
    raise NotFound(f"{target}: no step has run yet", hint=f"see scsched why {target}")


def show(client: Client, target: Target, *, stream: str, lines: int, follow: bool) -> int:
    """Print the last lines, and go on with them if asked to; returns the exit code.

    :raises NotFound: nothing was printed yet and nobody waits for it.
    """
    place = _Place(client, target, stream)
    path = place.look()
    if not follow:
        with _opened(path, target) as file:
            put(*last_lines(file, lines))
        return 0
    for line in followed(place, lines=lines):
        put(line)
    return 0


class _Place:
    """Where the step prints to now; asks the broker."""

    def __init__(self, client: Client, target: Target, stream: str) -> None:
        self.client = client
        self.target = target
        self.stream = stream
        self.patience = Patience()
        self.ended = False

    def look(self) -> Path | None:
        step = self.patience(lambda: self.client.step(self.target.workflow, self.target.step or ""))
        self.ended = step["state"] in TERMINAL
        paths = step["paths"]
        path = paths["stderr"] if self.stream == "stderr" else paths["stdout"]
        return Path(paths["project"] or "/", path) if path else None


def followed(
    place: _Place, *, lines: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Cleaned lines as they are written, until the step has ended; a new run's file follows."""
    path = place.look()
    file: IO[bytes] | None = None
    rest = b""
    polls = 0
    while True:
        ended = place.ended
        if file is None and path is not None and path.exists():
            file = _opened(path, place.target)
            yield from last_lines(file, lines)
        if file is not None:
            rest += file.read()
            *whole, rest = rest.split(b"\n")
            yield from map(shown, whole)
        if ended:
            break
        sleep(POLL_S)
        polls += 1
        if polls % LOOK_EVERY == 0:
            path = place.look()
        if file is not None and _replaced(file, path):
            file.close()
            file, lines, rest = None, 1_000_000, b""
    if rest:
        yield shown(rest)
    if file is not None:
        file.close()


def last_lines(file: IO[bytes], count: int) -> list[str]:
    """The last `count` lines, read from the end; leaves the file at its end."""
    end = file.seek(0, os.SEEK_END)
    blocks: deque[bytes] = deque()
    newlines, start = 0, end
    while start > 0 and newlines <= count:
        size = min(_BLOCK, start)
        start -= size
        file.seek(start)
        blocks.appendleft(file.read(size))
        newlines += blocks[0].count(b"\n")
    file.seek(end)
    lines = b"".join(blocks).split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return [shown(line) for line in lines[-count:]] if count else []


def shown(line: bytes) -> str:
    """A line as it stands at last: a progress bar rewrites its line after each `\\r`."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    return clean(text.rpartition("\r")[2])


def _opened(path: Path | None, target: Target) -> IO[bytes]:
    """:raises NotFound: there is no such file. :raises PermissionDenied: it is not the user's."""
    if path is None or not path.exists():
        raise NotFound(
            f"{target}: nothing was printed yet", hint=f"see scsched why {target}, or add -f"
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as exc:
        raise PermissionDenied(f"{path}: you may not read it", hint="ask its owner") from exc
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFound(f"{path}: is no plain file")
    return os.fdopen(descriptor, "rb")


def _replaced(file: IO[bytes], path: Path | None) -> bool:
    """Another run has begun another file, or has cut this one short."""
    opened = os.fstat(file.fileno())
    if opened.st_size < file.tell():
        return True
    try:
        return path is not None and not os.path.samestat(opened, path.stat())
    except OSError:
        return False
