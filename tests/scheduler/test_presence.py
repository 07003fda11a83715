"""Listings come late, partial and empty; jobs wait to begin: no healthy run ends for that."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest

from scsched.cluster.provider import NodeState, Traits
from scsched.db.nodes import NodeRec
from scsched.scheduler.fleet import Census
from scsched.scheduler.presence import Absences, Sight
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING


def running(world: World, width: int) -> list[NodeRec]:
    world.submit(step("1", width=width))
    world.until_state(RUNNING)
    return list(world.open_runs()[0].nodes)


def deaf(world: World, *nodes: NodeRec) -> None:
    """These answer their driver no more."""
    tokens = {node.token for node in nodes}
    world.boots = lambda token: token not in tokens


@pytest.mark.parametrize("lacking", [1, 4, 6])
def test_a_list_that_lacks_nodes_which_answer_ends_nothing(
    make_world: MakeWorld, lacking: int
) -> None:
    world = make_world(pool(max_nodes=6))
    nodes = running(world, 6)
    world.cloud.hide(*(node.token for node in nodes[:lacking]))
    world.tick(120)
    assert world.at() is RUNNING
    assert world.ends() == []


def test_a_thousand_lists_late_partial_and_empty_end_no_healthy_run(
    make_world: MakeWorld,
) -> None:
    world = make_world(pool(max_nodes=6))
    tokens = [node.token for node in running(world, 6)]
    random = Random(7)  # noqa: S311 - not for secrets
    for _ in range(25):
        world.cloud.show(*tokens)
        world.cloud.hide(*random.sample(tokens, random.randint(0, 6)))
        world.tick(random.randint(1, 8), seconds=random.choice([1.0, 5.0]))
    assert world.ends() == []
    assert world.cloud.up() == set(tokens)


def test_a_node_that_is_missing_and_silent_is_gone(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=2))
    (node,) = running(world, 1)
    deaf(world, node)
    world.cloud.hide(node.token)
    world.tick(10)
    assert [one.id for one in world.nodes() if one.id == node.id] == [node.id]
    world.until(lambda: node.id not in {one.id for one in world.nodes()}, ticks=30)


def test_a_listing_that_grows_old_proves_nothing(make_world: MakeWorld) -> None:
    """Two that lack it came in the first second, and then no more for as long as one may be old."""
    world = make_world(pool(max_nodes=2))
    (node,) = running(world, 1)
    absences, lag = Absences(), timedelta(seconds=45.0)

    def is_proven(seconds: float, listing: int) -> bool:
        census = Census({}, frozenset(), {}, listing={node.provider: listing})
        at = world.now + timedelta(seconds=seconds)
        sight = Sight(at, {}, census, [], {node.id: node}, {})
        absences.note(sight, lambda _: False)
        return absences.proves(node, sight, lag)

    assert not is_proven(0.0, 1)
    assert not is_proven(1.0, 2)
    assert not any(is_proven(seconds, 2) for seconds in range(2, 60))
    assert is_proven(60.0, 3)


def test_a_launch_whose_answer_was_lost_is_not_denied_by_one_listing(
    make_world: MakeWorld,
) -> None:
    """Nobody wants the node any more, and the first list of the next broker is empty: it comes
    all the same, is paid for, and is ended as what it is."""
    world = make_world(pool(max_nodes=2))
    world.cloud.lose_replies(times=100)
    world.submit()
    world.until(lambda: bool(world.nodes()))
    (node,) = world.nodes()
    world.cloud.hide(node.token)
    world.until(lambda: bool(world.cloud.up()))
    world.person("cancel")
    world.until(lambda: world.nodes()[0].terminate_asked_at is not None)
    world.restart()
    world.tick(1, seconds=600.0)
    assert len(world.nodes()) == 1
    world.cloud.show(node.token)
    world.until(lambda: not world.nodes() and not world.cloud.up())
    kinds = [event.kind for event in world.events()]
    assert kinds.count("launched") == 1
    assert "stranger_ended" not in kinds


def test_many_nodes_missing_at_once_count_as_gone_only_when_silent_for_long(
    make_world: MakeWorld,
) -> None:
    """Their driver lives and says nothing, so nobody knows better: the list is not believed."""
    world = make_world(pool(max_nodes=6))
    nodes = running(world, 6)
    world.cloud.hide(*(node.token for node in nodes))
    world.restart()
    world.programs.of(1).mute = True
    world.tick(40)
    assert len(world.nodes()) == 6
    world.programs.kill(1)
    world.until(lambda: world.ends() != [], ticks=120)
    assert world.ends() == [EndReason.LOST]


def test_a_provider_that_lists_late_is_given_its_time(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=2))
    world.cloud.traits = Traits(remote=False, listing_lag_s=45.0, stranger_grace_s=0.0)
    (node,) = running(world, 1)
    deaf(world, node)
    world.cloud.hide(node.token)
    world.cloud.frozen = frozenset({node.token})
    world.tick(40)
    assert node.id in {one.id for one in world.nodes()}
    world.until(lambda: node.id not in {one.id for one in world.nodes()}, ticks=30)


def test_a_job_that_waits_in_a_queue_has_all_its_time_to_boot(make_world: MakeWorld) -> None:
    """A batch system lets it wait for an hour; it counts from when it runs."""
    world = make_world(pool(boot_s=30.0))
    world.boots = lambda token: False
    world.submit()
    world.until(lambda: bool(world.cloud.up()))
    (token,) = world.cloud.up()
    waiting = replace(world.cloud.nodes[token], state=NodeState.PENDING)
    world.cloud.nodes[token] = waiting
    world.tick(60, seconds=60.0)
    assert world.ends() == []
    world.cloud.nodes[token] = replace(waiting, state=NodeState.RUNNING)
    world.tick(25)
    assert world.ends() == []
    world.tick(10)
    assert world.ends() == [EndReason.BOOT_FAIL]


def test_a_node_that_ends_before_its_run_has_begun_is_a_boot_failure(
    make_world: MakeWorld,
) -> None:
    world = make_world(pool(boot_s=30.0))
    world.boots = lambda token: False
    world.submit()
    world.until(lambda: bool(world.cloud.up()))
    world.cloud.reclaim(next(iter(world.cloud.up())), reason="could not enrol")
    world.until(lambda: bool(world.ends()), ticks=5)
    assert world.ends() == [EndReason.BOOT_FAIL]
