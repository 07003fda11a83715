"""Things that happen later, one after the other, in one thread."""

import heapq
import itertools
import threading
import time
import traceback
from collections.abc import Callable


class Timeline:
    """Runs what is due. A thing that fails is reported and does not stop the others."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="timeline", daemon=True).start()

    def after(self, seconds: float, thing: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), thing))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            thing = self._next()
            try:
                thing()
            except Exception:
                traceback.print_exc()

    def _next(self) -> Callable[[], None]:
        with self._changed:
            while True:
                left = self._due[0][0] - time.monotonic() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
