"""Eligible steps get their nodes in order, once; the others have a reason."""

from collections.abc import Callable

from scsched.db.models import Exact, NodeState
from scsched.scheduler.config import RetryConfig
from scsched.scheduler.protocol import Hint
from scsched.steps.spec import Demand, ResourceClass
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
PENDING, CONFIGURING, RUNNING = StepState.PENDING, StepState.CONFIGURING, StepState.RUNNING


def reason(world: World, ref: str, workflow: int = 1) -> PendingReason:
    return world.services.dispatch.unplaced[world.steps(workflow)[ref].id].reason


def test_the_intent_is_written_before_the_provider_hears_of_it(world: World) -> None:
    world.submit()
    world.tick()
    assert world.at() is CONFIGURING
    assert [node.state for node in world.nodes()] == [NodeState.REQUESTED]
    assert world.cloud.calls["launch"] == 0


def test_an_open_step_is_not_opened_again(world: World) -> None:
    world.submit()
    world.tick(5)
    assert len(world.runs()) == 1


def test_a_step_waits_for_the_steps_it_needs(world: World) -> None:
    world.submit(step("1"), step("2", "1"))
    world.until_state(RUNNING)
    assert world.at("2") is PENDING
    world.finish()
    world.until_state(RUNNING, "2")


def test_the_more_urgent_workflow_goes_first_then_the_older(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=1))
    for priority in (0, 0, 5):
        world.submit(priority=priority)
    order = []
    for _ in range(3):
        world.until(lambda: any(d.runs for d in world.programs.drivers.values()))
        (run,) = world.open_runs()
        world.until_state(RUNNING, workflow=run.workflow_id)
        order.append(run.workflow_id)
        world.finish(workflow=run.workflow_id)
        world.tick()
    assert order == [3, 1, 2]


def test_what_finds_no_room_says_so_and_what_is_behind_it_does_not_overtake(
    make_world: MakeWorld,
) -> None:
    world = make_world(pool(max_nodes=3))
    world.submit(step("1", width=2))
    world.submit(step("1", width=3))
    world.submit(step("1"))
    world.tick(3)
    assert [world.at("1", number) for number in (1, 2, 3)] == [RUNNING, PENDING, PENDING]
    assert reason(world, "1", 2) is PendingReason.RESOURCES
    assert reason(world, "1", 3) is PendingReason.PRIORITY
    world.finish(workflow=1)
    world.until_state(RUNNING, workflow=2)


def test_a_step_that_fits_nowhere_keeps_nobody_from_running(world: World) -> None:
    world.submit(step("1", demand=Demand(memory_gib=500.0)), priority=9)
    world.submit()
    world.until_state(RUNNING, workflow=2)
    assert reason(world, "1", 1) is PendingReason.NO_CLASS_FITS


def test_a_step_of_another_pool_is_not_kept_waiting(make_world: MakeWorld) -> None:
    io = frozenset({ResourceClass.IO})
    cpu = frozenset({ResourceClass.CPU})
    world = make_world(pool("cpu", max_nodes=1, classes=cpu), pool("io", classes=io))
    world.submit(step("1"), step("2"), step("3", resource_class=ResourceClass.IO))
    world.until_state(RUNNING, "3")
    assert world.at("2") is PENDING


def test_a_held_step_waits_and_a_held_workflow_too(world: World) -> None:
    world.submit(held=True)
    world.submit()
    world.person("hold", workflow=2)
    world.tick(3)
    assert world.runs(1) == world.runs(2) == []
    world.person("release", workflow=2)
    world.until_state(RUNNING, workflow=2)
    assert world.programs.drivers.keys() == {world.programs.of(2).process.pid}


def test_a_gate_waits_for_a_person_and_holds_no_node(world: World) -> None:
    world.submit(step("1", gate="pick particles in Scipion"))
    world.tick(3)
    assert world.nodes() == []
    assert world.programs.drivers == {}
    assert world.workflow().state == "ATTENTION"
    world.person("release")
    world.until_state(RUNNING)


def test_a_failed_step_is_not_tried_again_before_its_time(make_world: MakeWorld) -> None:
    world = make_world(retry=RetryConfig(backoff_s=30.0))
    world.submit()
    world.until_state(RUNNING)
    world.finish(hint=Hint.FAILED)
    world.tick(20)
    assert len(world.runs()) == 1
    world.until(lambda: len(world.runs()) == 2, ticks=20)


def test_the_next_step_of_the_workflow_gets_the_warm_nodes(world: World) -> None:
    world.submit(step("1"), step("2", "1"))
    world.until_state(RUNNING)
    world.finish()
    world.until_state(RUNNING, "2")
    assert world.cloud.calls["launch"] == 1
    assert len(world.cloud.nodes) == 1


def test_an_interrupted_step_goes_on_with_the_node_that_is_left(world: World) -> None:
    world.submit(step("1", width=2))
    world.until_state(RUNNING)
    (run,) = world.open_runs()
    world.cloud.capacity["cpu"] = 1
    world.cloud.reclaim(run.nodes[0].token, reason="spot")
    world.until(lambda: world.at() is RUNNING and len(world.runs()) == 2)
    assert world.ends() == [EndReason.PREEMPTED]
    assert [run.layout["nodes"] for run in world.runs()] == [2, 1]


def test_two_steps_of_a_tick_never_get_one_node(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=2, warm_s=600.0))
    world.submit(step("1", width=2), step("2", "1"), step("3", "1"))
    world.until_state(RUNNING)
    world.finish()
    world.until(lambda: world.at("2") is RUNNING and world.at("3") is RUNNING)
    nodes = [node.id for run in world.open_runs() for node in run.nodes]
    assert len(set(nodes)) == len(nodes) == 2
    assert len(world.cloud.nodes) == 2


def test_a_step_that_somebody_moved_meanwhile_is_left_alone(world: World) -> None:
    """The read and the write are two transactions: a cancellation fits between them."""
    world.submit(step("1"), step("2"))
    place = world.services.dispatch._place

    def cancelled_meanwhile(*args: object) -> object:
        placed = place(*args)  # type: ignore[arg-type]
        world.person("cancel", "1")
        return placed

    world.services.dispatch._place = cancelled_meanwhile  # type: ignore[method-assign, assignment]
    world.services.dispatch.tick(world.now)
    assert (world.at("1"), world.at("2")) == (StepState.CANCELLED, CONFIGURING)


def test_an_exact_classification_takes_one_node_and_one_thread(world: World) -> None:
    """Sums in the order of arrival would not be the same twice."""
    world.submit(step("1", width=2), exact=Exact.ON)
    world.tick()
    (run,) = world.runs()
    assert (run.layout["nodes"], run.layout["ranks"], run.layout["threads"]) == (1, 1, 1)
