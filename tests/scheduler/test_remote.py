"""A broker whose provider is far away: its calls run in threads, and nothing else is different."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from scsched.cluster.pools import Candidate
from scsched.cluster.provider import NoCapacity, Provider, Throttled
from scsched.scheduler.background import Background, Pace
from scsched.scheduler.watcher import Every
from scsched.steps.state import StepState
from tests.scheduler.world import World, pool, step, wait_until

MakeWorld = Callable[..., World]
TYPES = pool(types=("x", "y"), max_nodes=4, boot_s=1e6, warm_s=1e6)


@pytest.fixture
def far(make_world: MakeWorld) -> Iterator[World]:
    world = make_world(TYPES)
    made: list[Background] = []

    def wrap(provider: Provider) -> Provider:
        pace = Pace(rate_per_s=1e6, burst=10**6, again_s=0.1)
        made.append(Background(provider, pace=pace, every=Every(list_s=0.02)))
        return made[-1]

    world.cloud.traits = replace(world.cloud.traits, remote=True, stranger_grace_s=1e6)
    world.wrap = wrap
    world.restart()
    yield world
    for one in made:
        one.close()


def until(world: World, holds: Callable[[], bool]) -> None:
    """Ticks that cost the world next to no time, until the threads are through."""

    def ticked() -> bool:
        world.tick(seconds=0.01)
        return holds()

    wait_until(ticked)


def is_running(world: World, ref: str = "1") -> bool:
    return world.at(ref) is StepState.RUNNING


def test_a_gang_comes_and_goes(far: World) -> None:
    far.submit(step("1", width=3))
    until(far, lambda: is_running(far))
    assert len(far.cloud.up()) == 3
    assert len(far.cloud.asked) == 3
    far.finish()
    until(far, lambda: not far.nodes())
    assert far.cloud.up() == frozenset()
    assert far.at() is StepState.COMPLETED


def test_a_refusal_leads_to_another_type(far: World) -> None:
    far.cloud.scarce = {Candidate("x"): NoCapacity("none of x")}
    far.submit(step("1", width=2))
    until(far, lambda: is_running(far))
    assert [candidate.kind for _, candidate in far.cloud.asked] == ["x", "x", "y", "y"]


def test_too_many_calls_are_answered_with_a_pause(far: World) -> None:
    far.cloud.refuse(Throttled("slow down", retry_after_s=0.05), times=2)
    far.submit(step("1", width=2))
    until(far, lambda: is_running(far))
    assert len(far.cloud.up()) == 2


def test_a_broker_that_dies_during_a_launch_launches_no_second_gang(far: World) -> None:
    gate, honest = threading.Event(), far.cloud.launch

    def slow(*requests: object) -> object:
        assert gate.wait(10)
        return honest(*requests)  # type: ignore[arg-type]

    far.cloud.launch = slow  # type: ignore[assignment, method-assign]
    far.submit(step("1", width=2))
    until(far, lambda: any(far.services.fleet.has_asked(node.token) for node in far.nodes()))
    far.restart()
    until(far, lambda: any(far.services.fleet.has_asked(node.token) for node in far.nodes()))
    gate.set()
    until(far, lambda: is_running(far))
    assert len(far.cloud.nodes) == 2
    assert far.ends() == []


def test_no_tick_waits_for_a_call(far: World) -> None:
    far.submit()
    until(far, lambda: is_running(far))
    gate, honest = threading.Event(), far.cloud.list
    calling = threading.Event()

    def stuck() -> object:
        calling.set()
        assert gate.wait(10)
        return honest()

    far.cloud.list = stuck  # type: ignore[assignment, method-assign]
    far.cloud.launch = lambda requests: stuck()  # type: ignore[assignment, method-assign, return-value]
    far.cloud.terminate = lambda tokens: stuck()  # type: ignore[assignment, method-assign]
    assert calling.wait(10)
    far.submit()
    far.tick(20)
    assert not gate.is_set()
    assert far.at() is StepState.RUNNING
    gate.set()
