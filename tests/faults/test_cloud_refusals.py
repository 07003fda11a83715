"""The cloud refuses: another candidate, a pool that waits, a pause; a gang is whole or not there.

Over the EC2 provider and an imaginary cloud. Of the same rows of the fault table:

    row  fault                 elsewhere
    19   no capacity           scheduler/test_launching.py; cluster/ec2/test_codes.py, all codes
    20   quotas                the same
    21   too many requests     scheduler/test_limiter.py, test_background.py
    25   half a gang           cluster/ec2/test_launching.py; cluster/batch/test_slurm.py
"""

import time

import pytest

from scsched.cluster.pools import Market
from scsched.scheduler.background import Pace
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.faults.cloud_world import (
    KIND,
    OTHER,
    CloudWorld,
    MakeCloud,
    cloud,
    flat_box,
    make_cloud,
    pool,
    refusing,
    urls,
)
from tests.scheduler.world import SPOT, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING
CAPACITY = ["InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow"]
QUOTA = ["MaxSpotInstanceCountExceeded", "VcpuLimitExceeded", "InstanceLimitExceeded"]
CANDIDATES = 4


def submit(cloud: CloudWorld, width: int = 2) -> int:
    return cloud.submit(step("1", width=width), step("2", "1"), market=SPOT)


def launches(cloud: CloudWorld) -> int:
    return cloud.box.calls().get("RunInstances", 0)


def held(cloud: CloudWorld, name: str = "spot") -> PendingReason | None:
    hold = cloud.services.fleet.holds(cloud.now).get(name)
    return hold.reason if hold else None


def test_row_19_what_there_is_none_of_is_asked_for_otherwise_by_the_same_attempt(
    cloud: CloudWorld,
) -> None:
    """Each of the codes says so."""
    for code in CAPACITY:
        cloud.box.fault(code)
    submit(cloud)
    cloud.until_state(RUNNING)
    assert {cloud.box.calls()[code] for code in CAPACITY} == {1}
    assert launches(cloud) == CANDIDATES
    assert {(one.kind, one.zone) for one in cloud.box.instances()} == {(OTHER, "us-east-1b")}
    assert cloud.ends() == []
    cloud.settle()
    assert cloud.problems() == []


def test_row_19_where_there_is_nothing_the_pool_waits_and_asks_again(cloud: CloudWorld) -> None:
    with refusing(cloud.box, CAPACITY[0]):
        submit(cloud)
        cloud.until(lambda: cloud.ends() == [EndReason.NO_CAPACITY])
        assert launches(cloud) == CANDIDATES
        assert held(cloud) is PendingReason.SPOT_CAPACITY
        cloud.skip(50.0)
        assert launches(cloud) == CANDIDATES
    cloud.skip(15.0)
    cloud.until_state(RUNNING)
    cloud.settle()
    assert cloud.problems() == []


def test_row_19_where_spot_has_nothing_a_step_goes_on_demand_if_a_pool_takes_it(
    make_cloud: MakeCloud,
) -> None:
    dear = pool("dear", market=Market.ON_DEMAND, types=(KIND,), zones=("us-east-1a",))
    cloud = make_cloud(pool(), dear)
    with refusing(cloud.box, CAPACITY[0], market="spot"):
        submit(cloud)
        cloud.until_state(RUNNING)
    assert cloud.ends() == [EndReason.NO_CAPACITY]
    assert [one.spot for one in cloud.box.up()] == [False, False]
    assert launches(cloud) == CANDIDATES + 1
    cloud.settle()
    assert cloud.problems() == []


@pytest.mark.parametrize(
    "code", [QUOTA[0], *(pytest.param(code, marks=pytest.mark.slow) for code in QUOTA[1:])]
)
def test_row_20_a_quota_holds_the_pool_and_not_each_step(cloud: CloudWorld, code: str) -> None:
    with refusing(cloud.box, code):
        submit(cloud)
        cloud.until(lambda: held(cloud) is PendingReason.QUOTA_VCPU)
        cloud.until(lambda: cloud.ends() == [EndReason.NO_CAPACITY])
        assert launches(cloud) == 1
        other = submit(cloud)
        cloud.skip(240.0, step_s=20.0)
        assert launches(cloud) == 1
        assert cloud.at("1", other) is StepState.PENDING
    cloud.skip(70.0, step_s=35.0)
    cloud.settle()
    assert cloud.problems() == []


def test_row_20_the_account_s_own_limit_is_enough_for_one_gang_and_not_for_two(
    cloud: CloudWorld,
) -> None:
    cloud.box.quota(spot_instances=3)
    first, second = submit(cloud), submit(cloud)
    cloud.until(lambda: held(cloud) is PendingReason.QUOTA_VCPU)
    cloud.until(lambda: RUNNING in (cloud.at("1", first), cloud.at("1", second)))
    cloud.skip(60.0, step_s=30.0)
    assert len(cloud.box.up()) == 2
    assert launches(cloud) == 2
    cloud.box.quota()
    cloud.skip(301.0, step_s=60.0)
    cloud.settle()
    assert cloud.problems() == []


@pytest.mark.slow
def test_row_21_too_many_requests_pause_all_calls_and_launch_nothing_twice(
    make_cloud: MakeCloud,
) -> None:
    """One budget and one pause for all threads, at the daemon's own rate."""
    pace = Pace(again_s=0.3)
    cloud = make_cloud(pace=pace)
    cloud.submit(*(step(ref) for ref in "123"), market=SPOT)
    cloud.box.fault("RequestLimitExceeded", times=3)
    began, before = time.monotonic(), sum(cloud.box.calls().values())
    cloud.until(lambda: all(cloud.at(ref) is RUNNING for ref in "123"))
    took_s, calls = time.monotonic() - began, sum(cloud.box.calls().values()) - before
    assert took_s >= 5.0
    assert cloud.box.calls()["RequestLimitExceeded"] == 3
    assert launches(cloud) == 6
    assert calls <= 2 * (pace.burst + pace.rate_per_s * took_s)
    assert len(cloud.box.instances()) == 3
    assert cloud.ends() == []
    cloud.settle()
    assert cloud.problems() == []


def test_row_25_a_gang_is_launched_whole_or_not_at_all(cloud: CloudWorld) -> None:
    cloud.box.capacity(3)
    submit(cloud, width=4)
    cloud.until(lambda: cloud.ends() == [EndReason.NO_CAPACITY])
    assert launches(cloud) == CANDIDATES
    assert cloud.box.instances() == []
    cloud.box.capacity(None)
    cloud.skip(65.0, step_s=13.0)
    cloud.until_state(RUNNING)
    assert len(cloud.box.up()) == 4
    assert len({(one.token, one.kind, one.zone) for one in cloud.box.instances()}) == 1
    cloud.settle()
    assert cloud.problems() == []


def test_row_25_where_half_of_it_would_be_had_the_whole_gang_goes_elsewhere(
    cloud: CloudWorld,
) -> None:
    cloud.box.capacity(3, kind=KIND)
    submit(cloud, width=4)
    cloud.until_state(RUNNING)
    assert {(one.kind, one.up) for one in cloud.box.instances()} == {(OTHER, True)}
    assert len(cloud.box.instances()) == 4
    assert cloud.ends() == []
    cloud.settle()
    assert cloud.problems() == []
