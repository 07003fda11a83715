"""Nodes are taken back, vanish, are cut off, and come back: a step goes on, and is done once.

Over the EC2 provider and an imaginary cloud, from the cloud's word to the broker's decision. What
the nodes themselves do then is tested on hosts that boot:

    row  fault                        elsewhere
    22   spot notice                  cluster/test_notice.py (metadata service); e2e/test_cloud.py
    23   reclaim without notice       e2e/test_cloud.py; cloudbox/test_losses.py
    24   one host of a gang lost      cluster/test_far_gang.py, on three hosts; cluster/test_node.py
    26   partition                    cluster/test_far_gang.py: a node that is cut off ends itself
    27   one-way partition            cloudbox/test_losses.py; cluster/test_far_agent.py
    28   zombie writer                scheduler/test_fencing.py, test_keeper.py (its files)
"""

from datetime import datetime, timedelta

import pytest

from scsched.cluster.pools import Market
from scsched.db.nodes import NodeRec
from scsched.scheduler.protocol import Hint, Phase
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.faults.cloud_world import (
    KIND,
    CloudWorld,
    MakeCloud,
    cloud,
    flat_box,
    make_cloud,
    pool,
    urls,
)
from tests.scheduler.world import SPOT, Going, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING


def running(cloud: CloudWorld, width: int) -> list[NodeRec]:
    """Step 1 is at work on so many nodes, and step 2 waits for it."""
    cloud.submit(step("1", width=width), step("2", "1"), market=SPOT)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    return list(cloud.open_runs()[0].nodes)


def again(cloud: CloudWorld) -> list[NodeRec]:
    """The nodes of its next attempt."""
    cloud.until(lambda: cloud.at() is RUNNING and len(cloud.runs()) == 2)
    return list(cloud.open_runs()[0].nodes)


def at_work(cloud: CloudWorld, iteration: int, iteration_s: float) -> None:
    cloud.run_of().progress = {
        "iteration": iteration,
        "checkpoint": iteration - 1,
        "seconds_per_iteration": iteration_s,
        "began": cloud.now.timestamp(),
    }
    cloud.tick()


def stopped_terminating(cloud: CloudWorld) -> int:
    """Nodes cannot be ended until the fault of this number is taken back."""
    return cloud.box.fault("InternalError", action="TerminateInstances", times=None)


def why(cloud: CloudWorld) -> set[PendingReason]:
    return {one.reason for one in cloud.services.dispatch.unplaced.values()}


def decided_at(cloud: CloudWorld, kind: str) -> list[datetime]:
    """The moments of the ticks that heard of it, and of those that decided."""
    return [one.at for one in cloud.events() if one.kind in ("notice", kind)]


def test_row_22_a_notice_on_the_queue_is_decided_on_in_the_look_that_hears_it(
    make_cloud: MakeCloud,
) -> None:
    """A look that the notice itself has called for: of the two seconds none is spent on a pause.

    The replacement is asked for at once: it is there when the step goes on.
    """
    cloud = make_cloud(notices=True)
    nodes = running(cloud, 3)
    at_work(cloud, 7, 1000.0)
    doomed = cloud.machine(nodes[0].id)
    cloud.box.reclaim(doomed.instance_id, notice_s=3600.0)
    cloud.until_woken(lambda: any(one.kind == "stop_asked" for one in cloud.events()))
    heard, decided = decided_at(cloud, "stop_asked")
    assert heard == decided
    spare = [one for one in cloud.nodes() if one.spare_for is not None]
    assert [one.created_at for one in spare] == [heard]
    cloud.until(lambda: cloud.ends() == [EndReason.PREEMPTED])
    kept = {one.id for one in nodes[1:]}
    found = again(cloud)
    assert kept <= {one.id for one in found}
    assert nodes[0].id not in {one.id for one in found}
    cloud.settle()
    assert len(cloud.box.instances()) == 4
    assert cloud.problems() == []


