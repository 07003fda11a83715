"""The broker's services, wired as the daemon does it, over the EC2 provider and an imaginary cloud.

    world.submit(...)        a workflow is taken in
    world.until(holds)       beats, ticks and orders, until it holds
    world.skip(70)           the same while the broker's clock runs ahead
    world.kill_at("launched")  the broker dies at that moment of its next such call, and comes again
    world.settle()           all runs are finished and all nodes go
    world.problems()         what is wrong in the end: with steps, attempts, nodes and money

Calls go over HTTP, in the threads that the daemon has, at a quicker pace. Machines do nothing, and
drivers are played: a node answers the driver whose address its user data names.
"""

import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.ec2 import site as sites
from scsched.cluster.pools import Market
from scsched.cluster.provider import NodeState
from scsched.db import models
from scsched.db.session import Store, open_store
from scsched.scheduler import wiring
from scsched.scheduler.background import Background, Pace
from scsched.scheduler.config import LimitsConfig, RetryConfig, Settings
from scsched.scheduler.config_pools import PoolConfig, StorageConfig
from scsched.scheduler.protocol import Phase
from scsched.scheduler.ticker import Services, utc_now
from scsched.scheduler.watcher import Every
from scsched.scheduler.wiring import Outside, wire
from tests.cloudbox.client import Box, Machine
from tests.cloudbox.fixtures import flat_box
from tests.db import rows
from tests.faults import books
from tests.faults.births import Births
from tests.faults.mortal import Fate, Mortal
from tests.scheduler.world import Going, NoReclaims, PlayedDriver, World

PROVIDER = "box"
KIND, OTHER = "t3.small", "t3.medium"
USD = {KIND: Decimal(36), OTHER: Decimal(72)}
"""A cent a second and two: so short a life must cost something."""
QUICK = Pace(rate_per_s=1000.0, burst=1000, again_s=0.3)
OFTEN = Every(list_s=0.05)
PATIENCE_S = 120.0
PAUSE_S = 0.02
PAUSE_FOREVER_S = 86400.0


def pool(name: str = "spot", **values: object) -> PoolConfig:
    """Spot nodes of two types in two zones; no step of these tests waits for a boot."""
    fields: dict[str, object] = {
        "provider": PROVIDER,
        "market": Market.SPOT,
        "max_nodes": 6,
        "types": (KIND, OTHER),
        "zones": ("us-east-1a", "us-east-1b"),
        "cores": 4,
        "memory_gib": 16.0,
        "usd_per_hour": USD,
        "storage": "shared",
        "boot_s": 3600.0,
        "warm_s": 600.0,
    }
    return PoolConfig.model_validate({"name": name, **fields, **values})


