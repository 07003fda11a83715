"""A small world around the broker's services: nodes in memory, drivers that are played, a clock.

    world.submit(...)   a workflow is taken in
    world.tick()        the drivers send their beats, the services tick, the drivers get orders

`world.at(ref)` is the step's state. What a step's program does is said by `world.script`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from scsched.cluster.fake import FakeProvider
from scsched.cluster.pools import Candidate, Market, Pool
from scsched.cluster.processes import Process
from scsched.cluster.provider import Launched, LaunchRequest, Provider, ProviderError, Refused
from scsched.db import models, queries, queue, submissions
from scsched.db import nodes as node_rows
from scsched.db.drivers import DriverRec
from scsched.db.models import Exact
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun, open_runs_of
from scsched.db.session import Store, open_store
from scsched.db.settle import settle
from scsched.db.submissions import NewStep
from scsched.db.views import EventView, RunView, StepView, WorkflowView
from scsched.scheduler.audit import Audit
from scsched.scheduler.caps import Limits
from scsched.scheduler.config import RetryConfig, TimesConfig
from scsched.scheduler.dispatch import Dispatch
from scsched.scheduler.drivers import Drivers
from scsched.scheduler.ending import Ending
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.inbox import Inbox
from scsched.scheduler.monitor import Monitor
from scsched.scheduler.orders import orders_of
from scsched.scheduler.player import Player
from scsched.scheduler.prices import Prices
from scsched.scheduler.protocol import (
    Beat,
    DeskReport,
    EndReport,
    Hint,
    NodeReport,
    Orders,
    Phase,
    RunOrder,
    RunReport,
    StorageReport,
)
from scsched.scheduler.scale import Scale
from scsched.scheduler.sizing import Sizing
from scsched.scheduler.storage_hold import StorageHold
from scsched.scheduler.ticker import Services
from scsched.scheduler.unconfigured import keeps_driver
from scsched.scheduler.widening import Widening
from scsched.steps.spec import Demand, ResourceClass, Resume, Shape
from scsched.steps.state import StepState
from tests.db import rows

UID = 0
"""Whose the workflows are: a driver needs an account, and this one is everywhere."""


def pool(name: str = "cpu", **values: object) -> Pool:
    found = Pool(
        name=name,
        provider="fake",
        market=Market.ON_DEMAND,
        max_nodes=2,
        cores=4,
        memory_gib=16.0,
        usd_per_hour=Decimal(1),
        warm_s=60.0,
        boot_s=60.0,
    )
    return replace(found, **values)  # type: ignore[arg-type]


def step(ref: str, *parents: str, width: int = 1, **values: object) -> NewStep:
    """A step that wants `width` nodes, by default of class cpu-bound."""
    found = NewStep(
        ref=ref,
        label=f"step {ref}",
        protocol="ProtRelionClassify3D",
        resource_class=ResourceClass.CPU,
        resume=Resume.ITERATION,
        demand=Demand(shape=Shape.MPI, ranks=width + 1),
        parents=parents,
    )
    return replace(found, **values)  # type: ignore[arg-type]


class Died(BaseException):
    """The broker's process ends here."""


class Cloud(FakeProvider):
    """A fake that can also see its caller die, whose hosts may freeze, and which may lack what a
    gang is asked for as."""

    die_after_launch = False
    tears = False
    """It launches what it can of a gang, against its contract."""
    frozen: frozenset[str] = frozenset()
    """Nodes that are listed as running whatever is asked of them."""

    def __init__(self, deployment: str) -> None:
        super().__init__(deployment)
        self.scarce: dict[Candidate, ProviderError] = {}
        """How requests for these are refused, if their token has no node yet."""
        self.asked: list[tuple[str, Candidate]] = []
        """Every token asked for, with what it was asked as."""

    def terminate(self, tokens: Sequence[str]) -> None:
        super().terminate([token for token in tokens if token not in self.frozen])

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        self.asked += [(request.token, request.candidate) for request in requests]
        answers: dict[str, Launched | Refused] = {
            request.token: Refused(request.token, self.scarce[request.candidate])
            for request in requests
            if request.candidate in self.scarce and request.token not in self.nodes
        }
        rest = [one for one in requests if one.token not in answers]
        for calls in [[one] for one in rest] if self.tears else [rest]:
            answers |= {answer.token: answer for answer in super().launch(calls)}
        if self.die_after_launch:
            self.die_after_launch = False
            raise Died
        return tuple(answers[request.token] for request in requests)


