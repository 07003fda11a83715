"""A step does not start again before each lost node of its last run is proven gone."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from scsched.cluster.pools import Market
from scsched.cluster.provider import NodeState, Unreachable
from scsched.scheduler.fencing import FENCE_S, Former, is_proven, unproven
from scsched.scheduler.presence import WITNESSED_S
from scsched.scheduler.protocol import Hint
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
RUNNING, PENDING = StepState.RUNNING, StepState.PENDING
FORMER = Former(name="n3", step_id=7, answers=False, existence=NodeState.RUNNING, silent_s=0.0)


@pytest.mark.parametrize(
    ("change", "proven"),
    [
        ({}, False),
        ({"existence": None}, False),
        ({"existence": NodeState.PENDING}, False),
        ({"existence": NodeState.STOPPING}, True),
        ({"existence": NodeState.TERMINATED}, True),
        ({"answers": True}, True),
        ({"silent_s": FENCE_S - 1}, False),
        ({"silent_s": FENCE_S}, True),
    ],
)
def test_what_proves_that_a_node_is_gone(change: dict[str, object], proven: bool) -> None:
    former = replace(FORMER, **change)  # type: ignore[arg-type]
    assert is_proven(former) is proven
    assert bool(unproven([former])) is not proven


def test_the_sentence_names_the_nodes_and_the_time() -> None:
    found = unproven([FORMER, replace(FORMER, name="n2", silent_s=20.0)])
    assert found.keys() == {7}
    assert "n2, n3" in found[7]
    assert "60 s more" in found[7]


def cut_off(make_world: MakeWorld, warm_s: float = 60.0) -> tuple[World, str]:
    """A step on two of six nodes, the second of which has just stopped answering; its host is
    frozen, so that its provider lists it as running whatever is asked of it."""
    world = make_world(pool(max_nodes=6, warm_s=warm_s))
    world.submit(step("1", width=2))
    world.until_state(RUNNING)
    lost = world.open_runs()[0].nodes[1].token
    world.cloud.frozen = frozenset({lost})
    world.boots = lambda token: token != lost
    world.tick(2)
    return world, lost


def test_a_step_waits_while_a_lost_node_may_still_write(make_world: MakeWorld) -> None:
    world, lost = cut_off(make_world)
    assert world.ends() == [EndReason.NODE_FAIL]
    assert world.at() is PENDING
    world.tick(20)
    assert (world.at(), len(world.runs())) == (PENDING, 1)
    why = world.services.dispatch.unplaced[world.steps()["1"].id]
    assert why.reason is PendingReason.NODE_FENCING
    name = world.cloud.requests[lost].name
    assert name in why.detail


def test_its_end_is_asked_for_at_once_and_ends_the_wait(make_world: MakeWorld) -> None:
    world, lost = cut_off(make_world)
    assert [n.token for n in world.nodes() if n.terminate_asked_at is not None] == [lost]
    world.cloud.frozen = frozenset()
    world.tick(2)
    world.until_state(RUNNING)
    assert lost not in world.cloud.up()


def test_a_host_that_never_leaves_the_listing_is_fenced_by_its_lease(
    make_world: MakeWorld,
) -> None:
    world, lost = cut_off(make_world)
    seconds = 0
    while world.at() is PENDING:
        world.tick()
        seconds += 1
    assert FENCE_S - 5 <= seconds <= FENCE_S + 5
    world.until_state(RUNNING)
    assert lost in world.cloud.up()
    assert lost not in {node.token for node in world.open_runs()[0].nodes}


def test_a_provider_that_says_it_ends_the_node_is_believed(make_world: MakeWorld) -> None:
    world, lost = cut_off(make_world)
    world.cloud.nodes[lost] = replace(world.cloud.nodes[lost], state=NodeState.STOPPING)
    world.tick(2)
    assert world.at() is not PENDING


def test_survivors_are_kept_warm_meanwhile_and_used_again(make_world: MakeWorld) -> None:
    world, lost = cut_off(make_world, warm_s=5.0)
    (survivor,) = [node for node in world.nodes() if node.token != lost]
    world.tick(30)
    assert survivor.token in world.cloud.up()
    world.until_state(RUNNING)
    world.tick(60)
    assert survivor.token in {node.token for node in world.open_runs()[0].nodes}


def test_a_broker_that_slept_has_not_heard_the_silence(make_world: MakeWorld) -> None:
    """It was stopped for an hour, and the drivers could not tell it anything."""
    world, _ = cut_off(make_world)
    world.tick(seconds=3600.0)
    assert world.at() is PENDING
    assert 2 * WITNESSED_S < FENCE_S


def test_a_new_broker_gives_the_lease_its_full_time(make_world: MakeWorld) -> None:
    world, _ = cut_off(make_world)
    world.tick(int(FENCE_S) - 10)
    world.restart()
    world.tick(20)
    assert world.at() is PENDING
    world.until_state(RUNNING)


def test_a_node_that_answers_again_has_proven_nothing(make_world: MakeWorld) -> None:
    world, _ = cut_off(make_world)
    world.tick(10)
    world.boots = lambda token: True
    world.tick(10)
    assert world.at() is PENDING


def test_silence_of_the_provider_proves_nothing(make_world: MakeWorld) -> None:
    world, _ = cut_off(make_world)
    world.cloud.frozen = frozenset()
    world.cloud.fail("terminate", Unreachable("no answer"), times=100)
    world.cloud.fail("list", Unreachable("no answer"), times=30)
    world.tick(30)
    assert world.at() is PENDING


def test_a_run_whose_driver_died_with_a_frozen_node_is_closed_by_the_lease(
    make_world: MakeWorld,
) -> None:
    world = make_world(pool(max_nodes=6))
    world.submit(step("1", width=2))
    world.until_state(RUNNING)
    world.cloud.frozen = world.cloud.up()
    world.programs.kill(1)
    world.tick(30)
    assert world.at() is RUNNING
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.LOST]
    world.until_state(RUNNING)


def test_a_step_whose_nodes_all_answer_waits_for_nothing(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    world.finish(hint=Hint.STALLED)
    world.tick(3)
    assert world.at() is RUNNING
    assert len(world.cloud.nodes) == 1


def test_nodes_of_a_run_that_never_began_need_no_proof(make_world: MakeWorld) -> None:
    """They boot still, and nothing was ever started on them."""
    world = make_world(pool("spot", market=Market.ON_DEMAND, max_nodes=4))
    world.boots = lambda token: False
    world.submit()
    world.until(lambda: bool(world.cloud.up()))
    world.person("requeue")
    world.until(lambda: len(world.runs()) == 2, ticks=10)


def test_a_step_that_was_cancelled_keeps_nobody_waiting(make_world: MakeWorld) -> None:
    world, _ = cut_off(make_world)
    world.person("cancel")
    world.tick()
    assert world.at() is StepState.CANCELLED
    world.submit()
    world.until_state(RUNNING, workflow=2)
