"""A world of random workflows and random losses: nothing is done twice, and everything ends."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from random import Random

import pytest

from scsched.cluster.pools import Market
from scsched.cluster.provider import NoCapacity, Throttled, Unreachable
from scsched.db import queries
from scsched.db.submissions import NewStep
from scsched.scheduler import fencing
from scsched.scheduler.config import RetryConfig
from scsched.scheduler.protocol import Hint, Phase
from scsched.steps.spec import Resume
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import SPOT, Going, PlayedDriver, World, pool, step

MakeWorld = Callable[..., World]

POOLS = (
    pool("cpu", max_nodes=3, boot_s=20.0, warm_s=5.0),
    pool("spot", market=Market.SPOT, max_nodes=4, boot_s=20.0, warm_s=5.0),
    pool("service", max_nodes=1, service=True, warm_s=5.0),
)
FOREVER = RetryConfig(
    max_failures=50, max_stalls=50, max_timeouts=50, max_infrastructure_ends=500, backoff_s=0.0
)
TROUBLED_TICKS = 45
QUIET_TICKS = 250

LIVES_ON_S = 30.0
"""How long a node works on that has lost its driver: then it ends itself."""

reached: Counter[str] = Counter()
"""What the random worlds went through, over all examples."""


class AtWork:
    """What the programs on the nodes do, whatever anybody knows of it.

    A node works for a run from when its driver begins it until that driver ends it there, the node
    ends, or it has been without its driver for so long that it has ended itself.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._works: dict[str, tuple[int, str, int]] = {}
        self._heard: dict[str, datetime] = {}

    def look(self) -> None:
        going = {
            token: (driver.workflow, run.order.ref, run.order.run)
            for driver in self._world.programs.drivers.values()
            for token, run in self._begun(driver)
        }
        answering = {
            token
            for driver in self._world.programs.drivers.values()
            for token in self._world.answering(driver).values()
        }
        self._heard.update(dict.fromkeys(answering, self._world.now))
        stopped = answering - going.keys()
        self._works = {
            token: key
            for token, key in (self._works | going).items()
            if token in self._world.cloud.up()
            and token not in stopped
            and not self.has_ended_itself(token)
        }

    def has_ended_itself(self, token: str) -> bool:
        silent = self._world.now - self._heard.get(token, self._world.now)
        return silent.total_seconds() >= LIVES_ON_S

    def doubled(self) -> dict[tuple[int, str], set[int]]:
        """Steps that two runs work for."""
        runs: dict[tuple[int, str], set[int]] = {}
        for workflow, ref, run in self._works.values():
            runs.setdefault((workflow, ref), set()).add(run)
        return {step: found for step, found in runs.items() if len(found) > 1}

    def _begun(self, driver: PlayedDriver) -> Iterator[tuple[str, Going]]:
        answering = self._world.answering(driver)
        for run in driver.runs.values():
            if run.phase is Phase.RUNNING and run.end is None:
                yield from (
                    (answering[node.name], run)
                    for node in run.order.nodes
                    if node.name in answering
                )


