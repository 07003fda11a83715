"""The broker dies, or two of them live: each attempt gets one set of nodes, and each is paid for.

Over the EC2 provider and an imaginary cloud. Other tests of the same rows of the fault table:

    row  fault                          elsewhere
    1, 2 killed around a submission     faults/kill (SIGKILL of the process, over a fake cloud)
    3-7  killed around a launch         faults/kill; scheduler/test_remote.py
    8    power cut                      faults/test_power_cut.py, which cuts the database's writes
    13   two brokers                    scheduler/test_daemon.py, contract/test_store.py
    14   leader frozen                  scheduler/test_ticker.py
"""

import pytest

from scsched.cluster.provider import gang_of
from scsched.steps.state import EndReason, StepState
from tests.faults.cloud_world import CloudWorld, cloud, flat_box, make_cloud, urls
from tests.scheduler.world import SPOT, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING


def submit(cloud: CloudWorld, width: int = 2) -> None:
    cloud.submit(step("1", width=width), step("2", "1"), market=SPOT)


CRASHES = {
    3: ["launch"],
    4: ["launched"],
    7: ["launch", "launched", "launch", "launched", "launched"],
}
"""Where the broker dies, and its next ones in their recovery, by row."""


@pytest.mark.parametrize("listed_late", [False, True])
@pytest.mark.parametrize("row", CRASHES)
def test_row_3_4_7_a_broker_killed_around_a_launch_makes_one_set_of_nodes(
    cloud: CloudWorld, row: int, listed_late: bool
) -> None:
    """Its next one finds the nodes in the listing, or is told of them by their token."""
    if listed_late:
        cloud.box.describe_late(seconds=60.0)
    submit(cloud)
    cloud.kill_at(*CRASHES[row])
    cloud.until_state(RUNNING)
    if listed_late:
        assert cloud.fate.moments == []
        assert cloud.box.calls().get("replayed", 0) == CRASHES[row].count("launched")
    cloud.box.describe_late()
    assert len(cloud.box.instances()) == 2
    cloud.settle()
    assert cloud.ends() == [EndReason.COMPLETED] * 2
    assert cloud.problems() == []


def test_row_5_an_end_that_nobody_recorded_is_heard_of_by_the_next_broker(
    cloud: CloudWorld,
) -> None:
    submit(cloud)
    cloud.until_state(RUNNING)
    cloud.finish("1")
    cloud.restart()
    cloud.settle()
    assert cloud.ends() == [EndReason.COMPLETED] * 2
    assert cloud.problems() == []


@pytest.mark.parametrize("moments", [["terminate"], ["terminated"], ["terminate", "terminated"]])
def test_row_6_a_broker_killed_around_a_termination_leaves_no_node(
    cloud: CloudWorld, moments: list[str]
) -> None:
    submit(cloud)
    cloud.kill_at(*moments)
    cloud.settle()
    assert cloud.fate.moments == []
    assert cloud.problems() == []


def test_row_12_a_driver_that_died_too_costs_no_second_set_of_nodes(cloud: CloudWorld) -> None:
    """What was launched for the driver that died joins nobody, is paid for, and ends."""
    submit(cloud)
    cloud.kill_at("launched")
    cloud.until(lambda: cloud.fate.died.is_set() or len(cloud.box.up()) == 2)
    cloud.programs.kill(1)
    cloud.settle()
    assert cloud.problems() == []


def test_row_14_a_broker_that_was_frozen_wakes_and_changes_nothing(cloud: CloudWorld) -> None:
    """Its lock is gone and it has not noticed: all that it does is old, and refused."""
    submit(cloud)
    cloud.until(lambda: any(cloud.services.fleet.has_asked(one.token) for one in cloud.nodes()))
    frozen = cloud.services
    cloud.services = cloud._wired()
    cloud.until_state(RUNNING)
    cloud.finish("1")
    cloud.until_state(RUNNING, "2")
    made = len(cloud.box.instances())
    before = [(run.step, run.epoch, run.end_reason) for run in cloud.runs()]
    for _ in range(5):
        frozen.tick(cloud.now)
        cloud.tick()
    cloud.forsake(frozen)
    assert [(run.step, run.epoch, run.end_reason) for run in cloud.runs()] == before
    assert len(cloud.box.instances()) == made
    cloud.settle()
    assert cloud.problems() == []


@pytest.mark.parametrize("lost", [1, 3])
def test_row_15_a_lost_reply_launches_nothing_twice(cloud: CloudWorld, lost: int) -> None:
    cloud.box.fault(lost_reply=True, times=lost)
    submit(cloud)
    cloud.until_state(RUNNING)
    assert cloud.box.calls()["lost_reply"] == lost
    assert len(cloud.box.instances()) == 2
    cloud.settle()
    assert cloud.ends() == [EndReason.COMPLETED] * 2
    assert cloud.problems() == []


def test_row_15_a_lost_reply_to_a_termination_leaves_no_node(cloud: CloudWorld) -> None:
    submit(cloud)
    cloud.box.fault(action="TerminateInstances", lost_reply=True, times=2)
    cloud.settle()
    assert cloud.box.calls()["lost_reply"] == 2
    assert cloud.problems() == []


def test_row_16_the_token_of_a_node_that_has_ended_launches_nothing(cloud: CloudWorld) -> None:
    """It came, its reply was lost, and it went: it is paid for, and the step gets a new token."""
    cloud.box.describe_late(seconds=3.0)
    cloud.box.fault(lost_reply=True)
    submit(cloud, width=1)
    cloud.until(lambda: len(cloud.box.up()) == 1)
    first = cloud.box.up()[0]
    cloud.box.lose(first.instance_id)
    cloud.box.describe_late()
    cloud.until(lambda: cloud.box.calls().get("RunInstances", 0) >= 2)
    cloud.until(lambda: len(cloud.ends()) == 1)
    cloud.skip(301.0, step_s=60.0)
    cloud.until_state(RUNNING)
    second = cloud.box.up()[0]
    assert gang_of(first.token) != gang_of(second.token)
    cloud.settle()
    assert cloud.problems() == []
