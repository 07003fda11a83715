"""Pools and providers that were taken out of the configuration while nodes of them live."""

from collections.abc import Callable

import pytest

from scsched.cluster.provider import Unreachable
from scsched.steps.spec import ResourceClass
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]


def told(world: World) -> list[str]:
    return [one.text for one in world.events() if one.kind == "unconfigured"]


def test_what_was_not_launched_yet_of_a_pool_that_is_gone_is_refused(
    make_world: MakeWorld,
) -> None:
    world = make_world()
    world.cloud.refuse(Unreachable("no answer"), times=100)
    world.submit()
    world.tick(4)
    assert world.at() is StepState.CONFIGURING
    world.pools = (pool("other", classes=frozenset({ResourceClass.IO})),)
    world.restart()
    world.until(lambda: bool(world.ends()), ticks=60)
    assert world.ends() == [EndReason.NO_CAPACITY]
    assert "pool cpu is not configured any more" in world.runs()[0].detail
    world.tick(30)
    assert world.at() is StepState.PENDING
    found = world.services.dispatch.unplaced[world.steps()["1"].id]
    assert found.reason is PendingReason.NO_CLASS_FITS


def test_nodes_of_a_pool_that_is_gone_finish_their_run_and_end(world: World) -> None:
    world.submit(step("1"), step("2", "1"))
    world.until_state(StepState.RUNNING)
    world.pools = (pool("other"),)
    world.restart()
    world.tick(5)
    assert told(world) == ["pool cpu is not configured any more: no step is given to n1"]
    world.finish()
    world.until_state(StepState.RUNNING, "2")
    assert [run.pool for run in world.runs()] == ["cpu", "other"]
    world.until(lambda: len(world.cloud.up()) == 1)


@pytest.fixture
def lone(world: World) -> World:
    """A node works whose provider is gone: nobody lists it, and nobody can end it."""
    world.submit()
    world.until_state(StepState.RUNNING)
    world.provider = "other"
    world.pools = (pool("other", provider="other"),)
    world.cloud.hide(*world.cloud.nodes)
    world.restart()
    world.tick()
    return world


def test_a_driver_waits_for_no_node_that_only_its_own_end_can_end(lone: World) -> None:
    lone.tick(60)
    assert lone.at() is StepState.RUNNING
    lone.finish()
    lone.until(lambda: lone.at() is StepState.COMPLETED and not lone.programs.drivers, ticks=60)
    assert lone.cloud.up()
    lone.until(lambda: not lone.nodes(), ticks=200)


def test_a_provider_that_is_gone_is_told_of_once_and_in_an_audit(lone: World) -> None:
    lone.tick(5)
    (text,) = told(lone)
    assert text.startswith("provider fake is not configured any more: n1 cannot be ended from here")
    found = lone.services.audit.run(lone.now)
    assert [one.kind for one in found.differences] == ["silent"]
    assert "provider fake of n1" in found.differences[0].sentence
