"""A notice is heard, decided on at once, and answered with a replacement."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import NoCapacity
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.scheduler.protocol import Phase
from scsched.steps.spec import ResourceClass, Resume
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import SPOT, World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING


def spot(**values: object) -> Pool:
    given: dict[str, object] = {"market": Market.SPOT, "max_nodes": 6, "remote": True}
    return pool("spot", **(given | values))


def running(world: World, width: int = 1, **values: object) -> list[NodeRec]:
    """A step on so many spot nodes, at work; its nodes."""
    world.submit(step("1", width=width, **values), market=SPOT)
    world.until_state(RUNNING)
    return list(world.open_runs()[0].nodes)


def at_work(world: World, iteration: int, seconds: float, **values: object) -> None:
    """Its driver tells of an iteration that has just begun, and how long the last one took."""
    world.run_of().progress = {
        "iteration": iteration,
        "checkpoint": iteration - 1,
        "seconds_per_iteration": seconds,
        "began": world.now.timestamp(),
        **values,
    }
    world.tick()


def notify(world: World, node: NodeRec, seconds: float) -> None:
    """So many seconds are left when the broker hears of it."""
    world.cloud.notify(node.token, world.now + timedelta(seconds=seconds + 1))
    world.tick()


def spares(world: World) -> list[NodeRec]:
    return [node for node in world.nodes() if node.spare_for is not None]


def told(world: World, kind: str) -> list[str]:
    return [event.text for event in world.events() if event.kind == kind]


def test_an_iteration_that_fits_is_finished_and_nothing_is_lost(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    notify(world, node, 60.0)
    assert world.run_of().order.stop_after == 7
    assert world.at() is RUNNING
    at_work(world, 8, 30.0)
    world.until(lambda: bool(world.ends()))
    (run, *_) = world.runs()
    assert (run.end_reason, run.iterations_done, run.iterations_lost) == ("PREEMPTED", 7, 0)
    assert "iteration 7 needs" in told(world, "stop_after_asked")[0]


def test_an_iteration_that_does_not_fit_is_stopped_at_once_with_both_numbers(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 43.0)
    notify(world, node, 18.0)
    world.until(lambda: bool(world.ends()), ticks=3)
    assert world.ends() == [EndReason.PREEMPTED]
    assert told(world, "stop_asked") == [
        "asked to stop: PREEMPTED: 18 s left, iteration 7 needs 41 s more: stopped"
    ]


def test_what_has_only_items_runs_to_the_end_of_its_notice(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node,) = running(world, resume=Resume.ITEM, resource_class=ResourceClass.IO)
    notify(world, node, 20.0)
    world.tick(10)
    assert world.at() is RUNNING
    assert "let run" in told(world, "let_run")[0]
    world.cloud.reclaim(node.token)
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.PREEMPTED]


def test_a_run_whose_outputs_are_being_checked_is_not_stopped(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node,) = running(world)
    world.run_of().phase = Phase.COMPLETING
    notify(world, node, 20.0)
    world.tick(3)
    assert world.ends() == []
    assert spares(world) == []
    world.finish()
    world.tick()
    assert world.at() is StepState.COMPLETED


def test_a_run_that_waits_for_its_nodes_is_given_other_ones(make_world: MakeWorld) -> None:
    world = make_world(spot())
    world.boots = lambda token: False
    world.submit(market=SPOT)
    world.until(lambda: bool(world.cloud.up()))
    (node,) = world.open_runs()[0].nodes
    notify(world, node, 60.0)
    world.boots = lambda token: True
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    assert world.ends() == [EndReason.PREEMPTED]


@pytest.mark.parametrize("first", ["node", "provider"])
def test_either_ear_is_enough_and_it_is_written_down_once(
    make_world: MakeWorld, first: str
) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    deadline = world.now + timedelta(seconds=61)
    heard = {node.name: deadline.isoformat()}
    if first == "node":
        world.programs.of(1).heard = heard
    else:
        world.cloud.notify(node.token, deadline)
    world.tick()
    (noticed,) = [one for one in world.nodes() if one.notice_at is not None]
    assert (noticed.id, noticed.notice_deadline) == (node.id, deadline)
    world.programs.of(1).heard = heard
    world.cloud.notify(node.token, deadline + timedelta(seconds=60))
    world.tick(3)
    assert len(told(world, "notice")) == 1
    assert len(told(world, "stop_after_asked")) == 1
    assert len(told(world, "spare_requested")) == 1


def test_of_two_ears_at_once_the_earlier_deadline_counts(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    early, late = (world.now + timedelta(seconds=s) for s in (30, 90))
    world.programs.of(1).heard = {node.name: early.isoformat()}
    world.cloud.notify(node.token, late)
    world.tick()
    assert {one.notice_deadline for one in world.nodes()} == {None, early}


def test_an_earlier_deadline_that_comes_later_is_decided_on_anew(make_world: MakeWorld) -> None:
    """The provider's queue says two minutes; then the node hears that it is 18 seconds."""
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    notify(world, node, 119.0)
    assert world.run_of().order.stop_after == 9
    early = world.now + timedelta(seconds=18)
    world.programs.of(1).heard = {node.name: early.isoformat()}
    world.until(lambda: bool(world.ends()), ticks=3)
    assert world.ends() == [EndReason.PREEMPTED]
    assert told(world, "stop_asked")[0].endswith("17 s left, iteration 7 needs 27 s more: stopped")
    assert [node.notice_deadline for node in world.nodes() if node.notice_at] == [early]
    assert len(told(world, "spare_requested")) == 1


