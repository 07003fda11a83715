"""Kills the broker with SIGKILL, again and again, while people submit to it; then lets it finish.

Moments of a kill:
    random     some time after its first tick
    launch     while it calls the provider, or just after
    work       while a step is executed
    recovery   within half a second of its start
    tick       in its first tick, in which it takes up what the one before it left
"""

import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process
from scsched.db.session import open_store
from scsched.scheduler.client import Client
from scsched.steps.errors import (
    BrokerUnreachable,
    ScschedError,
    StoreBusy,
    StoreError,
    StoreLost,
)
from tests.faults.kill import workflows
from tests.faults.kill.broker import Site
from tests.faults.kill.journal import Kind, Tail
from tests.faults.kill.outside import World

ROOT = Path(__file__).parents[3]
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
    with _brokers(place) as brokers:
        killer = Killer(brokers, campaign, place)
        people = People(place, campaign)
        people.start()
        try:
            killer.run()
        finally:
            people.stop()
        drain_began = time.monotonic()
        deployment = _deployment(place)
        client = Client(place.settings.socket, timeout_s=15.0, attempts=1)
        drained = _wait_until(
            lambda: not brokers.alive() or _is_idle(client, deployment), within_s=campaign.drain_s
        )
        brokers.stop()
        left = tuple(str(process) for process in _processes(deployment))
    drain_s = time.monotonic() - drain_began
    return Outcome(place, left, drained, drain_began - began, drain_s)


class Brokers:
    """Starts one broker after the other."""

    def __init__(self, place: Site, nursery: "subprocess.Popen[bytes]") -> None:
        self._place = place
        self._nursery = nursery
        self._journal = World(place.folder).journal
        self._cold: list[subprocess.Popen[bytes]] = []
        self.current: Process | None = None

    def start(self, *, cold: bool = False) -> int:
        pid = self._start_cold() if cold else self._start_forked()
        self.current = processes.identify(pid)
        self._journal.write(Kind.STARTED, pid=pid, word="cold" if cold else "forked")
        return pid

    def kill(self, moment: str) -> bool:
        """SIGKILL, and wait until it is gone. False: it had ended by itself."""
        broker = self.current
        killed = broker is not None and processes.send(broker, SIGKILL)
        if broker is not None and killed:
            self._gone(broker)
            self._journal.write(Kind.KILLED, pid=broker.pid, word=moment)
        return killed

    def alive(self) -> bool:
        return self.current is not None and processes.alive(self.current)

    def stop(self) -> None:
        """As a person would. One that does not end counts as crashed."""
        broker = self.current
        if broker is None:
            return
        if not processes.send(broker, SIGTERM):
            self._journal.write(Kind.CRASHED, pid=broker.pid, word="while nobody killed it")
            return
        if not _wait_until(lambda: not processes.alive(broker), within_s=20.0):
            self._journal.write(Kind.CRASHED, pid=broker.pid, word="does not stop on SIGTERM")
            processes.send(broker, SIGKILL)

    def close(self) -> None:
        """Kill what is left, and collect all."""
        if self.current is not None:
            processes.send(self.current, SIGKILL)
        for cold in self._cold:
            cold.wait(timeout=20.0)
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(timeout=20.0)
        self._nursery.stdout.close()

    def _start_forked(self) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(b"\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def _start_cold(self) -> int:
        with (self._place.state_dir / "log" / "broker.log").open("ab") as out:
            self._cold.append(_program(self._place, out=out))
        return self._cold[-1].pid

    def _gone(self, broker: Process) -> None:
        dead = lambda: not processes.alive(broker)  # noqa: E731
        if not _wait_until(dead, within_s=20.0, pause_s=0.001):
            raise RuntimeError(f"process {broker} outlives SIGKILL")


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


class People(threading.Thread):
    """Submit workflows, each under a key, and send one again until it is acknowledged."""

    def __init__(self, place: Site, campaign: Campaign) -> None:
        super().__init__(name="people")
        self._client = Client(place.settings.socket, timeout_s=15.0, attempts=1)
        self._journal = World(place.folder).journal
        self._campaign = campaign
        self._stopping = threading.Event()
        self._chance = random.Random()  # noqa: S311 - makes workflows

    def stop(self) -> None:
        """Returns when the submission under way was acknowledged, or given up unacknowledged."""
        self._stopping.set()
        self.join(timeout=60.0)
        if self.is_alive():
            raise RuntimeError("a submission hangs")

    def run(self) -> None:
        while not self._stopping.is_set():
            live = self._live()
            if live and self._chance.random() < self._campaign.requeues:
                self._requeue(self._chance.choice(live))
            if live is not None and len(live) < self._campaign.live_workflows:
                self._submit()
            self._stopping.wait(0.05)

    def _live(self) -> list[int] | None:
        with suppress(ScschedError):
            return [item["id"] for item in self._client.workflows(live=True)["items"]]
        return None

    def _submit(self) -> None:
        key = uuid.uuid4().hex
        market = "spot" if self._chance.random() < 0.5 else "on-demand"
        body = {
            "document": workflows.document(self._chance),
            "name": f"kill {key[:6]}",
            "market": market,
            "key": key,
        }
        self._journal.write(Kind.ASKED, token=key)
        while True:
            try:
                answer = self._client.submit(body)
            except StoreLost:
                self._journal.write(Kind.CUT, token=key)
            except (BrokerUnreachable, StoreBusy):
                if self._stopping.is_set():
                    return
            else:
                self._journal.write(Kind.ACKED, token=key, workflow=answer["id"] or 0)
                return
            time.sleep(0.02)

    def _requeue(self, workflow: int) -> None:
        with suppress(ScschedError):
            for step in self._client.workflow(workflow)["steps"]:
                if step["state"] == "RUNNING":
                    self._client.act("requeue", f"{workflow}.{step['id']}", reason="a test")
                    self._journal.write(Kind.ASKED_AGAIN, workflow=workflow, step=step["id"])
                    return


@contextmanager
def _brokers(place: Site) -> Iterator[Brokers]:
    with (place.state_dir / "log" / "broker.log").open("ab") as out:
        nursery = _program(place, "--nursery", out=out)
    brokers = Brokers(place, nursery)
    try:
        yield brokers
    finally:
        brokers.close()


def _program(place: Site, *more: str, out: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.kill.broker", *place.arguments, *more],
        stdin=subprocess.PIPE if more else subprocess.DEVNULL,
        stdout=subprocess.PIPE if more else out,
        stderr=out,
        cwd=ROOT,
    )


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


def _wait_until(true: Callable[[], bool], *, within_s: float, pause_s: float = 0.1) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True