class CloudWorld(World):
    """One broker whose nodes are instances of a box."""

    def __init__(
        self,
        store: Store,
        box: Box,
        folder: Path,
        patch: pytest.MonkeyPatch,
        pools: Sequence[PoolConfig],
        *,
        pace: Pace = QUICK,
        every: Every = OFTEN,
        limits: LimitsConfig | None = None,
        notices: bool = False,
    ) -> None:
        self.box, self.fate, self.births = box, Fate(), Births(box)
        self.settings = _settings(box, folder, pools, limits, notices=notices)
        self.silent: set[str] = set()
        """Instances which no driver hears."""
        self.hear = True
        """Whether drivers hear nodes at all."""
        self.deaf: set[int] = set()
        """Workflows whose driver hears no orders."""
        self.begun: defaultdict[tuple[int, int], list[Going]] = defaultdict(list)
        """Each time that a driver began a run, by run and epoch."""
        self._patch, self._pace, self._every = patch, pace, every
        self._ahead_s = 0.0
        self._machines: Sequence[Machine] = ()
        self._dying: list[threading.Thread] = []
        self._others: list[Services] = []
        for key, value in box.env.items():
            patch.setenv(key, value)
        for kind, usd in USD.items():
            box.on_demand(kind, usd)
            for zone in box.zones:
                box.price(kind, zone, usd)
        super().__init__(store)

    # ------------------------------------------------------------------ time

    def tick(self, times: int = 1, *, seconds: float = 0.0, census_age_s: float = 0.0) -> None:
        for _ in range(times):
            self._ahead_s += seconds
            self.now = utc_now() + timedelta(seconds=self._ahead_s)
            self._machines = self.box.up()
            self._beats()
            self.services.tick(self.now, census_age_s)
            if self.fate.died.is_set():
                self.restart()
            self._orders()
            self._note_begun()
            self.check()

    def until(self, holds: Callable[[], bool], *, ticks: int = 0, seconds: float = 0.0) -> None:
        """Without regard to `ticks`: what other threads do takes its time."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"waited in vain: {self.said()}"
            self.services.inbox.wait(PAUSE_S)
            self.tick(seconds=seconds)

    def until_woken(self, holds: Callable[[], bool]) -> None:
        """As a daemon whose pause is longer than anybody waits: it ticks when it is woken, and
        sees what has come since its last census only if that is news."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            self._beats()
            self.services.inbox.wait(PATIENCE_S)
            assert time.monotonic() < deadline, f"woken in vain, or not at all: {self.said()}"
            self.tick(census_age_s=PAUSE_FOREVER_S)

    def skip(self, seconds: float, *, step_s: float = 9.0, since: datetime | None = None) -> None:
        """So much time passes in all, with a new listing at each step; also where this takes long
        itself.

        :param since: when it began; None: now.
        """
        end = (since or self.now) + timedelta(seconds=seconds)
        while self.now < end:
            left_s = (end - utc_now()).total_seconds() - self._ahead_s
            self.tick(seconds=min(step_s, max(0.0, left_s)))
            self.hear_listing(more=1)

    def hear_listing(self, more: int = 2) -> None:
        """So many more; the second was begun after this call."""
        until = self.background.number + more
        self.wait(lambda: self.background.number >= until)

    def wait(self, holds: Callable[[], bool]) -> None:
        """Without a tick."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, "waited in vain without a tick"
            self.services.inbox.wait(PAUSE_S)
            self.services.inbox.take()

    # ------------------------------------------------------------------ the broker

    @property
    def background(self) -> Background:
        found = self.services.fleet._providers[PROVIDER]
        assert isinstance(found, Background)
        return found

    def kill_at(self, *moments: str) -> None:
        """Kills the broker in this order, once at each."""
        self.fate.moments += moments

    def restart(self) -> None:
        """Killed: its threads finish what they have begun, and tell nobody."""
        self.forsake(self.services)
        self.fate.died.clear()
        self.services = self._wired()

    def second(self) -> Services:
        """Another broker that has the same store for its own, and ticks after each tick."""
        other = self._wired()
        self._others.append(other)

        def tick() -> None:
            for driver in self.programs.drivers.values():
                beat = driver.beat(self.answering(driver))
                other.inbox.put(driver.workflow, beat, timeout_s=0.0)
            other.tick(self.now)

        self.check = tick
        return other

    def forsake(self, services: Services) -> None:
        end = threading.Thread(target=services.fleet.close)
        end.start()
        self._dying.append(end)

    def close(self) -> None:
        self.fate.buried.set()
        for services in (self.services, *self._others):
            self.forsake(services)
        for thread in self._dying:
            thread.join()
        super().close()

    def _wired(self) -> Services:
        """`wire`'s own work, but for the pace and the drivers."""
        quick = partial(Background, pace=self._pace, every=self._every)
        self._patch.setattr(wiring, "Background", quick)
        self._patch.setattr(wiring, "LocalDrivers", lambda *_, **__: self.programs)
        options = self.settings.provider[PROVIDER]
        ec2.check(PROVIDER, options, self.settings.pools())
        site = sites.read(PROVIDER, options)
        mine = Mortal(site, self.store.deployment(), self.fate)
        return wire(self.settings, self.store, Outside({PROVIDER: mine}, NoReclaims()))

    # ------------------------------------------------------------------ machines

    def answering(self, driver: PlayedDriver) -> dict[str, str]:
        found = {}
        for machine in self._machines:
            silent = not self.hear or machine.instance_id in self.silent
            if machine.state != "running" or silent:
                continue
            if self.births.address(machine) == driver.address:
                node = self.births.node(machine)
                found[node["name"]] = node["token"]
        return found

    def machine(self, node_id: int) -> Machine:
        """The instance of a recorded node."""
        with self.store.read() as session:
            where = models.nodes.c.id == node_id
            provider_id = session.scalar(select(models.nodes.c.provider_id).where(where))
        return self.box.instance(str(provider_id))

    def lose(self, machine: Machine) -> None:
        """It vanishes, which the cloud says before its driver has noticed."""
        self.box.lose(machine.instance_id)
        self.wait(lambda: machine.instance_id in self._listed_as_ended())

    def _listed_as_ended(self) -> set[str]:
        ended = NodeState.TERMINATED
        return {one.provider_id for one in self.background.list() if one.state is ended}

    def _note_begun(self) -> None:
        for driver in self.programs.drivers.values():
            for key, going in driver.runs.items():
                known = any(one is going for one in self.begun[key])
                if going.phase is Phase.RUNNING and not known:
                    self.begun[key].append(going)

    def _orders(self) -> None:
        """As the world's own; what a deaf driver is told is lost on the way."""
        muted = [d for d in self.programs.drivers.values() if d.workflow in self.deaf]
        before = {id(driver): driver.mute for driver in muted}
        for driver in muted:
            driver.mute = True
        super()._orders()
        for driver in muted:
            driver.mute = before[id(driver)]

    # ------------------------------------------------------------------ the end

    def settle(self) -> None:
        """Every run is finished as soon as it is at work, until all is done and every node gone."""
        self.until(lambda: self.finish_all() and not self.nodes() and not self.box.up())
        self.until(lambda: not self.programs.drivers)
        self.hear_listing()
        self.tick()

    def finish_all(self) -> bool:
        """Every run that is at work; whether every workflow is done."""
        for driver in self.programs.drivers.values():
            for going in driver.runs.values():
                if going.phase is Phase.RUNNING:
                    going.finish()
        with self.store.read() as session:
            live = models.workflows.c.ended_at.is_(None)
            return session.scalar(select(models.workflows.c.id).where(live)) is None

    def problems(self) -> list[str]:
        """Empty: nothing was lost, doubled, left over or paid for by nobody."""
        audit = self.services.audit.run(self.now)
        with self.store.read() as session:
            return [
                *books.problems(session, self.box, self.now),
                *(f"audit: {one.kind}: {one.sentence}" for one in audit.differences),
                *(f"run {run} began twice" for (run, _), begun in self.begun.items() if begun[1:]),
            ]