class Storm:
    """Random work and random losses in one world."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = Random(seed)  # noqa: S311 - not for secrets
        self.started: Counter[int] = Counter()
        self.completed: Counter[str] = Counter()
        self.at_work = AtWork(world)
        self.cut_off: set[str] = set()
        """Nodes that run and that nobody reaches."""
        world.boots = lambda token: token not in self.cut_off
        world.check = self.check

    def submit(self) -> None:
        for number in range(self.random.randint(1, 3)):
            market = {"market": SPOT} if self.random.random() < 0.5 else {}
            self.world.submit(*self._steps(), priority=number, **market)

    def trouble(self) -> None:
        """One tick in which things go wrong."""
        self._work(ok=0.7)
        name = self.random.choice(_TROUBLES)
        getattr(self, f"_{name}")()
        self.world.tick()

    def quiet(self) -> None:
        """One tick in which nothing goes wrong; a long one, for all that waits for its time."""
        self._work(ok=1.0)
        self.world.tick(seconds=5.0)

    def check(self) -> None:
        """Safety; holds after every tick."""
        world = self.world
        self.at_work.look()
        assert not self.at_work.doubled(), (self.at_work.doubled(), world.said())
        dead = {token for token in world.cloud.frozen if self.at_work.has_ended_itself(token)}
        world.cloud.frozen -= dead
        for one in world.pools:
            up = [t for t in world.cloud.up() if world.cloud.requests[t].pool.name == one.name]
            assert len(up) <= one.max_nodes, world.said()
        open_steps = Counter(run.step_id for run in world.open_runs())
        assert all(count == 1 for count in open_steps.values()), world.said()
        going = Counter(
            (driver.workflow, run.order.ref)
            for driver in world.programs.drivers.values()
            for run in driver.runs.values()
            if run.phase is Phase.RUNNING and run.end is None and self._has_nodes(driver, run)
        )
        assert all(count == 1 for count in going.values()), (going, world.said())
        owners = Counter(node for run in world.open_runs() for node in run.nodes)
        assert all(count == 1 for count in owners.values()), world.said()

    def workflows(self) -> list[int]:
        with self.world.store.read() as session:
            found = queries.workflow_rows(session, self.world.now)
        return [row.id for row in found]

    def settled(self) -> bool:
        states = [self.world.workflow(number).ended_at for number in self.workflows()]
        nothing = not self.world.cloud.up() and not self.world.programs.drivers
        return all(states) and nothing and not self.world.nodes()

    def _has_nodes(self, driver: PlayedDriver, run: Going) -> bool:
        answering = self.world.answering(driver)
        return all(node.name in answering for node in run.order.nodes)

    def _steps(self) -> list[NewStep]:
        made: list[NewStep] = []
        for number in range(1, self.random.randint(2, 6)):
            parents = [one.ref for one in made if self.random.random() < 0.4]
            width = self.random.randint(1, 3)
            light = {"long_lived": True} if self.random.random() < 0.1 else {}
            made.append(step(str(number), *parents, width=width, resume=Resume.ITERATION, **light))
        return made

    def _work(self, *, ok: float) -> None:
        for driver in self.world.programs.drivers.values():
            for run in driver.runs.values():
                if run.phase is not Phase.RUNNING or run.end is not None:
                    continue
                if self.random.random() < 0.3:
                    hint = Hint.COMPLETED if self.random.random() < ok else self.random.choice(_BAD)
                    run.finish(hint, iterations_done=self.random.randint(0, 5))

    def _any(self, what: list[str]) -> str | None:
        return self.random.choice(what) if what else None

    def _nothing(self) -> None:
        pass

    def _reclaim(self) -> None:
        if token := self._any(self.world.up()):
            self.world.cloud.reclaim(token, reason=self.random.choice(["spot", ""]))

    def _notice(self) -> None:
        if token := self._any(self.world.up()):
            self.world.cloud.notify(token, self.world.now + timedelta(seconds=3))

    def _own_notice(self) -> None:
        """A node hears it from its machine, and tells its driver; often of a run at work."""
        self._progress()
        for driver in self.world.programs.drivers.values():
            if name := self._any(list(self.world.answering(driver))):
                deadline = self.world.now + timedelta(seconds=self.random.choice([1, 10, 60]))
                driver.heard[name] = deadline.isoformat()

    def _cut_off(self) -> None:
        if token := self._any(self.world.up()):
            self.cut_off.add(token)

    def _freeze(self) -> None:
        """Cut off, and its provider's word has no effect on it."""
        if token := self._any(self.world.up()):
            self.cut_off.add(token)
            self.world.cloud.frozen |= {token}

    def _progress(self) -> None:
        for driver in self.world.programs.drivers.values():
            for run in driver.runs.values():
                done = run.certified + self.random.randint(0, 1)
                seconds = self.random.choice([None, 5.0, 50.0])
                run.progress = {
                    "iteration": done + 1, "checkpoint": done, "seconds_per_iteration": seconds,
                }  # fmt: skip

    def _refuse(self) -> None:
        self.world.cloud.refuse(self.random.choice(_REFUSALS))

    def _lose_reply(self) -> None:
        self.world.cloud.lose_replies()

    def _silence(self) -> None:
        verb = self.random.choice(["list", "terminate", "notices"])
        self.world.cloud.fail(verb, Unreachable("no answer"), times=self.random.randint(1, 4))

    def _restart(self) -> None:
        self.world.restart()

    def _die_after_launch(self) -> None:
        self.world.cloud.die_after_launch = True

    def _die_after_start(self) -> None:
        self.world.programs.die_after_start = True

    def _driver_cannot_start(self) -> None:
        self.world.programs.refuse += 1

    def _kill_driver(self) -> None:
        if pid := self._any([str(pid) for pid in self.world.programs.drivers]):
            del self.world.programs.drivers[int(pid)]

    def _person(self) -> None:
        number = self.random.choice(self.workflows())
        ref = self.random.choice(sorted(self.world.steps(number)))
        verb = self.random.choice(["cancel", "hold", "release", "requeue", "resubmit"])
        self.world.person(verb, ref, number)

    def _second_thoughts(self) -> None:
        """Somebody wants what was cancelled after all."""
        number = self.random.choice(self.workflows())
        for ref in self.world.steps(number):
            self.world.person("resubmit", ref, number)

    def calm(self) -> None:
        """Nothing goes wrong from now on, and nobody holds anything back."""
        self.world.programs.refuse = 0
        for number in self.workflows():
            for ref in self.world.steps(number):
                self.world.person("release", ref, number)


