"""A world of random workflows and random losses: nothing is done twice, and everything ends."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsched.cluster.pools import Market
from scsched.cluster.provider import NoCapacity, Throttled, Unreachable
from scsched.db import queries
from scsched.db.submissions import NewStep
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

reached: Counter[str] = Counter()
"""What the random worlds went through, over all examples."""


class Storm:
    """Random work and random losses in one world."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = Random(seed)  # noqa: S311 - not for secrets
        self.started: Counter[int] = Counter()
        self.completed: Counter[str] = Counter()
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
        return self.random.choice(sorted(what)) if what else None

    def _nothing(self) -> None:
        pass

    def _reclaim(self) -> None:
        if token := self._any(list(self.world.cloud.up())):
            self.world.cloud.reclaim(token, reason=self.random.choice(["spot", ""]))

    def _notice(self) -> None:
        if token := self._any(list(self.world.cloud.up())):
            self.world.cloud.notify(token, self.world.now + timedelta(seconds=3))

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
)  # fmt: skip


def count(storm: Storm) -> None:
    for number in storm.workflows():
        reached.update(storm.world.ends(number))
        reached.update(str(one.state) for one in storm.world.steps(number).values())
        reached[f"workflow {storm.world.workflow(number).state}"] += 1
    reached.update(event.kind for event in storm.world.events())
    reached.update("reused" for run in storm.world.runs() if run.attempt > 1 and run.pool == "cpu")


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
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


@pytest.mark.parametrize(
    "word",
    [
        EndReason.COMPLETED, EndReason.FAILED, EndReason.OUT_OF_MEMORY, EndReason.TIMEOUT,
        EndReason.STALLED, EndReason.CANCELLED, EndReason.PREEMPTED, EndReason.NODE_FAIL,
        EndReason.NO_CAPACITY, "workflow COMPLETED", "workflow CANCELLED", "driver_lost",
        "notice", "stop_asked", "reused", "reopened",
    ],
)  # fmt: skip
def test_the_random_worlds_went_there(word: str) -> None:
    if not reached:
        pytest.skip("no world was played in this session")
    assert reached[str(word)] > 0, reached