def _settings(
    box: Box,
    folder: Path,
    pools: Sequence[PoolConfig],
    limits: LimitsConfig | None,
    *,
    notices: bool,
) -> Settings:
    table: dict[str, object] = {
        "kind": "ec2",
        "region": box.region,
        "subnets": dict(box.subnets),
        "security_groups": [box.security_group],
        "image": box.image,
        "python": "/opt/scsched/bin/python",
    }
    if notices:
        table["interruption_queue"] = box.queue
    return Settings(
        state_dir=folder,
        provider={PROVIDER: table},
        storage={"shared": StorageConfig(path="/shared")},
        pool=tuple(pools),
        limits=limits or LimitsConfig(),
        retry=RetryConfig(backoff_s=0.0),
    )


@contextmanager
def refusing(box: Box, code: str, **where: Any) -> Iterator[int]:
    """Launches are refused with this code meanwhile; gives the fault's number."""
    number = box.fault(code, times=None, **where)
    try:
        yield number
    finally:
        box.unfault(number)


MakeCloud = Callable[..., CloudWorld]


@pytest.fixture(scope="module")
def urls() -> Iterator[Callable[[], str]]:
    """Of new stores; in memory, they need not outlive a power cut."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder, rows.sqlite_urls(Path(folder)) as make:
        yield make


@pytest.fixture
def make_cloud(
    flat_box: Box, urls: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[MakeCloud]:
    """Makes brokers over the box, each with a store of its own."""
    made: list[CloudWorld] = []

    def make(*pools: PoolConfig, **values: Any) -> CloudWorld:
        store = open_store(urls())
        world = CloudWorld(store, flat_box, tmp_path, monkeypatch, pools or (pool(),), **values)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.fixture
def cloud(make_cloud: MakeCloud) -> CloudWorld:
    """One pool of six spot nodes, of two types in two zones."""
    return make_cloud()


__all__ = ["CloudWorld", "MakeCloud", "cloud", "flat_box", "make_cloud", "pool", "refusing", "urls"]
