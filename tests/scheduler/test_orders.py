"""What drivers are told to do."""

from collections.abc import Callable

import pytest

from scsched.cluster.pools import Market
from scsched.db.nodes import NodeRec
from scsched.steps.state import StepState
from tests.scheduler.world import SPOT, Going, World, pool, step

MakeWorld = Callable[..., World]


def running(make_world: MakeWorld) -> tuple[World, Going, list[NodeRec]]:
    world = make_world(pool("spot", market=Market.SPOT, max_nodes=3))
    world.submit(step("1", width=3), market=SPOT)
    world.until_state(StepState.RUNNING)
    return world, world.run_of(), list(world.open_runs()[0].nodes)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_driver_is_told_of_a_node_that_is_gone_before_it_notices(
    make_world: MakeWorld, lost: int
) -> None:
    world, going, nodes = running(make_world)
    names = {node.name: node.token for node in nodes}
    world.answering = lambda driver: names  # type: ignore[method-assign]
    world.tick()
    assert [node.gone for node in going.order.nodes] == [False] * 3
    world.cloud.reclaim(nodes[lost].token)
    world.tick()
    assert [node.name for node in going.order.nodes if node.gone] == [nodes[lost].name]
    assert world.ends() == []


def test_a_driver_is_told_of_a_node_that_is_to_end(make_world: MakeWorld) -> None:
    """Its worker has left: whatever of it may still write, its machine is terminated."""
    world, going, nodes = running(make_world)
    kept = {node.name: node.token for node in nodes[1:]}
    world.programs.of(1).mute = True
    world.answering = lambda driver: kept  # type: ignore[method-assign]
    world.services.inbox.put(1, world.programs.of(1).beat(kept), timeout_s=0.0)
    world.services.tick(world.now)
    world.programs.of(1).mute = False
    world._orders()
    assert [node.gone for node in going.order.nodes] == [True, False, False]
