"""Gangs: all nodes of one kind in one zone, or none; and why nothing is launched."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import update

from scsched.cluster.pools import Market, Pool, Storage
from scsched.cluster.provider import NoCapacity, QuotaExceeded, gang_of
from scsched.db.models import nodes
from scsched.db.nodes import NodeRec
from scsched.scheduler.protocol import Hint, StorageReport
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.world import SPOT, World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING


def spot(**values: object) -> Pool:
    given: dict[str, object] = {
        "market": Market.SPOT, "max_nodes": 6, "types": ("big", "small"), "zones": ("a", "b"),
    }  # fmt: skip
    return pool("spot", **(given | values))


def running(world: World, width: int) -> list[NodeRec]:
    world.submit(step("1", width=width), market=SPOT)
    world.until_state(RUNNING)
    return list(world.open_runs()[0].nodes)


def why(world: World, ref: str = "1") -> tuple[PendingReason, str]:
    found = world.services.dispatch.unplaced[world.steps()[ref].id]
    return found.reason, found.detail


def test_the_nodes_of_a_gang_have_one_token_one_kind_and_one_zone(make_world: MakeWorld) -> None:
    nodes = running(make_world(spot()), 3)
    assert len({gang_of(node.token) for node in nodes}) == 1
    assert {(node.kind, node.zone) for node in nodes} == {("big", "a")}


def test_a_refused_candidate_is_followed_by_the_next_for_all_of_the_gang(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    world.cloud.refuse(NoCapacity("none of these"))
    nodes = running(world, 3)
    assert world.ends() == []
    assert {(node.kind, node.zone) for node in nodes} == {("big", "b")}


def test_when_no_candidate_is_left_the_pool_is_held_and_the_step_says_so(
    make_world: MakeWorld,
) -> None:
    world = make_world(spot())
    world.cloud.refuse(NoCapacity("none of these"), times=100)
    world.submit(step("1", width=2), market=SPOT)
    world.until(lambda: bool(world.ends()), ticks=20)
    assert world.ends() == [EndReason.NO_CAPACITY]
    world.tick(2)
    reason, words = why(world)
    assert reason is PendingReason.SPOT_CAPACITY
    assert "spot" in words
    runs = len(world.runs())
    world.tick(20)
    assert len(world.runs()) == runs


def test_where_spot_is_held_a_step_goes_to_another_pool(make_world: MakeWorld) -> None:
    world = make_world(spot(), pool("steady"))
    world.cloud.refuse(NoCapacity("none of these"), pool="spot", times=100)
    world.submit(step("1", width=2), market=SPOT)
    world.until_state(RUNNING)
    assert [run.pool for run in world.runs()] == ["spot", "steady"]


def test_a_quota_holds_the_pool_for_everybody(make_world: MakeWorld) -> None:
    world = make_world(spot())
    world.cloud.refuse(QuotaExceeded("8 of 8 vCPUs are in use"))
    world.submit(step("1"), market=SPOT)
    world.until(lambda: bool(world.ends()))
    world.tick()
    reason, words = why(world)
    assert reason is PendingReason.QUOTA_VCPU
    assert "vCPUs" in words


def test_warm_nodes_of_a_held_pool_are_used(make_world: MakeWorld) -> None:
    world = make_world(spot())
    running(world, 1)
    hold = world.services.fleet.holds
    world.cloud.refuse(QuotaExceeded("no more"), times=9)
    world.submit(step("1"), market=SPOT)
    world.until(lambda: bool(hold(world.now)))
    world.finish(hint=Hint.STALLED)
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2, ticks=5)


@pytest.mark.parametrize("one_zone", [True, False])
def test_idle_nodes_of_two_zones_are_a_gang_only_where_the_pool_says_so(
    make_world: MakeWorld, one_zone: bool
) -> None:
    world = make_world(spot(warm_s=600.0, one_zone=one_zone))
    world.submit(step("1"), step("2"), step("3", "1", "2", width=2), market=SPOT)
    world.until_state(RUNNING, "1")
    world.until_state(RUNNING, "2")
    (first, second) = (run.nodes[0] for run in world.open_runs())
    move(world, second, zone="b")
    world.finish("1")
    world.finish("2")
    world.until_state(RUNNING, "3")
    (run,) = world.open_runs()
    assert (len({node.zone for node in run.nodes}) == 1) is one_zone
    assert len({node.id for node in run.nodes} & {first.id, second.id}) == 2 - one_zone


@pytest.mark.parametrize(("one_zone", "there"), [(True, ("small", "a")), (False, ("big", "b"))])
def test_a_replacement_is_had_in_another_zone_where_the_pool_says_so(
    make_world: MakeWorld, one_zone: bool, there: tuple[str, str]
) -> None:
    world = make_world(spot(one_zone=one_zone))
    (node, _) = running(world, 2)
    world.cloud.refuse(NoCapacity("none of these"), times=1)
    world.cloud.notify(node.token, world.now + timedelta(seconds=120))
    world.until(lambda: any(n.spare_for is not None and n.launched_at for n in world.nodes()))
    (spare,) = [n for n in world.nodes() if n.spare_for is not None]
    assert (spare.kind, spare.zone) == there


def test_a_node_of_another_kind_is_no_part_of_a_gang(make_world: MakeWorld) -> None:
    world = make_world(spot(warm_s=600.0, zones=("a",)))
    world.submit(step("1"), step("2"), step("3", "1", "2", width=2), market=SPOT)
    world.until_state(RUNNING, "1")
    world.until_state(RUNNING, "2")
    (first, second) = (run.nodes[0] for run in world.open_runs())
    move(world, second, kind="small")
    world.finish("1")
    world.finish("2")
    world.until_state(RUNNING, "3")
    (run,) = world.open_runs()
    assert len({node.id for node in run.nodes} & {first.id, second.id}) == 1


def test_idle_nodes_that_are_no_gang_make_room_for_one(make_world: MakeWorld) -> None:
    """They fill the pool, and the step that waits for a gang is of their own workflow."""
    world = make_world(spot(max_nodes=2, zones=("a",)))
    world.submit(step("1"), step("2"), step("3", "1", "2", width=2), market=SPOT)
    world.until_state(RUNNING, "1")
    world.until_state(RUNNING, "2")
    move(world, world.open_runs()[1].nodes[0], kind="small")
    world.finish("1")
    world.finish("2")
    world.tick(60)
    assert why(world, "3")[0] is PendingReason.RESOURCES
    world.until(lambda: world.at("3") is RUNNING, ticks=150)
    assert len({node.kind for node in world.open_runs()[0].nodes}) == 1


def test_a_full_storage_stops_new_work_of_its_workflow_alone(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=4))
    world.submit(step("1"), step("2", "1"))
    world.submit(step("1"), step("2", "1"))
    world.until(lambda: world.at("1", 1) is RUNNING and world.at("1", 2) is RUNNING)
    driver = world.programs.of(1)
    driver.storage = StorageReport(path="/shared", problem="full: 1 of 100 GiB is free")
    for number in (1, 2):
        world.finish("1", workflow=number)
    world.until_state(RUNNING, "2", workflow=2)
    assert world.at("2", 1) is StepState.PENDING
    found = world.services.dispatch.unplaced[world.steps(1)["2"].id]
    assert found.reason is PendingReason.STORAGE
    driver.storage = StorageReport(path="/shared")
    world.until_state(RUNNING, "2")


def test_a_step_that_gave_up_its_nodes_waits_for_its_storage_without_any(
    make_world: MakeWorld,
) -> None:
    """Not for other nodes, which would wait as these did."""
    world = make_world(pool(max_nodes=4))
    world.submit(step("1"))
    world.until_state(RUNNING, "1")
    driver = world.programs.of(1)
    driver.storage = StorageReport(path="/shared", problem="stalled since 12:00:00Z")
    world.finish("1", hint=Hint.NODE_LOST, detail="waited 5 min: storage /shared: stalled")
    world.tick(60)
    assert (world.at("1"), len(world.runs()), world.open_runs()) == (StepState.PENDING, 1, [])
    assert world.services.dispatch.unplaced[world.steps(1)["1"].id].reason is PendingReason.STORAGE
    driver.storage = StorageReport(path="/shared")
    world.until_state(RUNNING, "1")


@pytest.mark.parametrize(
    ("project", "fits"),
    [("/shared/lab/p1", True), ("/shared/../home/p1", False), ("/shared2/p1", False), (None, True)],
)
def test_other_machines_get_only_projects_that_they_can_see(
    make_world: MakeWorld, project: str | None, fits: bool
) -> None:
    world = make_world(pool("far", remote=True, storage=Storage(path="/shared")))
    world.submit(step("1"), project=project)
    world.tick(2)
    if fits:
        assert world.at() is not StepState.PENDING
        return
    reason, words = why(world)
    assert reason is PendingReason.NO_CLASS_FITS
    assert "--project below /shared" in words


def test_a_half_launched_gang_starts_nothing(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=3))
    world.boots = lambda token: not token.endswith("-2")
    world.submit(step("1", width=3))
    world.tick(30)
    assert world.at() is StepState.CONFIGURING
    assert world.now - world.runs()[0].started_at > timedelta(seconds=20)


def move(world: World, node: NodeRec, **values: str) -> None:
    """As if it had been launched as something else."""

    with world.store.write() as session:
        session.execute(update(nodes).where(nodes.c.id == node.id).values(**values))
