"""Steps move on by what is: reports of the drivers, and the providers' word on the nodes."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest

from scsched.cluster.pools import Market
from scsched.cluster.provider import NoCapacity, Unreachable
from scsched.db.models import NodeState
from scsched.db.submissions import NewStep
from scsched.scheduler.config import RetryConfig
from scsched.scheduler.protocol import Hint, Phase
from scsched.steps.spec import ResourceClass, Resume
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import SPOT, Going, World, pool, step

MakeWorld = Callable[..., World]


def running(world: World, *steps: NewStep, **values: object) -> World:
    """A world whose step 1 runs."""
    world.submit(*steps, **values)
    world.until_state(StepState.RUNNING)
    return world


def until_attempt(world: World, attempt: int) -> None:
    world.until(lambda: len(world.runs()) == attempt and world.at() is StepState.RUNNING)


def tokens(world: World) -> list[str]:
    """Of the nodes of the only open run, the lead node first."""
    (run,) = world.open_runs()
    return [node.token for node in run.nodes]


def test_a_step_goes_through_all_its_states_to_its_end(world: World) -> None:
    running(world)
    world.run_of().phase = Phase.COMPLETING
    world.tick()
    assert world.at() is StepState.COMPLETING
    world.finish(iterations_done=25)
    world.tick()
    assert world.at() is StepState.COMPLETED
    assert world.workflow().state == "COMPLETED"
    assert [event.kind for event in world.events() if event.step] == [
        "configuring", "node_requested", "running", "completing", "completed",
    ]  # fmt: skip


def test_a_run_whose_outputs_are_checked_needs_its_nodes_no_more(world: World) -> None:
    running(world)
    world.run_of().phase = Phase.COMPLETING
    world.tick()
    world.cloud.reclaim(tokens(world)[0], reason="spot")
    world.tick(60)
    assert (world.at(), world.nodes()) == (StepState.COMPLETING, [])
    world.finish(iterations_done=25)
    world.tick()
    assert world.ends() == [EndReason.COMPLETED]


def test_a_driver_that_dies_over_the_check_of_outputs_leaves_a_lost_run(world: World) -> None:
    running(world)
    world.run_of().phase = Phase.COMPLETING
    world.tick()
    world.cloud.reclaim(tokens(world)[0], reason="spot")
    world.tick(60)
    world.programs.of(1).mute = True
    world.until(lambda: bool(world.ends()), ticks=60, seconds=9.0)
    assert world.ends() == [EndReason.PREEMPTED]


def test_a_step_that_ended_between_two_beats_passes_the_states_that_nobody_saw(
    world: World,
) -> None:
    world.submit()
    world.until(lambda: bool(world.programs.drivers) and bool(world.programs.of(1).runs))
    world.finish()
    world.tick()
    kinds = [event.kind for event in world.events() if event.step]
    assert kinds.index("running") < kinds.index("completing") < kinds.index("completed")


@pytest.mark.parametrize(
    ("hint", "reason"),
    [
        (Hint.FAILED, EndReason.FAILED),
        (Hint.OUT_OF_MEMORY, EndReason.OUT_OF_MEMORY),
        (Hint.TIMEOUT, EndReason.TIMEOUT),
        (Hint.STALLED, EndReason.STALLED),
    ],
)
def test_a_poison_step_is_given_up_after_its_own_number_of_failures(
    make_world: MakeWorld, hint: Hint, reason: EndReason
) -> None:
    limits = RetryConfig(max_failures=2, max_stalls=2, max_timeouts=2, backoff_s=0.0)
    world = running(
        make_world(
            pool(max_nodes=1), pool("big", memory_gib=64.0, usd_per_hour=Decimal(9)), retry=limits
        )
    )
    world.finish(hint=hint, exit_code=1, detail="its last words")
    world.until(lambda: len(world.runs()) == 2)
    world.until_state(StepState.RUNNING)
    world.finish(hint=hint, exit_code=1, detail="its last words")
    world.until_state(StepState.FAILED)
    assert world.ends() == [reason, reason]
    assert world.workflow().state == "FAILED"
    assert world.runs()[-1].detail.splitlines()[-1] == "its last words"


def test_out_of_memory_goes_on_in_a_larger_slot(make_world: MakeWorld) -> None:
    world = running(make_world(pool(), pool("big", memory_gib=64.0, usd_per_hour=Decimal(9))))
    world.finish(hint=Hint.OUT_OF_MEMORY)
    world.until(lambda: len(world.runs()) == 2)
    assert [run.pool for run in world.runs()] == ["cpu", "big"]


def test_a_larger_slot_stays_the_steps_after_an_interruption(make_world: MakeWorld) -> None:
    world = running(make_world(pool(), pool("big", memory_gib=64.0, usd_per_hour=Decimal(9))))
    world.finish(hint=Hint.OUT_OF_MEMORY)
    for attempt in (2, 3):
        until_attempt(world, attempt)
        world.finish(hint=Hint.STALLED)
    world.until(lambda: len(world.runs()) == 4)
    assert [run.pool for run in world.runs()] == ["cpu", "big", "big", "big"]


def test_a_step_that_left_spot_stays_away_from_it_when_its_program_fails(
    make_world: MakeWorld,
) -> None:
    spot = pool("spot", market=Market.SPOT, usd_per_hour=Decimal(0))
    world = running(make_world(spot, pool("steady")), market=SPOT)
    for attempt in range(2, 5):
        world.cloud.reclaim(tokens(world)[0], reason="spot")
        until_attempt(world, attempt)
    world.finish(hint=Hint.STALLED)
    world.until(lambda: len(world.runs()) == 5)
    assert [run.pool for run in world.runs()][3:] == ["steady", "steady"]


def test_a_larger_slot_that_may_not_run_the_step_is_none(make_world: MakeWorld) -> None:
    others = pool("big", memory_gib=64.0, classes=frozenset({ResourceClass.IO}))
    world = running(make_world(pool(), others))
    world.finish(hint=Hint.OUT_OF_MEMORY)
    world.tick(2)
    assert world.at() is StepState.FAILED
    assert "no larger slot" in world.runs()[-1].detail


def test_a_timeout_of_a_step_that_cannot_resume_is_its_end(world: World) -> None:
    running(world, step("1", resume=Resume.NONE))
    world.finish(hint=Hint.TIMEOUT)
    world.tick(2)
    assert world.at() is StepState.FAILED


def test_a_node_taken_back_by_the_market_is_a_preemption_and_the_step_goes_on(
    make_world: MakeWorld,
) -> None:
    world = running(make_world(pool("spot", market=Market.SPOT)), market=SPOT)
    world.cloud.reclaim(tokens(world)[0], reason="spot")
    world.until(lambda: len(world.runs()) == 2)
    assert world.ends() == [EndReason.PREEMPTED]
    world.until_state(StepState.RUNNING)


def test_a_notice_is_written_down_and_the_loss_after_it_is_a_preemption(
    make_world: MakeWorld,
) -> None:
    world = running(make_world(pool("spot", market=Market.SPOT)), market=SPOT)
    (token,) = tokens(world)
    world.cloud.notify(token, world.now + timedelta(seconds=30))
    world.tick()
    (node,) = [node for node in world.nodes() if node.token == token]
    assert (node.state, node.notice_deadline) == (
        NodeState.DRAINING,
        world.now + timedelta(seconds=29),
    )
    world.cloud.reclaim(token, reason="")
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.PREEMPTED]


def test_a_node_that_died_without_a_word_is_a_node_failure(world: World) -> None:
    running(world)
    world.cloud.reclaim(tokens(world)[0], reason="")
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.NODE_FAIL]
    world.until_state(StepState.RUNNING)


def test_a_node_missing_from_one_late_listing_is_not_lost(world: World) -> None:
    running(world)
    world.tick(60)
    (token,) = tokens(world)
    world.cloud.hide(token)
    world.tick(15)
    world.cloud.show(token)
    world.tick()
    world.cloud.hide(token)
    world.tick(15)
    assert world.at() is StepState.RUNNING
    assert world.ends() == []


def test_a_provider_that_does_not_answer_proves_nothing(world: World) -> None:
    running(world)
    world.cloud.fail("list", Unreachable("no answer"), times=60)
    world.tick(60)
    assert world.at() is StepState.RUNNING


def test_a_node_refused_is_no_capacity(world: World) -> None:
    world.cloud.refuse(NoCapacity("none left"))
    world.submit()
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.NO_CAPACITY]
    world.until_state(StepState.RUNNING)


def test_a_node_that_does_not_come_up_in_time_is_a_boot_failure(make_world: MakeWorld) -> None:
    world = make_world(pool(boot_s=30.0))
    world.submit()
    world.boots = lambda token: False
    world.until(lambda: bool(world.ends()), ticks=60)
    world.boots = lambda token: True
    assert world.ends() == [EndReason.BOOT_FAIL]
    world.until_state(StepState.RUNNING)


@pytest.mark.parametrize("fault", ["refused", "boot"])
def test_a_gang_that_lacks_one_node_is_given_up_and_the_others_are_used_again(
    make_world: MakeWorld, fault: str
) -> None:
    world = make_world(pool(max_nodes=2, boot_s=30.0))
    world.submit(step("1", width=2))
    if fault == "refused":
        world.cloud.refuse(NoCapacity("none left"))
    else:
        world.boots = lambda token: token != next(iter(world.cloud.nodes))
    world.until(lambda: bool(world.ends()), ticks=60)
    reason = EndReason.NO_CAPACITY if fault == "refused" else EndReason.BOOT_FAIL
    assert world.ends() == [reason]
    world.until_state(StepState.RUNNING)


def test_a_run_whose_driver_and_nodes_are_dead_is_closed_and_goes_on(world: World) -> None:
    running(world)
    world.programs.kill(1)
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.LOST]
    world.until_state(StepState.RUNNING)
    assert len(world.runs()) == 2


def test_a_run_whose_driver_says_nothing_of_its_dead_nodes_is_closed_in_the_end(
    world: World,
) -> None:
    running(world)
    world.programs.of(1).mute = True
    world.cloud.reclaim(tokens(world)[0], reason="")
    world.tick(10)
    assert world.ends() == []
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.LOST]


def test_iterations_of_a_run_that_nobody_counted_are_read_off_its_last_progress(
    world: World,
) -> None:
    running(world)
    world.run_of().progress = {"iteration": 14, "checkpoint": 12}
    world.tick(2)
    world.programs.kill(1)
    world.until(lambda: bool(world.ends()))
    (run,) = [run for run in world.runs() if run.end_reason]
    assert (run.iterations_done, run.iterations_lost) == (12, 2)


def test_a_node_lost_behind_a_report_that_is_old_leaves_the_end_to_the_driver(
    world: World,
) -> None:
    """It said that it waits; then all nodes were up, the program ran and ended, and a node went."""
    world.submit()
    world.until(lambda: bool(world.cloud.up()))
    driver = world.programs.of(1)
    world.until(lambda: bool(driver.beat(world.answering(driver)).nodes))
    driver.runs = {key: Going(going.order) for key, going in driver.runs.items()}
    world._beats()
    driver.mute = True
    world.cloud.reclaim(tokens(world)[0], reason="spot")
    world.tick(3)
    assert world.ends() == []
    driver.mute = False
    world.finish()
    world.tick()
    assert world.ends() == [EndReason.COMPLETED]


def test_a_program_that_fails_because_a_host_fell_silent_is_not_blamed(
    make_world: MakeWorld,
) -> None:
    """mpirun gives up long before any provider says that the host is gone."""
    world = running(make_world(pool(max_nodes=4)), step("1", width=2))
    silent = tokens(world)[1]
    world.cloud.frozen = frozenset({silent})
    world.boots = lambda token: token != silent
    world.finish(hint=Hint.FAILED, exit_code=205, detail="an ORTE daemon has failed")
    world.tick()
    assert world.ends() == [EndReason.NODE_FAIL]
    assert world.runs()[0].detail.splitlines() == ["an ORTE daemon has failed", "n2 was lost"]


def test_a_late_report_of_a_closed_run_changes_nothing(world: World) -> None:
    running(world)
    late = world.run_of()
    world.cloud.reclaim(tokens(world)[0], reason="")
    world.until(lambda: len(world.runs()) == 2 and world.at() is StepState.RUNNING)
    before = world.runs(), len(world.events())
    late.finish()
    world.programs.of(1).runs[late.order.run, late.order.epoch] = late
    world.tick()
    assert world.at() is StepState.RUNNING
    assert len(world.events()) == before[1]
    assert [run.end_reason for run in world.runs()] == [run.end_reason for run in before[0]]


def test_a_report_under_another_epoch_changes_nothing(world: World) -> None:
    running(world)
    driver = world.programs.of(1)
    ((run, epoch),) = driver.runs
    forged = driver.runs.pop((run, epoch))
    forged.order = forged.order.model_copy(update={"epoch": epoch + 1})
    forged.finish()
    driver.runs[run, epoch + 1] = forged
    world.tick()
    assert world.at() is StepState.RUNNING


def test_a_cancelled_run_ends_when_its_driver_has_stopped_it(world: World) -> None:
    running(world)
    world.person("cancel")
    assert world.at() is StepState.RUNNING
    world.tick(2)
    assert world.at() is StepState.CANCELLED
    assert world.ends() == [EndReason.CANCELLED]
    assert world.workflow().state == "CANCELLED"


def test_a_cancellation_that_comes_after_the_end_changes_nothing(world: World) -> None:
    running(world)
    world.finish()
    world.person("cancel")
    world.tick(2)
    assert world.at() is StepState.COMPLETED
    assert world.ends() == [EndReason.COMPLETED]


def test_a_cancellation_during_a_loss_is_a_cancellation(world: World) -> None:
    running(world)
    world.person("cancel")
    world.programs.kill(1)
    world.until_state(StepState.CANCELLED)
    assert world.ends() == [EndReason.CANCELLED]


def test_a_cancellation_before_any_driver_takes_effect(world: World) -> None:
    world.programs.refuse = 3
    world.submit()
    world.tick()
    world.person("cancel")
    world.until_state(StepState.CANCELLED, "1")
    world.until(lambda: not world.nodes())


def test_a_requeued_run_starts_again_on_the_same_nodes(world: World) -> None:
    running(world)
    before = tokens(world)
    world.person("requeue")
    world.until(lambda: len(world.runs()) == 2)
    assert world.ends() == [EndReason.PREEMPTED]
    assert tokens(world) == before


def test_a_step_held_while_it_runs_does_not_start_again(world: World) -> None:
    running(world)
    world.person("hold")
    world.person("requeue")
    world.tick(5)
    assert (world.at(), world.steps()["1"].held) == (StepState.PENDING, True)
    world.person("release")
    world.until_state(StepState.RUNNING)


def test_preemptions_do_not_count_as_failures(make_world: MakeWorld) -> None:
    world = running(make_world(pool("spot", market=Market.SPOT)), market=SPOT)
    for _ in range(4):
        world.cloud.reclaim(tokens(world)[0], reason="spot")
        world.until(lambda: not world.cloud.up())
        world.until_state(StepState.RUNNING)
    world.finish()
    world.tick()
    assert world.at() is StepState.COMPLETED


def test_a_step_that_loses_spot_nodes_in_vain_moves_to_on_demand_ones(
    make_world: MakeWorld,
) -> None:
    spot = pool("spot", market=Market.SPOT, usd_per_hour=Decimal(0))
    world = running(make_world(spot, pool("steady")), market=SPOT)
    for _ in range(3):
        world.cloud.reclaim(tokens(world)[0], reason="spot")
        world.until(lambda: not world.open_runs() or world.at() is StepState.CONFIGURING)
        world.until_state(StepState.RUNNING)
    assert [run.pool for run in world.runs()] == ["spot", "spot", "spot", "steady"]


@pytest.mark.parametrize(
    ("resume", "minutes", "pools"),
    [
        (Resume.ITEM, 10, ["spot"] * 5),
        (Resume.ITEM, 1, ["spot"] * 3 + ["steady"] * 2),
        (Resume.ITERATION, 10, ["spot"] * 3 + ["steady"] * 2),
    ],
)
def test_items_done_for_some_minutes_are_no_loss_in_vain(
    make_world: MakeWorld, resume: Resume, minutes: int, pools: list[str]
) -> None:
    """Nobody counts them, and the next run goes on with those that are left."""
    spot = pool("spot", market=Market.SPOT, usd_per_hour=Decimal(0))
    world = running(make_world(spot, pool("steady")), step("1", resume=resume), market=SPOT)
    for attempt in range(2, 6):
        world.tick(minutes * 6, seconds=10.0)
        world.cloud.reclaim(tokens(world)[0], reason="spot")
        until_attempt(world, attempt)
    assert [run.pool for run in world.runs()] == pools


def test_a_step_that_no_on_demand_pool_takes_stays_on_spot(make_world: MakeWorld) -> None:
    spot = pool("spot", market=Market.SPOT)
    elsewhere = pool("io", classes=frozenset({ResourceClass.IO}))
    world = running(make_world(spot, elsewhere), market=SPOT)
    for _ in range(5):
        world.cloud.reclaim(tokens(world)[0], reason="spot")
        world.until(lambda: not world.open_runs() or world.at() is StepState.CONFIGURING)
        world.until_state(StepState.RUNNING)
    assert {run.pool for run in world.runs()} == {"spot"}


def test_losses_without_end_and_without_gain_are_given_up(make_world: MakeWorld) -> None:
    world = running(make_world(retry=RetryConfig(max_infrastructure_ends=3, backoff_s=0.0)))
    for _ in range(3):
        world.until_state(StepState.RUNNING)
        world.cloud.reclaim(tokens(world)[0], reason="")
        world.until(lambda: world.at() is not StepState.RUNNING)
    world.until_state(StepState.FAILED)
    assert "3 times without one new iteration" in world.runs()[-1].detail


def test_children_of_a_failed_step_wait_and_run_when_it_was_resubmitted(world: World) -> None:
    running(world, step("1"), step("2", "1"))
    for _ in range(2):
        world.until_state(StepState.RUNNING)
        world.finish(hint=Hint.FAILED)
        world.tick()
    assert (world.at("1"), world.at("2")) == (StepState.FAILED, StepState.PENDING)
    assert world.workflow().ended_at is not None
    world.person("resubmit")
    world.until_state(StepState.RUNNING)
    world.finish()
    world.until_state(StepState.RUNNING, "2")
    world.finish("2")
    world.until(lambda: world.workflow().state == "COMPLETED")


def test_a_node_whose_worker_has_left_is_not_given_to_the_next_run(world: World) -> None:
    """Its processes may still be going, so that the provider lists it."""
    world.submit()
    world.until_state(StepState.RUNNING)
    (lost,) = world.open_runs()[0].nodes
    world.boots = lambda token: token != lost.token
    world.finish(hint=Hint.NODE_LOST, detail="node n1 was lost")
    world.until(lambda: world.at() is StepState.RUNNING and len(world.runs()) == 2)
    assert world.ends() == [EndReason.NODE_FAIL]
    (node,) = world.open_runs()[0].nodes
    assert node.id != lost.id
