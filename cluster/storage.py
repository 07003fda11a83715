"""Is a node's storage the one that the driver sees, and any good? Asked before its first work.

The driver leaves a token in a folder beside the project; `check` runs in each node's process. A
file system that does not answer hangs whoever asks it, and cannot be asked to let go. So all that
touches it happens in a thread of its own that may be left behind, never more than one a mount.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import TypeVar

from scsched.cluster import mounts, tags
from scsched.cluster.storage_look import Found, Look, Steps, Terms, Word
from scsched.steps.errors import ConfigError

T = TypeVar("T")


class Stuck(Exception):
    """The file system has not answered in time; says what was asked of it."""


_under_way: dict[str, Steps] = {}
"""By mount point: what its one thread is at."""
_probes: dict[str, Steps] = {}
"""By mount point: since when a watch waits for an answer."""
_TURN_S = 0.05
_PATIENCE_S = 3.0
"""A watch that waits longer has found a stall: nobody else need try."""


async def check(terms: Mapping[str, object]) -> dict[str, object]:
    """`terms` holds the fields of Terms, the answer those of Found.

    :raises ConfigError: `terms` are none.
    """
    wanted = _parsed(terms)
    node = os.environ.get(tags.NODE, "") or os.uname().nodename
    start = time.monotonic()
    look = Look(wanted, node)
    try:
        found = await bounded(wanted.folder, look.all, wanted.timeout_s)
    except Stuck as exc:
        found = Found(
            node=node,
            word=Word.STALLED,
            problem=f"node {node}: {wanted.folder} does not answer: {exc}; "
            "look at the file server and the network to it",
        )
    return asdict(replace(found, seconds=round(time.monotonic() - start, 3)))


def from_json(found: Mapping[str, object]) -> Found:
    """What `check` answered."""
    return Found(**{**found, "word": Word(str(found["word"]))})  # type: ignore[arg-type]  # its own


async def bounded(path: str, work: Callable[[Steps], T], timeout_s: float) -> T:
    """The answer of `work`, done in a thread that is left behind when it hangs.

    :raises Stuck: no answer within `timeout_s`, or an earlier thread on this mount still hangs.
    """
    mount = mounts.of(path).point
    await _turn(mount, timeout_s)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    steps = _under_way[mount] = Steps()

    def body() -> None:
        try:
            answer: T | Exception = work(steps)
        except Exception as exc:  # handed on to who waits
            answer = exc
        del _under_way[mount]
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(_settle, done, answer)

    threading.Thread(target=body, name=f"storage {mount}", daemon=True).start()
    try:
        return await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        raise Stuck(f"no answer for {timeout_s:.0f} s, {steps.at}") from None


@contextmanager
def probing(path: str) -> Iterator[None]:
    """A watch asks the mount of `path` something, in its own thread."""
    mount = mounts.of(path).point
    steps = _probes[mount] = Steps()
    steps.at = "writing a small file"
    try:
        yield
    finally:
        if _probes.get(mount) is steps:
            del _probes[mount]


async def _turn(mount: str, timeout_s: float) -> None:
    """Wait for the thread that is at it; one that hangs already is not waited for."""
    while True:
        probe, other = _probes.get(mount), _under_way.get(mount)
        for steps, patience_s in ((probe, _PATIENCE_S), (other, timeout_s)):
            if steps is not None and time.monotonic() - steps.since > patience_s:
                waited_s = time.monotonic() - steps.since
                raise Stuck(f"no answer for {waited_s:.0f} s, {steps.at}")
        if other is None:
            return
        await asyncio.sleep(_TURN_S)


def _settle(done: "asyncio.Future[T]", answer: T | Exception) -> None:
    if done.done():
        return
    if isinstance(answer, Exception):
        done.set_exception(answer)
    else:
        done.set_result(answer)


def _parsed(terms: Mapping[str, object]) -> Terms:
    try:
        return Terms(**terms)  # type: ignore[arg-type]  # made by asdict on the other side
    except TypeError as exc:
        raise ConfigError(f"storage check: {exc}; see Terms") from exc
