"""What the cloud lists comes late, partial, in pages, or not at all: no healthy node ends for it.

Over the EC2 provider and an imaginary cloud. Of the same rows of the fault table:

    row  fault                          elsewhere
    17   a new node is not listed yet   scheduler/test_presence.py; cluster/ec2/test_listing.py
    18   empty and partial lists        scheduler/test_presence.py; test_reaper_campaign.py
"""

import pytest

from scsched.steps.state import EndReason, StepState
from tests.cloudbox.client import Box
from tests.faults.cloud_world import CloudWorld, cloud, flat_box, make_cloud, urls
from tests.scheduler.world import SPOT, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING
HIDDEN = 1_000_000
"""Listings: until the test says otherwise."""


def running(cloud: CloudWorld, width: int) -> None:
    cloud.submit(step("1", width=width), step("2", "1"), market=SPOT)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))


def differences(cloud: CloudWorld) -> set[str]:
    return {one.kind for one in cloud.services.audit.run(cloud.now).differences}


def test_row_17_a_new_node_may_be_missing_for_the_time_that_listings_take(
    cloud: CloudWorld,
) -> None:
    cloud.box.describe_empty(HIDDEN)
    cloud.hear = False
    cloud.submit(step("1", width=2), step("2", "1"), market=SPOT)
    cloud.until(lambda: len(cloud.nodes()) == 2 and all(one.launched_at for one in cloud.nodes()))
    cloud.skip(45.0)
    assert differences(cloud) == set()
    assert cloud.ends() == []
    cloud.hear = True
    cloud.box.describe_empty(0)
    cloud.until_state(RUNNING)
    assert len(cloud.box.instances()) == 2
    cloud.settle()
    assert cloud.problems() == []


def test_row_17_nodes_that_are_neither_listed_nor_answer_are_given_up(
    cloud: CloudWorld,
) -> None:
    """When they ended nobody tells until it is on record; then they cost what they were billed."""
    cloud.submit(step("1", width=2), step("2", "1"), market=SPOT)
    cloud.hear = False
    cloud.until(lambda: len(cloud.box.up()) == 2 and all(one.launched_at for one in cloud.nodes()))
    first = {one.id for one in cloud.nodes()}
    cloud.box.describe_empty(HIDDEN)
    cloud.hear_listing()
    since = cloud.now
    for one in cloud.box.up():
        cloud.box.lose(one.instance_id)
    cloud.skip(55.0, step_s=5.0, since=since)
    assert first == {one.id for one in cloud.nodes()}
    cloud.skip(80.0, step_s=5.0, since=since)
    assert not first & {one.id for one in cloud.nodes()}
    cloud.until(lambda: cloud.ends() == [EndReason.BOOT_FAIL])
    cloud.hear = True
    cloud.box.describe_empty(0)
    cloud.settle()
    assert {one.node_id for one in cloud.events() if one.kind == "node_corrected"} == first
    assert cloud.problems() == []


def empty(box: Box) -> None:
    box.describe_empty(HIDDEN)


def partial(box: Box) -> None:
    box.describe_partial(share=0.3, calls=HIDDEN, seed=7)


LISTS = {"empty": empty, "partial": partial}


@pytest.mark.parametrize("lists", LISTS)
def test_row_18_a_list_that_lacks_nodes_ends_no_healthy_one(cloud: CloudWorld, lists: str) -> None:
    """For three minutes, and a broker that starts among such lists has no other view."""
    running(cloud, 6)
    LISTS[lists](cloud.box)
    cloud.skip(90.0)
    cloud.restart()
    cloud.skip(90.0)
    assert cloud.ends() == []
    assert len(cloud.box.up()) == 6
    if lists == "empty":
        assert differences(cloud) == {"missing"}
    cloud.box.clear_faults()
    cloud.settle()
    assert cloud.problems() == []


@pytest.mark.slow
def test_row_18_a_cloud_that_does_not_answer_ends_no_healthy_node(cloud: CloudWorld) -> None:
    running(cloud, 6)
    number = cloud.box.fault("InternalError", action="DescribeInstances", times=None)
    cloud.until(lambda: cloud.box.struck(number) >= 3)
    cloud.tick(24, seconds=5.0)
    assert cloud.ends() == []
    assert differences(cloud) == {"silent"}
    assert len(cloud.box.up()) == 6
    cloud.box.clear_faults()
    cloud.settle()
    assert cloud.problems() == []


def test_row_18_a_list_in_pages_is_read_to_its_end(cloud: CloudWorld) -> None:
    cloud.box.page_size(5)
    running(cloud, 6)
    cloud.skip(30.0)
    assert differences(cloud) == set()
    cloud.settle()
    assert cloud.problems() == []
