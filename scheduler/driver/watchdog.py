"""Looks at a run while it goes: progress for the queue, and an end where it must not go on."""

import asyncio
import logging
import time
from collections.abc import Callable

from scsched.scheduler.driver.outcome import Trace
from scsched.scheduler.driver.storage import ProjectStorage
from scsched.scheduler.driver.watch import Watcher
from scsched.scheduler.protocol import RunOrder
from scsched.steps.errors import ScschedError

log = logging.getLogger("scsched.driver")
LOOK_S = 1.0
LAST_LOOK_S = 30.0
"""So long an end waits for the last look: the storage may hang."""

_UNREADABLE = (OSError, ValueError, ScschedError)
"""What a look may raise at files that are being replaced, or on a storage with a passing fault."""


class Watchdog:
    """Of one run. No fault of a look ends the watch: it sees nothing new then."""

    def __init__(
        self,
        order: RunOrder,
        trace: Trace,
        storage: ProjectStorage | None,
        *,
        news: Callable[[], None],
        stop: Callable[[str], None],
    ) -> None:
        """:param stop: called with the reason why the run must not go on."""
        self._order = order
        self._names = [node.name for node in order.nodes]
        self._trace = trace
        self._storage = storage
        self._news = news
        self._stop = stop
        self._fault = ""
        self.stop_after = order.stop_after

    async def watch(self, watcher: Watcher) -> None:
        """Until it is cancelled."""
        grew_at = started_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            grew = await self.look(watcher)
            if not self._trace.stopping and await self._is_far_enough(watcher):
                self._trace.in_time = True
                self._stop(f"stopped after iteration {self.stop_after}, which is whole")
            now = time.monotonic()
            if grew:
                grew_at = now
            if now - grew_at - self._waited_s(grew_at) > self._order.stall_s:
                self._stop("STALLED")
            if 0 < self._order.walltime_s < now - started_at:
                self._stop("TIMEOUT")

    async def look(self, watcher: Watcher) -> bool:
        """Take note of its progress; whether its output has grown."""
        try:
            look = await asyncio.to_thread(watcher.look)
        except _UNREADABLE as exc:
            self._note(str(exc))
            return False
        self._note("")
        if look.progress is not None and look.progress != self._trace.progress:
            self._trace.progress = look.progress
            self._news()
        return look.grew

    async def last_look(self, watcher: Watcher) -> None:
        """A short program may have come and gone between two looks."""
        try:
            await asyncio.wait_for(self.look(watcher), LAST_LOOK_S)
        except TimeoutError:
            self._note(f"no answer for {LAST_LOOK_S:.0f} s")

    def _note(self, fault: str) -> None:
        """Once, not at every look."""
        if fault and fault != self._fault:
            log.warning("run %d: its progress cannot be read: %s", self._order.run, fault)
        self._fault = fault

    def _waited_s(self, since: float) -> float:
        """Time in which the storage did not answer, so that nothing could grow."""
        return self._storage.stalled_s(since, self._names) if self._storage else 0.0

    async def _is_far_enough(self, watcher: Watcher) -> bool:
        """Whether the iteration is certified, not merely written, that it is to stop after."""
        written = (self._trace.progress or {}).get("checkpoint")
        if self.stop_after is None or written is None or written < self.stop_after:
            return False
        try:
            return await asyncio.to_thread(watcher.certified, self.stop_after)
        except _UNREADABLE as exc:
            self._note(str(exc))
            return False
