"""Does the storage answer? Asked every few seconds by a thread that may hang, told by one that not.

    watch thread   statvfs · write, sync and rename a small hidden file · a slice of `spare` work
         │         when the server is gone it hangs here, for as long as it takes
    state()        looks at the clock only: no answer for `stall_s` is STALLED

A node whose storage stalls is alive: its Dask worker goes on beating, since its event loop never
touches the storage. Nodes tell their driver on the topic TOPIC.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scsched.cluster import tags
from scsched.cluster.storage import probing
from scsched.cluster.storage_look import Word, word_of

TOPIC = "scsched-storage"
PERIOD_S = 5.0
STALL_S = 10.0
SPARE_STALL_S = 60.0
"""A folder of a million files takes its time to be read."""
LEAST_FREE = 2**20
"""A file system keeps some last blocks for itself: a tiny file still goes where no other does."""
_ANNOUNCE_S = 0.5
_REPEAT_S = 5.0
"""Bad news is repeated: listeners come and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one probe found; sizes in bytes."""

    word: Word = Word.OK
    detail: str = ""
    free: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the storage is now, and since when it is so."""

    word: Word
    since: datetime
    for_s: float
    """How long, by a clock that nobody sets."""
    detail: str = ""
    free: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class _Moment:
    ticks: float
    at: datetime

    @classmethod
    def now(cls, clock: Callable[[], float]) -> "_Moment":
        return cls(clock(), datetime.now(UTC))


class StorageWatch:
    """Watches one folder from `start` on. `spare(seconds)` is called between probes, in the thread.

    `state` may be asked from any thread; it never waits for the storage.
    """

    def __init__(
        self,
        probe: Callable[[], Outcome],
        *,
        period_s: float = PERIOD_S,
        stall_s: float = STALL_S,
        spare: Callable[[float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probe = probe
        self._period_s = period_s
        self._stall_s = stall_s
        self._spare = spare
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: _Moment | None = None
        self._patience_s = stall_s
        self._last = Outcome()
        self._last_since = _Moment.now(clock)
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="storage watch", daemon=True).start()

    def stop(self) -> None:
        """Ask no more; a thread that hangs is left behind."""
        self._ended.set()

    def state(self) -> State:
        with self._lock:
            asked, last, since = self._asked, self._last, self._last_since
            patience_s = self._patience_s
        now = self._clock()
        if asked is not None and now - asked.ticks > patience_s:
            last, since = Outcome(word=Word.STALLED, free=last.free, total=last.total), asked
        return State(
            word=last.word,
            since=since.at,
            for_s=now - since.ticks,
            detail=last.detail,
            free=last.free,
            total=last.total,
        )

    def _run(self) -> None:
        while not self._ended.is_set():
            self._ask()
            self._ended.wait(self._period_s)

    def _ask(self) -> None:
        start = self._clock()
        with self._asking(self._stall_s):
            found = self._probe()
        with self._lock:
            stalled = self._clock() - start > self._stall_s
            if stalled or found.word is not self._last.word:
                self._last_since = _Moment.now(self._clock)
            self._last = found
        if self._spare is not None:
            with self._asking(max(self._stall_s, SPARE_STALL_S)):
                self._spare(self._period_s / 5)

    @contextmanager
    def _asking(self, patience_s: float) -> Iterator[None]:
        with self._lock:
            self._asked, self._patience_s = _Moment.now(self._clock), patience_s
        try:
            yield
        finally:
            with self._lock:
                self._asked = None


def probe_of(folder: Path, name: str) -> Callable[[], Outcome]:
    """Space, and whether a small file can be written, synced and put in place.

    `name` is that of who asks: each has a file of its own.
    """
    target = folder / f".watch-{name}"
    part = folder / f".watch-{name}.part"

    def probe() -> Outcome:
        free = total = None
        try:
            with probing(str(folder)):
                space = os.statvfs(folder)
                free, total = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
                with part.open("wb") as file:
                    file.write(b"%d\n" % time.time())
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(target)
        except OSError as exc:
            what = f"{folder}: {exc.strerror or exc}"
            return Outcome(word=word_of(exc), detail=what, free=free, total=total)
        if free < LEAST_FREE:
            detail = f"{folder}: {free // 1024} KiB free"
            return Outcome(word=Word.FULL, detail=detail, free=free, total=total)
        return Outcome(free=free, total=total)

    return probe


_watches: dict[str, StorageWatch] = {}
_announcing: dict[str, "asyncio.Task[None]"] = {}


async def watch(
    folder: str, period_s: float = PERIOD_S, stall_s: float = STALL_S, dask_worker: Any = None
) -> bool:
    """Watch `folder` from this node until it ends, and announce; False: it did already.

    For `run_on`: Dask hands its worker over as `dask_worker`.
    """
    if folder in _watches:
        return False
    node = os.environ.get(tags.NODE, "") or os.uname().nodename
    probe = probe_of(Path(folder), node)
    _watches[folder] = StorageWatch(probe, period_s=period_s, stall_s=stall_s)
    _watches[folder].start()
    if dask_worker is not None:

        def tell(news: dict[str, object]) -> None:
            dask_worker.log_event(TOPIC, {"node": node, "folder": folder, **news})

        _announcing[folder] = asyncio.create_task(_announce(_watches[folder], tell))
    return True


async def unwatch(folder: str) -> None:
    """End what `watch` began."""
    found = _watches.pop(folder, None)
    if found is not None:
        found.stop()
    task = _announcing.pop(folder, None)
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def news(state: State) -> dict[str, object]:
    """A state as the topic carries it. Seconds, not times: the clocks of hosts differ."""
    return {
        "word": str(state.word),
        "for_s": round(state.for_s, 3),
        "detail": state.detail,
        "free": state.free,
        "total": state.total,
    }


async def _announce(watched: StorageWatch, tell: Callable[[dict[str, object]], None]) -> None:
    """Each change at once, and what is bad again and again."""
    told, at = Word.OK, 0.0
    while True:
        state = watched.state()
        again = state.word is not Word.OK and time.monotonic() - at > _REPEAT_S
        if state.word is not told or again:
            told, at = state.word, time.monotonic()
            tell(news(state))
        await asyncio.sleep(_ANNOUNCE_S)
