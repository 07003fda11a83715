"""The local provider of a broker that has no nodes on this machine: marks the ticks that begin."""

from collections.abc import Sequence
from datetime import datetime

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    Notice,
    Price,
    Refused,
    Seen,
    Traits,
)
from tests.faults.kill.journal import Journal, Kind


class Marks:
    """`Provider` and `Reclaims`."""

    traits = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._ticks = 0
        self._listed = False

    def list(self) -> tuple[Seen, ...]:
        """The broker's first tick begins with a call of this."""
        if not self._listed:
            self.journal.write(Kind.TICK, run=1)
        self._listed = True
        return ()

    def tick(self, now: datetime) -> None:
        """Every tick calls this once."""
        self._ticks += 1
        if self._ticks == 2:
            self.journal.write(Kind.TICK, run=2)

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        """No schedule is played here: the market takes back by itself."""

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        return tuple(Refused(one.token, BadRequest("no nodes here")) for one in requests)

    def terminate(self, tokens: Sequence[str]) -> None:
        """There are none."""

    def notices(self) -> tuple[Notice, ...]:
        return ()

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        return ()