class NoReclaims:
    """Nobody plays spot here."""

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        raise AssertionError("nothing is played")

    def tick(self, now: datetime) -> None:
        pass


@dataclass(slots=True)
class Going:
    """A run as its driver has it."""

    order: RunOrder
    phase: Phase = Phase.WAITING
    progress: dict[str, object] | None = None
    end: EndReport | None = None

    @property
    def certified(self) -> int:
        found = (self.progress or {}).get("checkpoint")
        return found if isinstance(found, int) else 0

    @property
    def is_far_enough(self) -> bool:
        return self.order.stop_after is not None and self.certified >= self.order.stop_after

    def report(self) -> RunReport:
        return RunReport(
            run=self.order.run,
            epoch=self.order.epoch,
            phase=self.phase,
            progress=self.progress,
            end=self.end,
        )

    def finish(self, hint: Hint = Hint.COMPLETED, **values: object) -> None:
        self.phase = Phase.ENDED
        self.end = EndReport(hint=hint, **values)  # type: ignore[arg-type]


@dataclass(slots=True)
class PlayedDriver:
    """Does as the real one does, but for the work. It remembers nothing across its death."""

    workflow: int
    token: str
    process: Process
    runs: dict[tuple[int, int], Going] = field(default_factory=dict)
    ended: bool = False
    mute: bool = False
    """It lives and says nothing."""
    storage: StorageReport | None = None
    heard: dict[str, str] = field(default_factory=dict)
    """Deadlines that its nodes have heard themselves, by name."""

    @property
    def address(self) -> str:
        return f"tls://driver-{self.process.pid}"

    def beat(self, nodes: Mapping[str, str]) -> Beat:
        """:param nodes: tokens of the nodes that answer it, by name."""
        return Beat(
            token=self.token,
            pid=self.process.pid,
            start_ticks=self.process.start_ticks,
            address=self.address,
            tls_dir="/tls",
            desk=DeskReport(address="127.0.0.1:9", fingerprint="00"),
            storage=self.storage,
            nodes=tuple(
                NodeReport(name=name, notice_deadline=self.heard.get(name)) for name in nodes
            ),
            runs=tuple(going.report() for going in self.runs.values()),
        )

    def obey(self, orders: Orders, nodes: Mapping[str, str]) -> None:
        wanted = {(order.run, order.epoch): order for order in orders.runs}
        self.runs = {key: going for key, going in self.runs.items() if key in wanted}
        for key, order in wanted.items():
            going = self.runs.setdefault(key, Going(order))
            going.order = order
            if going.end is None:
                self._go_on(going, order, nodes)
        self.ended = orders.end

    def _go_on(self, going: Going, order: RunOrder, nodes: Mapping[str, str]) -> None:
        all_up = all(node.name in nodes for node in order.nodes)
        if order.stop:
            going.finish(Hint.STOPPED, detail=order.stop)
        elif going.is_far_enough:
            going.finish(Hint.STOPPED, detail="stopped in time", iterations_done=going.certified)
        elif going.phase is Phase.WAITING and all_up:
            going.phase = Phase.RUNNING
        elif going.phase is Phase.RUNNING and not all_up:
            going.finish(Hint.NODE_LOST)


