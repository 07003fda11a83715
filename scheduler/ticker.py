"""The one thread that decides and acts: each service has its turn, in this order, every tick.

census     what the providers say exists; taken anew when it is a pause old
monitor    steps move on by what is
player     local spot nodes are taken back as the schedule says
dispatch   eligible steps get their nodes
widening   narrow gangs grow again
drivers    workflows with something to run get their driver
scale      nodes come and go
prices     what they cost follows the market
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from scsched.scheduler.audit import Audit
from scsched.scheduler.dispatch import Dispatch
from scsched.scheduler.drivers import Drivers
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.inbox import Inbox
from scsched.scheduler.monitor import Monitor
from scsched.scheduler.player import Player
from scsched.scheduler.prices import Prices
from scsched.scheduler.protocol import Beat, Hint
from scsched.scheduler.scale import Scale
from scsched.scheduler.widening import Widening
from scsched.steps.errors import StoreBusy, StoreFull, StoreLost

log = logging.getLogger("scsched.ticker")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Services:
    """The broker's services, wired."""

    fleet: Fleet
    inbox: Inbox
    monitor: Monitor
    player: Player
    dispatch: Dispatch
    widening: Widening
    drivers: Drivers
    scale: Scale
    prices: Prices
    audit: Audit

    def tick(self, now: datetime, census_age_s: float = 0.0) -> None:
        """Everything once.

        :param census_age_s: how old the census may be, unless a run is said to have ended badly.
        """
        beats = self.inbox.take()
        try:
            census = self.fleet.census(0.0 if _bad_ends(beats) else census_age_s)
            current = self.monitor.tick(now, beats, census)
            self.inbox.forget({w: beat for w, beat in beats.items() if w not in current})
            self.player.tick(now)
            self.dispatch.tick(now)
            if self.monitor.sight is not None:
                self.widening.tick(self.monitor.sight, {pool for pool, _ in self.dispatch.waiting})
            self.drivers.tick(now)
            self.scale.tick(now, census, self.dispatch.waiting, self.drivers.wanted)
            self.prices.tick(now)
        finally:
            self.inbox.ticked()


def _bad_ends(beats: Mapping[int, Beat]) -> bool:
    """To judge such an end one has to know what became of the nodes."""
    reports = (report for beat in beats.values() for report in beat.runs)
    return any(report.end and report.end.hint is not Hint.COMPLETED for report in reports)


class Ticker:
    """Ticks until it is told to stop. A failed tick is logged; the next one starts anew.

    Before each tick it asks whether this is still the only broker: on Postgres a server that was
    restarted has forgotten the lock, and another broker may have it.
    """

    def __init__(
        self,
        services: Services,
        pause_s: float,
        clock: Callable[[], datetime] = utc_now,
        *,
        check_leader: Callable[[], None] = lambda: None,
        on_deposed: Callable[[], None] = lambda: None,
    ) -> None:
        """:param check_leader: raises StoreLost when the lock is gone; then `on_deposed` is called
        and nothing ticks any more.
        """
        self._check_leader = check_leader
        self._on_deposed = on_deposed
        self._services = services
        self._pause_s = pause_s
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker")
        self.deposed = False
        self.ticks = 0
        self.last_at: datetime | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the tick that runs has ended."""
        self._stopping.set()
        self._services.inbox.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set() and self._is_leader():
            now = self._clock()
            try:
                self._services.tick(now, self._pause_s)
            except (StoreBusy, StoreFull, StoreLost) as exc:
                log.error("tick: %s; nothing is lost, trying again", exc)
                self._stopping.wait(1.0)
            except Exception:
                log.exception("tick")
                self._stopping.wait(1.0)
            self.ticks, self.last_at = self.ticks + 1, now
            self._services.inbox.wait(self._pause_s)

    def _is_leader(self) -> bool:
        try:
            self._check_leader()
        except StoreLost as exc:
            log.error("the broker's lock on the database is gone: %s; stopping", exc)
            self.deposed = True
            self._on_deposed()
            return False
        return True