def test_two_ears_that_differ_by_a_second_are_one_notice(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    deadline = world.now + timedelta(seconds=61)
    world.cloud.notify(node.token, deadline)
    world.tick()
    world.programs.of(1).heard = {node.name: (deadline - timedelta(seconds=1)).isoformat()}
    world.tick(3)
    assert len(told(world, "notice")) == 1


def test_a_run_that_was_let_run_wants_its_replacement_when_it_cannot_end_in_time(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 25, 30.0, of=25)
    notify(world, node, 60.0)
    assert spares(world) == []
    notify(world, node, 10.0)
    assert len(spares(world)) == 1


@pytest.mark.parametrize("text", ["soon", "", "2026-99-99", "nan"])
def test_a_deadline_that_is_no_time_is_no_notice(make_world: MakeWorld, text: str) -> None:
    world = make_world(spot())
    (node,) = running(world)
    world.programs.of(1).heard = {node.name: text}
    world.tick(3)
    assert world.at() is RUNNING
    assert told(world, "notice") == []


def test_the_replacement_is_asked_for_at_the_notice_and_then_used(make_world: MakeWorld) -> None:
    world = make_world(spot())
    nodes = running(world, 3)
    at_work(world, 7, 30.0)
    notify(world, nodes[0], 60.0)
    (spare,) = spares(world)
    assert (spare.run_id, spare.spare_for) == (None, world.open_runs()[0].step_id)
    world.tick(3)
    assert spare.token in world.cloud.up()
    assert world.at() is RUNNING
    at_work(world, 8, 30.0)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    (run,) = world.open_runs()
    assert {node.id for node in run.nodes} == {nodes[1].id, nodes[2].id, spare.id}
    assert run.layout["nodes"] == 3
    assert len(world.cloud.nodes) == 4
    assert spares(world) == []


def test_a_replacement_that_boots_still_does_not_keep_the_survivors_waiting(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    nodes = running(world, 3)
    world.boots = lambda token: token in {node.token for node in nodes}
    at_work(world, 7, 100.0)
    notify(world, nodes[0], 20.0)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    assert world.open_runs()[0].layout["nodes"] == 2


def test_survivors_wait_for_it_when_their_iterations_would_be_too_long(
    make_world: MakeWorld,
) -> None:
    """Two nodes for twelve hours each iteration: longer than spot nodes are likely to last."""
    world = make_world(spot(boot_s=600.0))
    nodes = running(world, 3)
    world.boots = lambda token: token in {node.token for node in nodes}
    at_work(world, 7, 12 * 3600.0)
    notify(world, nodes[0], 20.0)
    (spare,) = spares(world)
    world.until(lambda: len(world.runs()) == 2)
    world.tick(10)
    assert world.at() is StepState.CONFIGURING
    (run,) = world.open_runs()
    assert (run.layout["nodes"], spare.id in {node.id for node in run.nodes}) == (3, True)
    world.boots = lambda token: True
    world.until_state(RUNNING)


@pytest.mark.parametrize(("stormy", "width"), [(False, 2), (True, 3)])
def test_a_storm_of_reclaims_forbids_what_calm_allows(
    make_world: MakeWorld, stormy: bool, width: int
) -> None:
    world = make_world(spot(max_nodes=9, boot_s=600.0))
    nodes = running(world, 3)
    for _ in range(12):
        world.submit(step("1"), market=SPOT)
    world.tick(4)
    others = [n for n in world.nodes() if n.workflow_id != 1 and n.launched_at is not None]
    for node in others if stormy else []:
        world.cloud.reclaim(node.token)
    assert len(others) == 6
    world.boots = lambda token: token in {node.token for node in nodes}
    at_work(world, 7, 3 * 3600.0)
    notify(world, nodes[0], 20.0)
    world.until(lambda: len(world.runs()) == 2)
    (again,) = [run for run in world.open_runs() if run.workflow_id == 1]
    assert again.layout["nodes"] == width


@pytest.mark.parametrize(("max_nodes", "expected"), [(3, 0), (4, 1), (6, 2)])
def test_a_notice_asks_for_no_more_than_the_pool_may_have(
    make_world: MakeWorld, max_nodes: int, expected: int
) -> None:
    """The nodes that are to go still count: a cap is hard."""
    world = make_world(spot(max_nodes=max_nodes))
    nodes = running(world, 3)
    at_work(world, 7, 30.0)
    for node in nodes[:2]:
        world.cloud.notify(node.token, world.now + timedelta(seconds=61))
    world.tick()
    assert len(spares(world)) == expected


def test_a_run_in_its_last_iteration_wants_no_replacement(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 25, 30.0, of=25)
    notify(world, node, 60.0)
    assert spares(world) == []
    assert world.run_of().order.stop_after is None


def test_a_cancelled_run_wants_no_replacement(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    world.programs.of(1).mute = True
    world.person("cancel")
    notify(world, node, 60.0)
    assert spares(world) == []


def test_a_second_notice_may_only_hurry(make_world: MakeWorld) -> None:
    world = make_world(spot())
    first, second = running(world, 2)
    at_work(world, 7, 40.0)
    notify(world, first, 200.0)
    assert world.run_of().order.stop_after == 10
    notify(world, second, 60.0)
    assert world.run_of().order.stop_after == 7


def test_a_replacement_that_is_refused_is_nobodys_end(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    world.cloud.refuse(NoCapacity("none left"))
    notify(world, node, 60.0)
    world.tick(3)
    assert world.at() is RUNNING
    assert spares(world) == []


def test_a_replacement_of_a_step_that_has_ended_goes(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    notify(world, node, 60.0)
    world.tick(2)
    (spare,) = spares(world)
    world.finish()
    world.until(lambda: spare.token not in world.cloud.up())
    assert world.at() is StepState.COMPLETED


def test_survivors_go_on_at_once_after_a_loss_without_notice(make_world: MakeWorld) -> None:
    world = make_world(spot())
    nodes = running(world, 3)
    at_work(world, 7, 60.0)
    world.cloud.reclaim(nodes[1].token)
    world.until(lambda: len(world.runs()) == 2, ticks=4)
    (run,) = world.open_runs()
    assert {node.id for node in run.nodes} == {nodes[0].id, nodes[2].id}
    assert len(world.cloud.nodes) == 3


def test_nobody_else_gets_a_node_under_notice(make_world: MakeWorld) -> None:
    world = make_world(spot())
    (node,) = running(world)
    at_work(world, 7, 300.0)
    notify(world, node, 60.0)
    world.until(lambda: len(world.runs()) == 2)
    assert node.id not in {one.id for one in world.open_runs()[0].nodes}
    assert {n.state for n in world.nodes() if n.id == node.id} <= {NodeState.DRAINING}


def test_an_iteration_that_outlasts_spot_nodes_moves_to_on_demand(make_world: MakeWorld) -> None:
    """The same iteration, begun again and again."""
    world = make_world(spot(usd_per_hour=Decimal("0.1")), pool("steady"))
    running(world)
    for _ in range(3):
        world.until_state(RUNNING)
        at_work(world, 7, 3600.0, resumed_from=6)
        world.cloud.reclaim(world.open_runs()[0].nodes[0].token)
        world.until(lambda: world.at() is not RUNNING)
    world.until_state(RUNNING)
    assert [run.pool for run in world.runs()] == ["spot", "spot", "spot", "steady"]


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_a_broker_that_dies_after_a_notice_asks_for_no_second_replacement(
    make_world: MakeWorld, dies: int
) -> None:
    world = make_world(spot())
    (node, _) = running(world, 2)
    at_work(world, 7, 30.0)
    notify(world, node, 60.0)
    for _ in range(dies):
        world.restart()
        world.tick()
    assert len(told(world, "spare_requested")) == 1
    assert len(world.cloud.nodes) == 3