class PlayedPrograms:
    """Drivers in memory; they live on when the broker is restarted."""

    def __init__(self) -> None:
        self.drivers: dict[int, PlayedDriver] = {}
        """By pid."""
        self.refuse = 0
        self.said = ""
        """What every driver writes last."""
        self.die_after_start = False
        self._pid = 100

    def work_dir(self, workflow_id: int) -> Path:
        return Path(f"/wf/{workflow_id}")

    def start(self, record: DriverRec, token: str) -> Process | None:
        if self.refuse:
            self.refuse -= 1
            raise OSError("no such program")
        self._pid += 1
        process = Process(self._pid, 1)
        self.drivers[process.pid] = PlayedDriver(record.workflow_id, token, process)
        if self.die_after_start:
            self.die_after_start = False
            raise Died
        return process

    def find(self, record: DriverRec) -> Process | None:
        found = [d for d in self.drivers.values() if d.token == record.token]
        return found[0].process if found else None

    def alive(self, process: Process) -> bool:
        return process.pid in self.drivers

    def last_words(self, record: DriverRec) -> str:
        return self.said

    def of(self, workflow: int) -> PlayedDriver:
        (found,) = [d for d in self.drivers.values() if d.workflow == workflow]
        return found

    def end(self, process: Process) -> None:
        del self.drivers[process.pid]

    def kill(self, workflow: int) -> None:
        self.end(self.of(workflow).process)


