"""A gang that lost nodes grows again between two iterations, where that pays."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import NoCapacity
from scsched.db.models import Exact
from scsched.db.nodes import NodeRec
from scsched.scheduler.widening import RESTART_S
from scsched.steps.spec import Resume
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import SPOT, World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING
LONG_S = 600.0
"""An iteration on two nodes; on three it is 200 s shorter, and a restart costs 60."""


def spot(**values: object) -> Pool:
    given: dict[str, object] = {"market": Market.SPOT, "max_nodes": 6, "remote": True}
    return pool("spot", **(given | values))


def narrowed(world: World, **values: object) -> list[NodeRec]:
    """A step that wants three nodes, at work on the two that it has left."""
    world.submit(step("1", width=3), market=SPOT, **values)
    world.until_state(RUNNING)
    nodes = list(world.open_runs()[0].nodes)
    at_work(world, 3, LONG_S)
    world.cloud.reclaim(nodes[0].token)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    return list(world.open_runs()[0].nodes)


def at_work(world: World, iteration: int, seconds: float, *, for_s: float = 0.0) -> None:
    """Its driver tells that it is at this iteration for so long."""
    world.run_of().progress = {
        "iteration": iteration,
        "checkpoint": iteration - 1,
        "seconds_per_iteration": seconds,
        "began": (world.now - timedelta(seconds=for_s)).timestamp(),
    }
    world.tick()


def spares(world: World) -> list[NodeRec]:
    return [node for node in world.nodes() if node.spare_for is not None]


def told(world: World, kind: str) -> list[str]:
    return [event.text for event in world.events() if event.kind == kind]


def test_it_stops_after_the_iteration_when_its_node_has_come_and_goes_on_with_three(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    two = {node.id for node in narrowed(world)}
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    (spare,) = spares(world)
    world.until(lambda: world.run_of().order.stop_after == 4, ticks=5)
    assert world.at() is RUNNING
    at_work(world, 5, LONG_S)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 3)
    run = world.runs()[1]
    assert (run.end_reason, run.iterations_lost) == (EndReason.PREEMPTED, 0)
    (wide,) = world.open_runs()
    assert {node.id for node in wide.nodes} == two | {spare.id}
    assert spares(world) == []
    assert "to join the gang after iteration 4" in told(world, "spare_requested")[0]
    assert "3 nodes instead of 2, which saves about 200 s" in told(world, "stop_after_asked")[0]
    at_work(world, 6, LONG_S, for_s=LONG_S - 50)
    world.tick(5)
    assert (spares(world), world.run_of().order.stop_after) == ([], None)


def test_no_node_is_asked_for_long_before_the_iteration_ends(make_world: MakeWorld) -> None:
    world = make_world(spot(boot_s=60.0))
    narrowed(world)
    at_work(world, 4, LONG_S, for_s=LONG_S - 70)
    assert spares(world) == []
    at_work(world, 4, LONG_S, for_s=LONG_S - 55)
    assert len(spares(world)) == 1


def test_iterations_that_gain_less_than_a_restart_costs_are_left_alone(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    narrowed(world)
    at_work(world, 4, 3 * RESTART_S)
    world.tick(5)
    assert spares(world) == []
    at_work(world, 4, 3 * RESTART_S + 5, for_s=150.0)
    assert len(spares(world)) == 1


def test_the_last_iteration_is_left_alone(make_world: MakeWorld) -> None:
    world = make_world(spot())
    narrowed(world)
    world.run_of().progress = {
        "iteration": 25, "of": 25, "checkpoint": 24, "seconds_per_iteration": LONG_S,
        "began": (world.now - timedelta(seconds=LONG_S - 50)).timestamp(),
    }  # fmt: skip
    world.tick(3)
    assert spares(world) == []


def test_a_pool_that_is_full_or_waited_for_gives_nothing(make_world: MakeWorld) -> None:
    world = make_world(spot(max_nodes=3))
    narrowed(world)
    world.submit(step("1", width=2), market=SPOT)
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    world.tick(3)
    assert spares(world) == []
    world.person("cancel", workflow=2)
    world.tick(2)
    assert len(spares(world)) == 1


def test_a_node_that_is_refused_stops_nothing(make_world: MakeWorld) -> None:
    world = make_world(spot())
    narrowed(world)
    world.cloud.refuse(NoCapacity("none left"), times=100)
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    world.tick(5)
    assert spares(world) == []
    assert world.run_of().order.stop_after is None
    assert len(told(world, "spare_requested")) == 1
    at_work(world, 5, LONG_S, for_s=LONG_S - 50)
    assert len(told(world, "spare_requested")) == 2


def test_a_broker_that_dies_meanwhile_asks_for_no_second_one(make_world: MakeWorld) -> None:
    world = make_world(spot())
    narrowed(world)
    world.boots = lambda token: False
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    for _ in range(3):
        world.restart()
        world.tick()
    assert len(told(world, "spare_requested")) == 1


def test_it_does_not_stop_for_a_node_that_goes_before_the_iteration_ends(
    make_world: MakeWorld,
) -> None:
    """It was asked for in time, and then the iteration took longer than the one before."""
    world = make_world(spot(boot_s=60.0, warm_s=30.0))
    narrowed(world)
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    assert len(spares(world)) == 1
    at_work(world, 4, 2 * LONG_S, for_s=LONG_S - 49)
    world.tick(3)
    assert world.run_of().order.stop_after is None


@pytest.mark.parametrize("values", [{"resume": Resume.NONE}, {"resume": Resume.ITEM}])
def test_what_cannot_go_on_from_an_iteration_is_left_alone(
    make_world: MakeWorld, values: dict[str, object]
) -> None:
    world = make_world(spot())
    world.submit(step("1", width=3, **values), market=SPOT)
    world.until_state(RUNNING)
    world.cloud.reclaim(world.open_runs()[0].nodes[0].token)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    world.tick(3)
    assert spares(world) == []


def test_an_exact_step_has_one_node_and_keeps_it(make_world: MakeWorld) -> None:
    world = make_world(spot())
    world.submit(step("1", width=3), market=SPOT, exact=Exact.ON)
    world.until_state(RUNNING)
    world.cloud.reclaim(world.open_runs()[0].nodes[0].token)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    at_work(world, 4, LONG_S, for_s=LONG_S - 50)
    world.tick(3)
    assert spares(world) == []
