"""Beats of the drivers, handed from the API's threads to the one thread that ticks."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from scsched.scheduler.protocol import Beat


@dataclass(slots=True)
class Inbox:
    """The newest beat of every workflow. A beat replaces an older one: it repeats all that is."""

    _beats: dict[int, Beat] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _wanted: bool = False
    _put: int = 0
    _taken: int = 0
    _served: int = 0
    """Every beat with a number up to this one has been through a whole tick."""

    def put(self, workflow_id: int, beat: Beat, timeout_s: float = 5.0) -> None:
        """Hand over a beat and wait until a tick is through with it, or `timeout_s`."""
        with self._changed:
            self._beats[workflow_id] = beat
            self._put += 1
            mine = self._put
            self._wake()
            self._changed.wait_for(lambda: self._served >= mine, timeout_s)

    def wake(self) -> None:
        """Tick now rather than at the end of the pause."""
        with self._changed:
            self._wake()

    def _wake(self) -> None:
        self._wanted = True
        self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Pause between two ticks: until something wants one, or `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted, timeout_s)

    def take(self) -> Mapping[int, Beat]:
        """The beats since the last call; the tick that takes them calls `ticked` at its end."""
        with self._changed:
            self._wanted = False
            self._taken = self._put
            beats, self._beats = self._beats, {}
            return beats

    def ticked(self) -> None:
        with self._changed:
            self._served = self._taken
            self._changed.notify_all()
