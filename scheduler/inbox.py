"""Beats of the drivers, handed from the API's threads to the one thread that ticks."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from scsched.scheduler.protocol import Beat


@dataclass(slots=True)
class Inbox:
    """The latest beat of every workflow. A beat replaces an older one: it repeats all that is.

    Every tick looks at all of them; one that says nothing new neither wakes a tick nor waits.
    """

    _latest: dict[int, Beat] = field(default_factory=dict)
    _heard: dict[int, int] = field(default_factory=dict)
    """How many beats there were, by workflow."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _wanted: bool = False
    _put: int = 0
    _taken: int = 0
    _served: int = 0
    """Every beat with a number up to this one has been through a whole tick."""

    def put(self, workflow_id: int, beat: Beat, timeout_s: float = 5.0) -> None:
        """Hand over a beat; wait until a tick is through with its news, or `timeout_s`."""
        with self._changed:
            self._heard[workflow_id] = self.heard(workflow_id) + 1
            if self._latest.get(workflow_id) == beat and not _ends(beat):
                return
            self._latest[workflow_id] = beat
            self._put += 1
            mine = self._put
            self._wake()
            self._changed.wait_for(lambda: self._served >= mine, timeout_s)

    def heard(self, workflow_id: int) -> int:
        """How many beats of the workflow's drivers there were so far, with news or without."""
        return self._heard.get(workflow_id, 0)

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
        """All latest beats; the tick that takes them calls `ticked` at its end."""
        with self._changed:
            self._wanted = False
            self._taken = self._put
            return dict(self._latest)

    def forget(self, beats: Mapping[int, Beat]) -> None:
        """These come from drivers given up. What has replaced one of them meanwhile stays."""
        with self._changed:
            for workflow_id, beat in beats.items():
                if self._latest.get(workflow_id) is beat:
                    del self._latest[workflow_id]

    def ticked(self) -> None:
        with self._changed:
            self._served = self._taken
            self._changed.notify_all()


def _ends(beat: Beat) -> bool:
    """The driver waits for the broker to close a run: until it has, every such beat is urgent."""
    return any(report.end is not None for report in beat.runs)
