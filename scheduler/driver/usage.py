"""How much a project takes on its storage: counted in slices, now and then, never for long."""

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

EVERY_S = 600.0
SOONEST_S = 60.0
"""When somebody has to know now, but not more often."""
LONGEST_S = 120.0
"""Of counting in all; a larger project is known by what was counted until then."""


class Usage:
    """Bytes on disk under `folders`; `advance` belongs to one thread, the rest to any."""

    def __init__(
        self, folders: Sequence[Path], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folders = tuple(folders)
        self._clock = clock
        self._walk: Iterator[int] | None = None
        self._began_at: float | None = None
        self._spent_s = 0.0
        self._counted = 0
        self._wanted = False
        self.bytes: int | None = None
        """None: not counted yet. Of a project that takes too long to count, at least this."""

    def want(self) -> None:
        """Count soon."""
        self._wanted = True

    def advance(self, seconds: float) -> None:
        """Go on counting for about `seconds`, if it is time to count."""
        if self._walk is None and not self._due():
            return
        start = self._clock()
        if self._walk is None:
            self._walk, self._counted, self._spent_s = _sizes(self._folders), 0, 0.0
            self._began_at, self._wanted = start, False
        for size in self._walk:
            self._counted += size
            spent_s = self._clock() - start
            if self._spent_s + spent_s > LONGEST_S:
                self._end(max(self._counted, self.bytes or 0))
                return
            if spent_s > seconds:
                self._spent_s += spent_s
                return
        self._end(self._counted)

    def _due(self) -> bool:
        if self._began_at is None:
            return True
        age_s = self._clock() - self._began_at
        return age_s > EVERY_S or (self._wanted and age_s > SOONEST_S)

    def _end(self, found: int) -> None:
        self.bytes = found
        self._walk = None


def _sizes(folders: Sequence[Path]) -> Iterator[int]:
    """Bytes of each file, one with several names once; what vanishes meanwhile is left out."""
    seen: set[tuple[int, int]] = set()
    waiting = [str(folder) for folder in folders]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    yield _size(entry, waiting, seen)
        except OSError:
            yield 0


def _size(entry: "os.DirEntry[str]", waiting: list[str], seen: set[tuple[int, int]]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if stat.S_ISDIR(status.st_mode):
        waiting.append(entry.path)
        return 0
    if status.st_nlink > 1:
        if (status.st_dev, status.st_ino) in seen:
            return 0
        seen.add((status.st_dev, status.st_ino))
    return status.st_blocks * 512