def test_row_22_what_a_node_hears_itself_is_decided_on_in_the_look_that_hears_it(
    cloud: CloudWorld,
) -> None:
    """An iteration that fits is finished, and then nothing is lost."""
    nodes = running(cloud, 2)
    at_work(cloud, 7, 3000.0)
    deadline: datetime = cloud.now + timedelta(seconds=4000)
    cloud.programs.of(1).heard = {nodes[0].name: deadline.isoformat()}
    cloud.until_woken(lambda: any(one.notice_at is not None for one in cloud.nodes()))
    assert cloud.run_of().order.stop_after == 7
    heard, decided = decided_at(cloud, "stop_after_asked")
    assert heard == decided
    at_work(cloud, 8, 3000.0)
    cloud.until(lambda: cloud.ends() == [EndReason.PREEMPTED])
    assert (cloud.runs()[0].iterations_done, cloud.runs()[0].iterations_lost) == (7, 0)
    cloud.programs.of(1).heard = {}
    cloud.settle()
    assert cloud.problems() == []


def test_row_23_a_reclaim_without_notice_ends_the_attempt_and_the_step_goes_on(
    cloud: CloudWorld,
) -> None:
    nodes = running(cloud, 1)
    cloud.lose(cloud.machine(nodes[0].id))
    assert nodes[0].id not in {one.id for one in again(cloud)}
    assert cloud.ends() == [EndReason.PREEMPTED]
    cloud.settle()
    assert len(cloud.box.instances()) == 2
    assert cloud.problems() == []


def test_row_23_a_host_that_is_dead_and_listed_as_running_is_ended_and_paid_for(
    cloud: CloudWorld,
) -> None:
    nodes = running(cloud, 1)
    lost = cloud.machine(nodes[0].id)
    cloud.box.vanish(lost.instance_id)
    cloud.silent.add(lost.instance_id)
    again(cloud)
    assert cloud.ends() == [EndReason.NODE_FAIL]
    assert not cloud.box.instance(lost.instance_id).up
    cloud.settle()
    assert cloud.problems() == []


def test_row_23_a_step_that_loses_three_times_in_vain_moves_to_nodes_on_demand(
    make_cloud: MakeCloud,
) -> None:
    dear = pool("dear", market=Market.ON_DEMAND, types=(KIND,), zones=("us-east-1a",))
    cloud = make_cloud(pool(), dear)
    running(cloud, 1)
    for count in range(1, 4):
        cloud.lose(cloud.box.up()[0])
        cloud.until(lambda count=count: cloud.at() is RUNNING and len(cloud.ends()) == count)  # type: ignore[misc]
    assert cloud.ends() == [EndReason.PREEMPTED] * 3
    assert [one.spot for one in cloud.box.instances()] == [True] * 3 + [False]
    cloud.settle()
    assert cloud.problems() == []


