"""The broker dies, or two of them live: each attempt gets one set of nodes, and each is paid for.

Over the EC2 provider and an imaginary cloud. Other tests of the same rows of the fault table:

    row  fault                          elsewhere
    1, 2 killed around a submission     faults/kill (SIGKILL of the process, over a fake cloud)
    3-7  killed around a launch         faults/kill, over EC2 too; scheduler/test_remote.py
    8    power cut                      faults/test_power_cut.py, which cuts the database's writes
    13   two brokers                    scheduler/test_daemon.py, contract/test_store.py
    14   leader frozen                  scheduler/test_ticker.py
"""

import pytest

from scsched.cluster.provider import gang_of
from scsched.steps.state import EndReason, StepState
from tests.faults.cloud_world import CloudWorld, cloud, flat_box, make_cloud, refusing, urls
from tests.scheduler.world import SPOT, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING
HIDDEN = 1_000_000
"""Listings: until the test says otherwise."""


def submit(cloud: CloudWorld, width: int = 2) -> None:
    cloud.submit(step("1", width=width), step("2", "1"), market=SPOT)


CRASHES = {
    3: ["launch"],
    4: ["launched"],
    7: ["launch", "launched", "launch", "launched", "launched"],
}
"""Where the broker dies, and its next ones in their recovery, by row."""


@pytest.mark.parametrize(("row", "listed"), [(3, False), (4, True), (4, False), (7, False)])
def test_row_3_4_7_a_broker_killed_around_a_launch_makes_one_set_of_nodes(
    cloud: CloudWorld, row: int, listed: bool
) -> None:
    """Its next one finds the nodes in the listing, or is told of them by their token."""
    if not listed:
        cloud.box.describe_empty(HIDDEN)
    submit(cloud)
    cloud.kill_at(*CRASHES[row])
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    if not listed:
        assert cloud.fate.moments == []
        assert cloud.box.calls().get("replayed", 0) == CRASHES[row].count("launched")
    cloud.box.describe_empty(0)
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


def test_row_6_a_broker_killed_around_a_termination_leaves_no_node(cloud: CloudWorld) -> None:
    submit(cloud)
    cloud.kill_at("terminate", "terminated")
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


def test_row_13_two_brokers_at_once_make_one_set_of_nodes(cloud: CloudWorld) -> None:
    """The second is refused; were it not, all that both write and ask for is still done once."""
    second = cloud.second()
    submit(cloud)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    assert cloud.box.calls().get("RunInstances", 0) <= 2
    cloud.settle()
    assert second.fleet.holds(cloud.now) == {}
    assert len(cloud.box.instances()) == 2
    assert cloud.ends() == [EndReason.COMPLETED] * 2
    assert cloud.problems() == []


def test_row_14_a_broker_that_wakes_in_a_launch_that_is_done_launches_nothing(
    cloud: CloudWorld,
) -> None:
    """It was frozen just before its call; the next broker made the nodes, and they have ended."""
    submit(cloud)
    cloud.kill_at("launch")
    cloud.settle()
    made = len(cloud.box.instances())
    calls = cloud.box.calls()["RunInstances"]
    cloud.fate.wake()
    cloud.until(lambda: cloud.box.calls()["RunInstances"] == calls + 1)
    assert len(cloud.box.instances()) == made
    assert cloud.problems() == []


def test_row_14_what_a_broker_launches_that_wakes_too_late_is_ended_as_an_orphan(
    cloud: CloudWorld,
) -> None:
    """The run that wanted it was cancelled and its intent closed, a minute after its last word.

    Its workflow pays for it all the same.
    """
    cloud.submit(step("1", width=2), market=SPOT)
    with refusing(cloud.box, "InternalError"):
        cloud.kill_at("launch")
        cloud.until(lambda: bool(cloud.box.calls().get("InternalError")))
        cloud.person("cancel")
        cloud.skip(60.0)
        assert len(cloud.nodes()) == 2
        cloud.until(lambda: not cloud.nodes(), seconds=1.0)
    cloud.fate.wake()
    cloud.until(lambda: len(cloud.box.up()) == 2)
    cloud.hear_listing()
    assert {one.kind for one in cloud.services.audit.run(cloud.now).differences} == {"unknown"}
    cloud.skip(310.0, step_s=62.0)
    cloud.until(lambda: not cloud.box.up())
    cloud.until(lambda: sum(one.kind == "node_corrected" for one in cloud.events()) == 2)
    assert sum(one.kind == "stranger_ended" for one in cloud.events()) == 2
    assert cloud.problems() == ["step 1 is CANCELLED with 0 completed runs"]


def test_row_15_a_lost_reply_launches_nothing_twice(cloud: CloudWorld) -> None:
    cloud.box.describe_empty(HIDDEN)
    cloud.box.fault(lost_reply=True, times=2)
    submit(cloud)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    cloud.box.describe_empty(0)
    assert cloud.box.calls()["lost_reply"] == 2
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
    """It came, nobody heard, and it went: it is paid for, and the step gets a new token."""
    cloud.hear = False
    cloud.box.describe_empty(HIDDEN)
    submit(cloud, width=1)
    cloud.kill_at("launched")
    cloud.until(lambda: len(cloud.box.up()) == 1)
    first = cloud.box.up()[0]
    cloud.box.lose(first.instance_id)
    cloud.wait(lambda: cloud.box.instance(first.instance_id).state == "terminated")
    cloud.until(lambda: bool(cloud.box.calls().get("IdempotentInstanceTerminated")))
    cloud.hear = True
    cloud.box.describe_empty(0)
    cloud.until(lambda: len(cloud.ends()) == 1)
    cloud.until_state(RUNNING)
    second = cloud.box.up()[0]
    assert gang_of(first.token) != gang_of(second.token)
    cloud.settle()
    assert cloud.problems() == []
