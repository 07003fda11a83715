"""Kills the broker with SIGKILL, again and again, while people submit to it; then lets it finish.

Moments of a kill:
    random     some time after its first tick
    launch     while it calls the provider, or just after
    work       while a step is executed
    recovery   within half a second of its start
    tick       in its first tick, in which it takes up what the one before it left
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process
from scsched.db.session import open_store
from scsched.scheduler.client import Client
from scsched.steps.errors import (
    ScschedError,
    StoreError,
)
from tests.faults.kill.broker import Site
from tests.faults.kill.brokers import Brokers, brokers_of, wait_until
from tests.faults.kill.journal import Kind, Tail
from tests.faults.kill.outside import World
from tests.faults.kill.people import People

PAUSE_S = 0.005
START_S = 30.0
MAX_CRASHES = 10
MOMENT_S = 5.0
"""How long a kill waits for its moment."""
MOMENTS = {"random": 5, "launch": 4, "work": 4, "recovery": 4, "tick": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    kills: int
    moments: Mapping[str, int] = field(default_factory=lambda: MOMENTS)
    """How often each comes in a deck, which is shuffled and dealt again and again."""
    cold_starts: float = 0.05
    """Share of the starts that are a program of its own."""
    live_workflows: int = 5
    longest_wait_s: float = 1.0
    requeues: float = 0.1
    """Chance, at each look, that a person takes the nodes from a running step."""
    drain_s: float = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be judged."""

    site: Site
    left: tuple[str, ...]
    """Processes of the deployment that were there at the end."""
    drained: bool
    kill_s: float
    drain_s: float


@contextmanager
def site(database: str = "", mutant: str = "") -> Iterator[Site]:
    """A place for one campaign. At its end nothing of it is left, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="kill-", dir="/tmp") as folder:
        root = Path(folder)
        for name in ("outside", "state", "state/wf", "state/log"):
            (root / name).mkdir()
        made = Site(root / "outside", root / "state", database, mutant)
        World(made.folder).create()
        try:
            yield made
        finally:
            _end_all(made)


def run(place: Site, campaign: Campaign) -> Outcome:
    """Kill, drain, stop; returns with every process of ours ended but those that should not be."""
    began = time.monotonic()
    with brokers_of(place) as brokers:
        killer = Killer(brokers, campaign, place)
        people = People(
            place.settings.socket,
            World(place.folder).journal,
            live_workflows=campaign.live_workflows,
            requeues=campaign.requeues,
        )
        people.start()
        try:
            killer.run()
        finally:
            people.stop()
        drain_began = time.monotonic()
        deployment = _deployment(place)
        client = Client(place.settings.socket, timeout_s=15.0, attempts=1)
        drained = wait_until(
            lambda: not brokers.alive() or _is_idle(client, deployment), within_s=campaign.drain_s
        )
        brokers.stop()
        left = tuple(str(process) for process in _processes(deployment))
    drain_s = time.monotonic() - drain_began
    return Outcome(place, left, drained, drain_began - began, drain_s)


class Killer:
    """Chooses the moments."""

    def __init__(self, brokers: Brokers, campaign: Campaign, place: Site) -> None:
        self._brokers = brokers
        self._campaign = campaign
        self._place = place
        self._journal = World(place.folder).journal
        self._tail = Tail(self._journal.path)
        self._ticking: set[int] = set()
        self._ticked: set[int] = set()
        self._busy: set[int] = set()
        self._crashes = 0
        self._launches: dict[int, int] = {}
        self._at_work: dict[int, int] = {}
        """Pid of the driver, by run."""
        self._deck: list[str] = []
        self._chance = random.Random()  # noqa: S311 - chooses moments

    def run(self) -> None:
        """All kills, and a last start."""
        kills = 0
        pid = self._start()
        while kills < self._campaign.kills:
            moment = self._moment()
            self._wait_for(moment, pid)
            if self._brokers.kill(moment):
                kills += 1
            else:
                self._ended_by_itself(pid)
            pid = self._start()
        while not self._has_ticked(pid):
            self._ended_by_itself(pid)
            pid = self._start()

    def _start(self) -> int:
        return self._brokers.start(cold=self._chance.random() < self._campaign.cold_starts)

    def _moment(self) -> str:
        if not self._deck:
            self._deck = [
                name for name, count in self._campaign.moments.items() for _ in range(count)
            ]
            self._chance.shuffle(self._deck)
        return self._deck.pop()

    def _wait_for(self, moment: str, pid: int) -> None:
        if moment == "recovery":
            return self._pause(0.5)
        if moment == "tick":
            self._wait(lambda: pid in self._ticking, START_S)
            return self._pause(0.1)
        self._has_ticked(pid)
        if moment == "random":
            return self._pause(self._campaign.longest_wait_s)
        if moment == "work":
            self._wait(lambda: bool(self._at_work), MOMENT_S)
            return self._pause(0.02)
        before = self._launches.get(pid, 0)
        self._wait(lambda: self._launches.get(pid, 0) > before, MOMENT_S)
        return self._pause(0.1)

    def _pause(self, at_most_s: float) -> None:
        self._wait(lambda: False, self._chance.uniform(0.0, at_most_s))

    def _has_ticked(self, pid: int) -> bool:
        return self._wait(lambda: pid in self._ticked, START_S)

    def _wait(self, true: Callable[[], bool], within_s: float) -> bool:
        """Until it is true, the broker has ended, or the time is over."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and self._brokers.alive():
            self._look()
            if true():
                return True
            time.sleep(PAUSE_S)
        self._look()
        return true()

    def _look(self) -> None:
        for entry in self._tail:
            if entry.kind is Kind.TICK:
                (self._ticking if entry.run == 1 else self._ticked).add(entry.pid)
            elif entry.kind is Kind.LAUNCH:
                self._launches[entry.pid] = self._launches.get(entry.pid, 0) + 1
            elif entry.kind is Kind.BUSY:
                self._busy.add(entry.pid)
            elif entry.kind is Kind.BEGIN:
                self._at_work[entry.run] = entry.pid
            elif entry.kind is Kind.END:
                self._at_work.pop(entry.run, None)
            elif entry.kind is Kind.DIES:
                self._at_work = {r: pid for r, pid in self._at_work.items() if pid != entry.pid}

    def _ended_by_itself(self, pid: int) -> None:
        self._look()
        if pid in self._busy:
            return
        self._journal.write(Kind.CRASHED, pid=pid)
        self._crashes += 1
        if self._crashes > MAX_CRASHES:
            raise RuntimeError(f"the broker does not stay up: {self._said()}")

    def _said(self) -> str:
        return (self._place.state_dir / "log" / "broker.log").read_text()[-3000:]


def _is_idle(client: Client, deployment: str) -> bool:
    """Every workflow has ended, and so have the nodes and the drivers."""
    with suppress(ScschedError):
        busy = client.workflows(scope="all", live=True)["items"] or client.nodes()["items"]
        return not busy and not _processes(deployment)
    return False


def _deployment(place: Site) -> str:
    store = open_store(place.settings.database_url)
    try:
        return store.deployment()
    finally:
        store.close()


def _processes(deployment: str) -> list[Process]:
    """Those with the tag of the deployment, which drivers hand on to all that they start."""
    return processes.find({tags.DEPLOYMENT: deployment})


def _end_all(place: Site) -> None:
    with suppress(StoreError):  # no broker has come as far as to make the tables
        processes.kill_tagged({tags.DEPLOYMENT: _deployment(place)})
