"""Chooses the moments, and kills with SIGKILL.

Moments of the broker:
    random     some time after its first tick
    launch     while it calls the provider, or just after
    work       while a step is executed
    recovery   within half a second of its start
    tick       in its first tick, in which it takes up what the one before it left
    late       some seconds after its first tick, when graces are over that each broker counts anew

Moments of a driver:
    driver-work      while it executes a step
    driver-waiting   while a step of it waits for its nodes
    driver-start     within a tenth of a second of its start

And both: the broker while a step is executed, and the driver of that step before the next broker.
"""

import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGSTOP

from scsched.cluster import processes
from scsched.cluster.processes import Process
from tests.faults.kill.broker import Site
from tests.faults.kill.brokers import Brokers, wait_until
from tests.faults.kill.journal import Journal, Kind
from tests.faults.kill.watch import Driver, Watch

PAUSE_S = 0.005
START_S = 30.0
MAX_CRASHES = 10
LATE_S = (4.0, 6.0)
MOMENT_S = 5.0
"""How long a kill waits for its moment."""
BROKER_MOMENTS = {"random": 5, "launch": 4, "work": 4, "recovery": 4, "tick": 3, "late": 1}
DRIVER_MOMENTS = {"driver-work": 3, "driver-waiting": 2, "driver-start": 2}
MOMENTS = {**BROKER_MOMENTS, **DRIVER_MOMENTS, "both": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    kills: int
    """Of brokers and drivers."""
    moments: Mapping[str, int] = field(default_factory=lambda: MOMENTS)
    """How often each comes in a deck, which is shuffled and dealt again and again."""
    cold_starts: float = 0.05
    """Share of the starts that are a program of its own."""
    live_workflows: int = 5
    longest_wait_s: float = 1.0
    requeues: float = 0.1
    """Chance, at each look, that a person takes the nodes from a running step."""
    strangers: float = 0.1
    """Chance, at each death of a broker, that a node is made which nobody has on record."""
    drain_s: float = 90.0


class Killer:
    """Deals the moments, waits for each, and kills."""

    def __init__(self, brokers: Brokers, campaign: Campaign, place: Site) -> None:
        self._brokers = brokers
        self._campaign = campaign
        self._place = place
        self._watch = Watch(place.journal.path)
        self._crashes = 0
        self._deck: list[str] = []
        self._chance = random.Random()  # noqa: S311 - chooses moments
        self._pid = 0
        """Of the broker that is up."""

    def run(self, deployment: Callable[[], str]) -> None:
        """All kills, and a last start.

        :param deployment: asked for once a broker has ticked.
        """
        kills = 0
        self._start()
        while kills < self._campaign.kills:
            moment = self._moment()
            if moment in DRIVER_MOMENTS:
                kills += self._kill_driver(moment)
                continue
            self._wait_for(moment)
            if self._brokers.kill(moment):
                kills += 1
                if moment == "both" and kills < self._campaign.kills:
                    kills += self._kill_one(self._workers(), moment)
                if self._watch.ticked and self._chance.random() < self._campaign.strangers:
                    self._place.world.plant(deployment())
            else:
                self._ended_by_itself()
            self._start()
        while not self._has_ticked():
            self._ended_by_itself()
            self._start()

    # ---- brokers

    def _start(self) -> None:
        self._pid = self._brokers.start(cold=self._chance.random() < self._campaign.cold_starts)

    def _moment(self) -> str:
        if not self._deck:
            self._deck = [
                name for name, count in self._campaign.moments.items() for _ in range(count)
            ]
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _wait_for(self, moment: str) -> None:
        pid, watch = self._pid, self._watch
        if moment == "recovery":
            return self._pause(0.5)
        if moment == "tick":
            self._wait(lambda: pid in watch.ticking, START_S)
            return self._pause(0.1)
        self._has_ticked()
        if moment == "random":
            return self._pause(self._campaign.longest_wait_s)
        if moment == "late":
            return self._pause(LATE_S[1], LATE_S[0])
        if moment in ("work", "both"):
            self._wait(lambda: bool(watch.at_work), MOMENT_S)
            return self._pause(0.02)
        before = watch.launches.get(pid, 0)
        self._wait(lambda: watch.launches.get(pid, 0) > before, MOMENT_S)
        return self._pause(0.1)

    def _ended_by_itself(self) -> None:
        self._watch.look()
        if self._pid in self._watch.busy:
            return
        self._place.journal.write(Kind.CRASHED, pid=self._pid)
        self._crashes += 1
        if self._crashes > MAX_CRASHES:
            raise RuntimeError(f"the broker does not stay up: {self._said()}")

    def _said(self) -> str:
        return (self._place.state_dir / "log" / "broker.log").read_text()[-3000:]

    # ---- drivers

    def _kill_driver(self, moment: str) -> int:
        """How many were killed: none where that moment does not come."""
        watch = self._watch
        self._has_ticked()
        if moment == "driver-start":
            before = watch.begun
            self._wait(lambda: watch.begun > before, MOMENT_S)
            self._pause(0.1)
            return self._kill_one(watch.newest()[:1], moment)
        find = self._workers if moment == "driver-work" else self._waiters
        self._wait(lambda: bool(find()), MOMENT_S)
        self._pause(0.02)
        return self._kill_one(find(), moment)

    def _workers(self) -> Collection[int]:
        return set(self._watch.at_work.values())

    def _waiters(self) -> Collection[int]:
        return set(self._watch.waiting.values())

    def _kill_one(self, pids: Collection[int], moment: str) -> int:
        self._watch.look()
        known = [self._watch.drivers[pid] for pid in pids if pid in self._watch.drivers]
        if not known:
            return 0
        return slay(self._chance.choice(known), self._place.journal, moment)

    # ---- waiting

    def _pause(self, at_most_s: float, at_least_s: float = 0.0) -> None:
        self._wait(lambda: False, self._chance.uniform(at_least_s, at_most_s))

    def _has_ticked(self) -> bool:
        return self._wait(lambda: self._pid in self._watch.ticked, START_S)

    def _wait(self, true: Callable[[], bool], within_s: float) -> bool:
        """Until it is true, the broker has ended, or the time is over."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self._brokers.alive():
            self._watch.look()
            if true():
                return True
            time.sleep(PAUSE_S)
        self._watch.look()
        return true()


def slay(driver: Driver, journal: Journal, moment: str) -> int:
    """SIGKILL. Its line stands after all that it wrote itself, since it is stopped first.

    How many died of it: none when it had ended by itself.
    """
    process = driver.process
    if not processes.send(process, SIGSTOP):
        return 0
    wait_until(lambda: _is_still(process), within_s=20.0, pause_s=0.001)
    if not processes.alive(process):
        return 0
    journal.write(Kind.DIES, pid=process.pid, workflow=driver.workflow, word=moment)
    processes.send(process, SIGKILL)
    if not wait_until(lambda: not processes.alive(process), within_s=20.0, pause_s=0.001):
        raise RuntimeError(f"process {process} outlives SIGKILL")
    return 1


def _is_still(process: Process) -> bool:
    """Whether every thread of it stands still, or it has ended."""
    if not processes.alive(process):
        return True
    try:
        stats = [path.read_text() for path in Path(f"/proc/{process.pid}/task").glob("*/stat")]
    except OSError:
        return False
    return all(stat[stat.rindex(")") + 2] == "T" for stat in stats)
