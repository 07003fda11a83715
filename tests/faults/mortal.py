"""A broker that may die, or be frozen, in the middle of its provider's calls."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.provider import Ec2Provider
from scsched.cluster.provider import Launched, LaunchRequest, Refused, Unreachable


@dataclass(slots=True)
class Fate:
    """At which moments of the provider's calls the broker dies: `launch` and `terminate` before
    the cloud hears of it, `launched` and `terminated` before the broker hears of that."""

    moments: list[str] = field(default_factory=list)
    died: threading.Event = field(default_factory=threading.Event)
    buried: threading.Event = field(default_factory=threading.Event)
    goes_on: bool = False

    def pass_by(self, moment: str) -> None:
        """A dead broker's thread gets no further than this; one that was frozen may wake."""
        if self.moments and self.moments[0] == moment and not self.died.is_set():
            self.moments.pop(0)
            self.died.set()
            self.buried.wait()
            if not self.goes_on:
                raise Unreachable("its broker is dead")

    def wake(self) -> None:
        """It was only frozen: its threads go on where they were."""
        self.goes_on = True
        self.buried.set()


class Mortal(Ec2Provider):
    """The real one, and a broker that may die in the middle of its calls."""

    def __init__(self, site: sites.Site, deployment: str, fate: Fate) -> None:
        super().__init__(site, deployment)
        self._fate = fate

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        self._fate.pass_by("launch")
        found = super().launch(requests)
        self._fate.pass_by("launched")
        return found

    def terminate(self, tokens: Sequence[str]) -> None:
        self._fate.pass_by("terminate")
        super().terminate(tokens)
        self._fate.pass_by("terminated")
