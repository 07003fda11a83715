"""The broker is killed at random moments, in recovery too: nothing is lost, nothing doubled."""

from collections.abc import Iterator

import pytest

from tests import postgres
from tests.faults.kill import harness
from tests.faults.kill.harness import Campaign
from tests.faults.kill.judge import judge
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


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_double_nothing(database: str) -> None:
    found = _judged(database, Campaign(kills=20))
    assert found.kills == 20
    assert found.kills_at_work >= 1
    assert found.kills_in_launch >= 1
    assert found.kills_in_recovery >= 3
    assert found.acked >= 2
    assert found.second_attempts >= 1


@pytest.mark.campaign
def test_two_hundred_kills_lose_nothing_and_double_nothing(database: str) -> None:
    found = _judged(database, Campaign(kills=200, drain_s=180.0))
    assert found.kills == 200
    assert found.kills_at_work >= 10
    assert found.kills_in_launch >= 10
    assert found.kills_in_recovery >= 40
    assert found.kills_in_first_tick >= 10
    assert found.acked >= 20
    assert found.cut_submissions >= 1
    assert found.second_attempts >= 20
    assert found.adopted >= 10
    assert found.driver_deaths >= 3
    assert found.launch_answers["provider_unreachable"] >= 5
    assert found.launches_repeated >= 10
    assert {"FAILED", "NO_CAPACITY", "PREEMPTED"} <= found.reasons.keys()


@pytest.mark.slow
def test_a_broker_that_launches_before_it_records_is_caught() -> None:
    """The nodes of a launch that was cut short are known to nobody."""
    campaign = Campaign(kills=12, moments={"launch": 1})
    with harness.site(mutant="launch-first") as place:
        problems = judge(Record.of(harness.run(place, campaign)))
    assert "every_node_is_recorded" in problems


def _judged(database: str, campaign: Campaign) -> Reach:
    with harness.site(database) as place:
        record = Record.of(harness.run(place, campaign))
    found = reach(record)
    print(found)
    assert judge(record) == {}, found
    return found
