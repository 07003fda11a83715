"""Broker and drivers are killed at random moments, in recovery too: nothing is lost or doubled."""

from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.kill import harness
from tests.faults.kill.broker import Site
from tests.faults.kill.ec2 import Ec2World
from tests.faults.kill.judge import judge
from tests.faults.kill.killer import Campaign
from tests.faults.kill.reach import Reach, reach
from tests.faults.kill.record import Record


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new database; empty: SQLite in the broker's state directory."""
    if request.param == "sqlite":
        yield ""
        return
    if postgres.missing():
        pytest.skip(postgres.missing())
    with postgres.cluster() as cluster:
        yield cluster.database()


@pytest.fixture
def outside(database: str) -> Iterator[Site]:
    """Nodes are rows of a database."""
    with harness.site(database=database) as place:
        yield place


@pytest.fixture
def cloud() -> Iterator[Site]:
    """The real EC2 provider over a cloud in a box."""
    pytest.importorskip("moto")
    with harness.site("ec2") as place:
        yield place


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(outside: Site) -> None:
    found = _judged(outside, Campaign(kills=20))
    assert found.kills_at_work >= 1
    assert found.kills_in_launch >= 1
    assert found.kills_in_recovery >= 2
    assert found.driver_kills >= 3
    assert found.acked >= 2
    assert found.second_attempts >= 1


@pytest.mark.slow
def test_twenty_kills_over_ec2_lose_nothing_and_double_nothing(cloud: Site) -> None:
    found = _judged(cloud, Campaign(kills=20, live_workflows=3, drain_s=180.0))
    assert found.kills_at_work >= 1
    assert found.kills_in_launch >= 1
    assert found.driver_kills >= 3
    assert found.nodes >= 10
    assert found.second_attempts >= 1


@pytest.mark.campaign
def test_five_hundred_kills_lose_nothing_and_double_nothing(outside: Site) -> None:
    _reaches_all(_judged(outside, Campaign(kills=500, drain_s=240.0)))


@pytest.mark.campaign
def test_five_hundred_kills_over_ec2_lose_nothing_and_double_nothing(cloud: Site) -> None:
    """0 steps lost or done twice, 0 attempts with two sets of nodes, 0 orphans, to the cent."""
    _reaches_all(_judged(cloud, Campaign(kills=500, drain_s=240.0)))


def _reaches_all(found: Reach) -> None:
    """What could go wrong was there, and more than once."""
    assert found.kills_at_work >= 25
    assert found.kills_in_launch >= 25
    assert found.kills_in_recovery >= 40
    assert found.kills_in_first_tick >= 25
    assert found.driver_kills_at_work >= 25
    assert found.driver_kills_waiting >= 10
    assert found.driver_kills_at_start >= 10
    assert found.kills_of_both >= 10
    assert found.acked >= 25
    assert found.cut_submissions >= 1
    assert found.second_attempts >= 50
    assert found.adopted >= 25
    assert found.driver_deaths >= 6
    assert found.strangers >= 10
    assert found.launch_answers["provider_unreachable"] >= 12
    assert found.launches_repeated >= 25
    assert {"FAILED", "NO_CAPACITY", "PREEMPTED", "LOST"} <= found.reasons.keys()


@pytest.mark.slow
def test_a_broker_that_launches_before_it_records_is_caught() -> None:
    """The nodes of a launch that was cut short are known to nobody."""
    campaign = Campaign(kills=12, moments={"launch": 1}, strangers=0.0)
    with harness.site(mutant="launch-first") as place:
        problems = judge(Record.of(harness.run(place, campaign)))
    assert "every_node_is_recorded" in problems


@pytest.mark.slow
def test_a_broker_without_tokens_is_caught() -> None:
    """It launches what it has launched once more, whenever it did not hear the answer."""
    pytest.importorskip("moto")
    campaign = Campaign(kills=4, moments={"launch": 1}, strangers=0.0)
    with harness.site("ec2", mutant="no-tokens") as place:
        assert isinstance(place.world, Ec2World)
        place.world.box.fault(lost_reply=True, times=3)
        problems = judge(Record.of(harness.run(place, campaign)))
    assert "no_token_launches_twice" in problems


def _judged(place: Site, campaign: Campaign) -> Reach:
    record = Record.of(harness.run(place, campaign))
    found = reach(record)
    print(found)
    assert judge(record) == {}, found
    assert found.kills == campaign.kills
    return found