_BAD = (Hint.FAILED, Hint.OUT_OF_MEMORY, Hint.TIMEOUT, Hint.STALLED, Hint.NODE_LOST)
_REFUSALS = (NoCapacity("none"), Throttled("too fast"), Unreachable("no answer"))
_TROUBLES = (
    "nothing", "nothing", "reclaim", "notice", "refuse", "lose_reply", "silence", "restart",
    "die_after_launch", "die_after_start", "driver_cannot_start", "kill_driver", "person",
    "own_notice", "own_notice", "cut_off", "freeze", "progress", "person", "second_thoughts",
)  # fmt: skip


def count(storm: Storm) -> None:
    for number in storm.workflows():
        reached.update(storm.world.ends(number))
        reached.update(str(one.state) for one in storm.world.steps(number).values())
        reached[f"workflow {storm.world.workflow(number).state}"] += 1
    reached.update(event.kind for event in storm.world.events())
    reached.update("reused" for run in storm.world.runs() if run.attempt > 1 and run.pool == "cpu")


@pytest.mark.parametrize("seed", range(24))
def test_nothing_is_done_twice_and_everything_ends(make_world: MakeWorld, seed: int) -> None:
    storm = Storm(make_world(*POOLS, retry=FOREVER), seed)
    storm.submit()
    for _ in range(TROUBLED_TICKS):
        storm.trouble()
    storm.calm()
    for _ in range(QUIET_TICKS):
        if storm.settled():
            break
        storm.quiet()
    assert storm.settled(), storm.world.said()
    count(storm)
    for number in storm.workflows():
        for one in storm.world.steps(number).values():
            completed = [e for e in storm.world.events() if e.kind == "completed"]
            assert one.state in (StepState.COMPLETED, StepState.FAILED, StepState.CANCELLED) or (
                one.stuck
            ), storm.world.said()
            mine = [e for e in completed if (e.workflow_id, e.step) == (number, one.ref)]
            assert len(mine) <= 1
    storm.world.close()


def test_a_scheduler_without_fencing_is_caught(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes every lost node for gone: two sets of nodes work for one step."""
    monkeypatch.setattr(fencing, "is_proven", lambda node: True)
    storms = (Storm(make_world(*POOLS, retry=FOREVER), seed) for seed in range(20))
    assert any(_doubles(storm) for storm in storms)


def _doubles(storm: Storm) -> bool:
    storm.submit()
    try:
        for _ in range(TROUBLED_TICKS):
            storm.trouble()
    except AssertionError:
        return bool(storm.at_work.doubled())
    return False


@pytest.mark.parametrize(
    "word",
    [
        EndReason.COMPLETED, EndReason.FAILED, EndReason.OUT_OF_MEMORY, EndReason.TIMEOUT,
        EndReason.STALLED, EndReason.CANCELLED, EndReason.PREEMPTED, EndReason.NODE_FAIL,
        EndReason.NO_CAPACITY, "workflow COMPLETED", "workflow CANCELLED", "driver_lost",
        "notice", "stop_asked", "stop_after_asked", "spare_requested", "reused", "reopened",
    ],
)  # fmt: skip
def test_the_random_worlds_went_there(word: str) -> None:
    if not reached:
        pytest.skip("no world was played in this session")
    assert reached[str(word)] > 0, reached