@pytest.mark.parametrize("lost", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_row_24_a_gang_that_loses_one_host_ends_everywhere_and_goes_on_in_a_new_attempt(
    cloud: CloudWorld, lost: int
) -> None:
    """`lost` 0 is its lead. Those that are left work for the next attempt, never for both."""
    nodes = running(cloud, 3)
    at_work(cloud, 7, 10.0)
    cloud.lose(cloud.machine(nodes[lost].id))
    found = {one.id for one in again(cloud)}
    first, second = cloud.runs()
    assert (first.end_reason, first.epoch, second.epoch) == (EndReason.PREEMPTED, 1, 2)
    assert first.ended_at is not None
    assert first.ended_at <= second.started_at
    assert nodes[lost].id not in found
    assert len(found & {one.id for one in nodes}) == 2
    cloud.settle()
    assert cloud.problems() == []


def test_row_25_a_gang_of_which_one_ends_at_birth_never_begins(cloud: CloudWorld) -> None:
    cloud.hear = False
    cloud.submit(step("1", width=3), step("2", "1"), market=SPOT)
    cloud.until(lambda: len(cloud.box.up()) == 3)
    cloud.box.lose(cloud.box.up()[1].instance_id)
    cloud.hear = True
    cloud.settle()
    assert cloud.runs()[0].running_at is None
    assert cloud.problems() == []


def test_row_26_a_node_that_is_cut_off_ends_itself_before_its_step_starts_again(
    cloud: CloudWorld,
) -> None:
    """Nobody else can end it meanwhile."""
    (node,) = running(cloud, 1)
    number = stopped_terminating(cloud)
    cut = cloud.machine(node.id).instance_id
    cloud.silent.add(cut)
    cloud.until(lambda: why(cloud) == {PendingReason.NODE_FENCING})
    cloud.skip(30.0)
    assert len(cloud.runs()) == 1
    cloud.box.shutdown(cut)
    ended = cloud.box.instance(cut).ended_at
    again(cloud)
    assert ended is not None
    cloud.box.unfault(number)
    cloud.settle()
    assert cloud.problems() == []


def test_row_26_a_cut_between_broker_and_driver_stops_no_work(cloud: CloudWorld) -> None:
    nodes = running(cloud, 2)
    driver = cloud.programs.of(1)
    driver.mute = True
    cloud.skip(90.0)
    cloud.restart()
    cloud.skip(90.0)
    assert cloud.ends() == []
    assert len(cloud.box.up()) == 2
    cloud.finish()
    driver.mute = False
    cloud.until_state(RUNNING, "2")
    assert cloud.runs()[0].nodes == len(nodes)
    cloud.settle()
    assert cloud.problems() == []


def test_row_27_a_driver_that_is_heard_and_hears_nothing_does_nothing_twice(
    cloud: CloudWorld,
) -> None:
    """It tells of an end again and again, and of the next order it hears much later."""
    running(cloud, 1)
    cloud.deaf.add(1)
    cloud.finish()
    cloud.until(lambda: cloud.ends() == [EndReason.COMPLETED])
    cloud.skip(60.0)
    assert cloud.at("2") is StepState.CONFIGURING
    assert cloud.ends() == [EndReason.COMPLETED]
    cloud.deaf.clear()
    cloud.settle()
    assert cloud.problems() == []


def test_row_28_what_a_frozen_node_says_when_it_wakes_is_of_no_attempt(cloud: CloudWorld) -> None:
    """Nobody could end it, so its step waited for its lease; then it came back."""
    (node,) = running(cloud, 1)
    number = stopped_terminating(cloud)
    frozen = cloud.machine(node.id).instance_id
    old = cloud.run_of()
    since = cloud.now
    cloud.silent.add(frozen)
    cloud.until(lambda: why(cloud) == {PendingReason.NODE_FENCING})
    cloud.skip(50.0, since=since)
    assert len(cloud.runs()) == 1
    cloud.skip(65.0, since=since)
    assert node.id not in {one.id for one in again(cloud)}
    ends = cloud.ends()
    cloud.silent.discard(frozen)
    late = Going(old.order, phase=Phase.RUNNING)
    late.finish(Hint.COMPLETED)
    cloud.programs.of(1).runs[old.order.run, old.order.epoch] = late
    cloud.tick()
    assert cloud.ends() == ends == [EndReason.NODE_FAIL]
    assert cloud.at() is RUNNING
    cloud.box.unfault(number)
    cloud.settle()
    assert cloud.problems() == []


def test_row_28_a_driver_that_was_given_up_ends_nothing(cloud: CloudWorld) -> None:
    """Its process is gone for the broker, and yet it speaks."""
    running(cloud, 1)
    zombie = cloud.programs.of(1)
    cloud.programs.kill(1)
    cloud.until(lambda: bool(cloud.programs.drivers) and cloud.programs.of(1) is not zombie)
    (going,) = zombie.runs.values()
    going.finish(Hint.COMPLETED)
    cloud.services.inbox.put(1, zombie.beat({}), timeout_s=0.0)
    cloud.services.tick(cloud.now)
    assert EndReason.COMPLETED not in cloud.ends()
    cloud.settle()
    assert cloud.problems() == []