class World:
    """One broker and all that it acts upon."""

    def __init__(
        self,
        store: Store,
        *pools: Pool,
        retry: RetryConfig | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.store = store
        self.limits = limits
        self.pools = pools or (pool(),)
        self.cloud = Cloud(store.deployment())
        self.programs = PlayedPrograms()
        self.retry = retry or RetryConfig(backoff_s=0.0)
        self.now = rows.NOW
        self.wrap: Callable[[Provider], Provider] = lambda provider: provider
        """What the broker calls in the provider's stead, from its next start on."""
        self.provider = "fake"
        """Its name in the configuration, from the broker's next start on."""
        self.boots: Callable[[str], bool] = lambda token: True
        """Whether the worker of the node with this token answers."""
        self.check: Callable[[], None] = lambda: None
        """Called after every tick."""
        self.services = self._wired()

    def restart(self) -> None:
        """The broker dies and comes again: all that is not in the store is forgotten."""
        self.services = self._wired()

    def close(self) -> None:
        self.store.close()

    def submit(self, *steps: NewStep, **values: object) -> int:
        given: dict[str, object] = {"uid": UID, "username": "root"} | values
        new = rows.new_workflow(*(steps or (step("1"),)), **given)
        with self.store.write() as session:
            return submissions.submit(session, new, self.now).id

    def tick(self, times: int = 1, *, seconds: float = 1.0) -> None:
        for _ in range(times):
            self.now += timedelta(seconds=seconds)
            self._beats()
            try:
                self.services.tick(self.now)
            except Died:
                self.restart()
            self._orders()
            self.check()

    def until(self, holds: Callable[[], bool], *, ticks: int = 50, seconds: float = 1.0) -> None:
        for _ in range(ticks):
            if holds():
                return
            self.tick(seconds=seconds)
        raise AssertionError(f"not in {ticks} ticks: {self.said()}")

    def until_state(self, state: StepState, ref: str = "1", workflow: int = 1) -> None:
        self.until(lambda: self.at(ref, workflow) is state)

    def run_of(self, ref: str = "1", workflow: int = 1) -> Going:
        """The run of the step as its driver has it."""
        runs = self.programs.of(workflow).runs.values()
        (found,) = [going for going in runs if going.order.ref == ref]
        return found

    def finish(self, ref: str = "1", hint: Hint = Hint.COMPLETED, **values: object) -> None:
        """Let the step's program end so; the broker hears of it at the next tick."""
        workflow = int(str(values.pop("workflow", 1)))
        self.run_of(ref, workflow).finish(hint, **values)

    def steps(self, workflow: int = 1) -> dict[str, StepView]:
        with self.store.read() as session:
            return {one.ref: one for one in queries.steps_of(session, workflow, self.now)}

    def at(self, ref: str = "1", workflow: int = 1) -> StepState:
        return self.steps(workflow)[ref].state

    def workflow(self, workflow: int = 1) -> WorkflowView:
        with self.store.read() as session:
            return queries.workflow(session, workflow, self.now)

    def runs(self, workflow: int = 1) -> list[RunView]:
        with self.store.read() as session:
            return queries.runs_of(session, self.now, workflow_id=workflow)

    def ends(self, workflow: int = 1) -> list[str]:
        return [str(run.end_reason) for run in self.runs(workflow) if run.end_reason]

    def open_runs(self) -> list[OpenRun]:
        with self.store.read() as session:
            return open_runs_of(session)

    def nodes(self) -> list[NodeRec]:
        with self.store.read() as session:
            return node_rows.live(session)

    def events(self) -> list[EventView]:
        with self.store.read() as session:
            return queries.events_after(session, limit=10_000)

    def said(self) -> str:
        return "\n".join(f"{one.kind} {one.step or ''} {one.text}" for one in self.events()[-40:])

    def person(self, verb: str, ref: str = "1", workflow: int = 1) -> None:
        """cancel, hold, release, requeue or resubmit, as the desk does it."""
        with self.store.write() as session:
            ids = queries.step_ids(session, workflow, [ref])
            getattr(queue, verb)(session, ids.values(), self.now, UID)
            settle(session, {workflow}, self.now)

    def up(self) -> list[str]:
        """Tokens of the nodes that run, in the order of their launch."""
        up = self.cloud.up()
        return [token for token in self.cloud.nodes if token in up]

    def answering(self, driver: PlayedDriver) -> dict[str, str]:
        """Tokens of the nodes whose worker has joined this very driver, by name."""
        return {
            self.cloud.requests[token].name: token
            for token in self.up()
            if self.cloud.requests[token].join.scheduler_address == driver.address
            and self.boots(token)
        }

    def _beats(self) -> None:
        for driver in self.programs.drivers.values():
            if not driver.mute:
                beat = driver.beat(self.answering(driver))
                self.services.inbox.put(driver.workflow, beat, timeout_s=0.0)

    def _orders(self) -> None:
        for driver in list(self.programs.drivers.values()):
            with self.store.read() as session:
                runs = open_runs_of(session, driver.workflow)
                live = node_rows.live(session, driver.workflow)
            kept = runs or any(keeps_driver(node, self.services.fleet) for node in live)
            end = not kept and driver.workflow not in self.services.drivers.wanted
            if not driver.mute:
                orders = orders_of(runs, TimesConfig(), exact=Exact.OFF, end=end)
                driver.obey(orders, self.answering(driver))
            if driver.ended:
                del self.programs.drivers[driver.process.pid]

    def _wired(self) -> Services:
        fleet = Fleet(self.pools, {self.provider: self.wrap(self.cloud)}, self.limits)
        inbox = Inbox()
        drivers = Drivers(self.store, self.programs, inbox.heard)
        deployment = self.store.deployment()
        storage = StorageHold()
        ending, sizing = Ending(self.retry, self.pools), Sizing(site={})
        monitor = Monitor(self.store, fleet, ending, sizing, storage)
        return Services(
            fleet=fleet,
            inbox=inbox,
            monitor=monitor,
            player=Player(self.store, NoReclaims()),
            dispatch=Dispatch(
                self.store, fleet, unproven=lambda: monitor.unproven, storage=storage.unplaced
            ),
            widening=Widening(self.store, fleet),
            drivers=drivers,
            scale=Scale(self.store, fleet, deployment, drivers.joining),
            prices=Prices(self.store, fleet),
            audit=Audit(self.store, fleet),
        )


SPOT = models.Market.SPOT


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """For what other processes do; in a world use `World.until`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def worlds(folder: Path) -> Iterator[Callable[..., World]]:
    """Makes worlds over new SQLite stores."""
    opened: list[Store] = []

    def make(*pools: Pool, **values: object) -> World:
        opened.append(open_store(url()))
        return World(opened[-1], *pools, **values)  # type: ignore[arg-type]

    with rows.sqlite_urls(folder) as url:
        yield make
        for store in opened:
            store.close()
