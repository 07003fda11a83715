"""Nodes come and go: launched once, kept warm for their workflow, never forgotten."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import NoReturn

import pytest

from scsched.cluster.provider import (
    LaunchRequest,
    NoCapacity,
    NodeState,
    ProviderError,
    Throttled,
    Unreachable,
)
from scsched.db import queries, queue
from scsched.db.models import NodeState as Recorded
from scsched.db.submissions import NewStep
from scsched.steps.spec import ResourceClass
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING


def idle(world: World) -> World:
    """A world in which a node has nothing to do, and its workflow a step that waits for 3."""
    world.submit(step("1"), step("2", "3"), step("3"))
    world.until(lambda: world.at("1") is RUNNING and world.at("3") is RUNNING)
    world.finish("1")
    world.tick()
    return world


def test_nodes_are_launched_under_the_token_that_was_written_down(world: World) -> None:
    world.submit(step("1", width=2))
    world.until_state(RUNNING)
    assert {node.token for node in world.nodes()} == set(world.cloud.nodes)
    request = next(iter(world.cloud.requests.values()))
    driver = world.programs.of(1)
    assert request.join.scheduler_address == driver.address
    assert (request.owner.uid, request.deployment) == (0, world.store.deployment())


def test_no_node_is_launched_before_its_driver_listens(world: World) -> None:
    world.submit()
    world.tick()
    world.programs.of(1).mute = True
    world.tick(5)
    assert world.cloud.nodes == {}
    world.programs.of(1).mute = False
    world.until_state(RUNNING)


@pytest.mark.parametrize("error", [Unreachable("no answer"), Throttled("too fast")])
def test_not_now_and_no_answer_are_tried_again_under_the_same_token(
    world: World, error: ProviderError
) -> None:
    world.cloud.refuse(error, times=3)
    world.submit()
    world.until_state(RUNNING)
    assert world.ends() == []
    assert len(world.cloud.nodes) == 1


def test_a_launch_whose_answer_was_lost_is_not_launched_twice(world: World) -> None:
    world.cloud.lose_replies()
    world.submit()
    world.until_state(RUNNING)
    assert len(world.cloud.nodes) == 1
    assert world.ends() == []


def test_a_broker_that_died_after_the_launch_launches_no_second_node(world: World) -> None:
    world.cloud.die_after_launch = True
    world.submit()
    world.until_state(RUNNING)
    assert len(world.cloud.nodes) == 1
    assert world.ends() == []


def test_a_node_that_was_given_up_while_its_provider_was_late_is_ended(world: World) -> None:
    world.cloud.delay_listing(40)
    world.boots = lambda token: False
    world.submit()
    world.until(lambda: EndReason.BOOT_FAIL in world.ends(), ticks=59)
    lost = next(iter(world.cloud.nodes))
    world.cloud.delay_listing(0)
    world.until(lambda: lost not in world.cloud.up(), ticks=60)


def test_a_node_without_any_record_is_ended(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    (mine,) = world.cloud.requests.values()
    stray = LaunchRequest(
        token="stray", name="n99", pool=mine.pool, owner=mine.owner, join=mine.join,
        deployment=mine.deployment,
    )  # fmt: skip
    world.cloud.launch((stray,))
    world.tick()
    assert world.cloud.up() == {mine.token}
    assert world.at() is RUNNING


def test_an_idle_node_is_kept_warm_for_its_workflow_and_then_ended(make_world: MakeWorld) -> None:
    world = idle(make_world(pool(warm_s=10.0)))
    world.tick(9)
    assert len(world.cloud.up()) == 2
    world.tick(3)
    assert len(world.cloud.up()) == 1
    assert world.at("3") is RUNNING


@pytest.mark.parametrize(
    "behind",
    [
        step("2", "1", gate="look at it"),
        step("2", "1", "3", "9"),
        step("2", "3", resource_class=ResourceClass.IO),
        step("2", "3", long_lived=True),
    ],
    ids=["a person's", "far off", "of another class", "for the service"],
)
def test_an_idle_node_that_no_step_will_want_soon_is_ended_at_once(
    make_world: MakeWorld, behind: NewStep
) -> None:
    cpu = frozenset({ResourceClass.CPU})
    world = make_world(pool(warm_s=3600.0, classes=cpu), pool("service", service=True))
    world.submit(step("1"), step("3"), step("8", "3"), step("9", "8"), behind, priority=1)
    with world.store.write() as session:
        queue.hold(session, queries.step_ids(session, 1, ["8"]).values(), world.now, 0)
    world.until(lambda: world.at("1") is RUNNING and world.at("3") is RUNNING)
    (done,) = {node.token for run in world.open_runs() if run.ref == "1" for node in run.nodes}
    world.finish("1")
    world.tick(2)
    assert done not in world.cloud.up()
    assert world.at("3") is RUNNING


def test_a_workflow_with_nothing_more_to_run_keeps_no_node(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    world.finish()
    world.tick(2)
    assert world.cloud.up() == frozenset()
    world.until(lambda: not world.programs.drivers)
    assert world.nodes() == []


def test_another_workflow_that_waits_gets_the_idle_node_at_once(make_world: MakeWorld) -> None:
    world = idle(make_world(pool(warm_s=3600.0)))
    world.submit()
    world.until_state(RUNNING, workflow=2)
    assert world.at("3") is RUNNING


def test_the_need_of_a_step_behind_does_not_keep_nodes_from_one_before_it(
    make_world: MakeWorld,
) -> None:
    """Workflow 1 has an idle node in `a` and waits for `b`; workflow 3 waits for `a` before it."""
    io, both = ResourceClass.IO, frozenset({ResourceClass.IO, ResourceClass.CPU})
    world = make_world(
        pool("a", max_nodes=1, warm_s=3600.0, classes=both),
        pool("b", max_nodes=1, classes=frozenset({io})),
    )
    world.submit(step("1"), step("2", "1", resource_class=io))
    world.until_state(RUNNING)
    world.submit(step("1", resource_class=io))
    world.until_state(RUNNING, workflow=2)
    world.submit(priority=9)
    world.finish("1")
    world.until_state(RUNNING, workflow=3)


def test_a_terminate_that_failed_is_repeated_until_the_node_is_seen_gone(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    world.cloud.fail("terminate", Unreachable("no answer"), times=3)
    world.finish()
    world.tick(2)
    assert len(world.cloud.up()) == 1
    world.until(lambda: not world.cloud.up())
    world.until(lambda: not world.nodes())


def test_a_half_dead_node_is_ended_for_good(world: World) -> None:
    """Its provider says STOPPING: some of its processes are left."""
    world.submit()
    world.until_state(RUNNING)
    (token,) = world.cloud.nodes
    world.cloud.nodes[token] = replace(world.cloud.nodes[token], state=NodeState.STOPPING)
    world.tick()
    assert world.cloud.nodes[token].state is NodeState.TERMINATED


def test_a_node_that_was_never_launched_and_is_of_no_use_is_forgotten(
    make_world: MakeWorld,
) -> None:
    """Its workflow waits for the very pool that it fills."""
    world = make_world(pool(max_nodes=1))
    world.cloud.refuse(Throttled("too fast", retry_after_s=1.0), times=20)
    world.submit(step("1"), step("2"))
    world.tick(3)
    assert [node.state for node in world.nodes()] == [Recorded.REQUESTED]
    world.person("cancel", "1")
    world.until_state(RUNNING, "2")


def test_a_pool_that_was_taken_out_of_the_configuration_loses_its_nodes(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    world.pools = (pool("new"),)
    world.restart()
    world.tick(3)
    assert world.at() is RUNNING
    world.finish()
    world.until(lambda: not world.cloud.up())
    assert world.at() is StepState.COMPLETED


def test_refused_nodes_leave_no_run_behind(world: World) -> None:
    world.cloud.refuse(NoCapacity("none"), times=3)
    world.submit(step("1", width=2))
    world.until_state(RUNNING, "1")
    assert set(world.ends()) == {EndReason.NO_CAPACITY}
    assert len(world.open_runs()) == 1


def test_an_idle_node_under_notice_is_given_back_at_once(world: World) -> None:
    """Nothing more may start on it, and the market may take its time."""
    idle(world)
    (node,) = [node for node in world.nodes() if node.run_id is None]
    world.cloud.notify(node.token, world.now + timedelta(seconds=120))
    world.tick(2)
    assert node.token not in world.cloud.up()


def test_a_user_without_an_account_holds_up_nobody_else(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.submit(uid=3_999_999_999, username="gone")
    world.submit()
    world.until_state(RUNNING, workflow=2)
    world.finish(workflow=2)
    world.until(lambda: world.workflow(2).state == "COMPLETED")
    world.until(lambda: not world.cloud.up())
    assert world.at() is StepState.CONFIGURING
    assert [one.message for one in caplog.records].count(
        "workflow 1: uid 3999999999 (gone) has no account here, no node is launched for it"
    ) == 1


def test_nodes_end_whatever_happens_to_a_launch(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    world.finish()
    world.submit()

    def launch(requests: object) -> NoReturn:
        raise ValueError("this was never thought of")

    world.cloud.launch = launch  # type: ignore[method-assign]
    for _ in range(20):
        with suppress(ValueError):
            world.tick()
        world._orders()
    assert world.cloud.up() == set()
