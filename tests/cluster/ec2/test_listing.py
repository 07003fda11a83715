"""Listing and ending instances when EC2 tells late, partly, in pages, or nothing."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from scsched.cluster.ec2 import clients
from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import (
    Credentials,
    Launched,
    NodeState,
    ProviderError,
    Throttled,
    Unreachable,
)
from tests.cluster.ec2.rig import DEPLOYMENT, KIND, OTHER, Rig, gang, pool, wait_for


def test_a_node_says_what_it_is(rig: Rig) -> None:
    asked = gang(2)
    before = datetime.now(UTC) - timedelta(seconds=2)
    rig.launch(asked)
    found = rig.until(asked[1].token, NodeState.RUNNING)
    assert found.pool == "p"
    assert found.candidate == Candidate(KIND, "us-east-1a")
    assert found.launched_at is not None
    assert before <= found.launched_at <= datetime.now(UTC)
    assert (found.ended_at, found.reason) == (None, "")


def test_a_reclaimed_node_says_spot_and_when(rig: Rig) -> None:
    asked = gang(1)
    (instance,) = rig.launch(asked)
    rig.box.lose(instance)
    found = rig.until(asked[0].token, NodeState.TERMINATED)
    assert found.reason == "spot"
    assert found.ended_at == rig.box.instance(instance).ended_at


def test_a_node_that_we_ended_has_no_reason(rig: Rig) -> None:
    asked = gang(1)
    rig.launch(asked)
    rig.provider.terminate([asked[0].token])
    found = rig.until(asked[0].token, NodeState.TERMINATED)
    assert found.reason == ""
    assert found.ended_at is not None


def test_a_node_that_shut_itself_down_says_so(rig: Rig) -> None:
    asked = gang(1)
    (instance,) = rig.launch(asked)
    rig.box.shutdown(instance)
    found = rig.until(asked[0].token, NodeState.TERMINATED)
    assert found.reason == "Client.InstanceInitiatedShutdown"


def test_another_deployments_nodes_are_neither_seen_nor_ended(rig: Rig) -> None:
    theirs = rig.make(deployment="theirs")
    asked = gang(1, deployment="theirs")
    (answer,) = theirs.launch(asked)
    assert isinstance(answer, Launched)
    assert rig.provider.list() == ()
    rig.provider.terminate([asked[0].token, answer.provider_id])
    assert [one.instance_id for one in rig.box.up()] == [answer.provider_id]


def test_pages_are_put_together(rig: Rig) -> None:
    rig.box.page_size(2)
    asked = [request for _ in range(5) for request in gang(1)]
    rig.provider.launch(asked)
    assert {one.token for one in rig.provider.list()} == {one.token for one in asked}
    assert len(rig.recorder.sent("DescribeInstances")) == 3


def test_a_late_listing_lacks_the_node_and_then_has_it(rig: Rig) -> None:
    rig.box.describe_late(calls=2)
    asked = gang(1)
    rig.launch(asked)
    assert [rig.seen(asked[0].token) is None for _ in range(3)] == [True, True, False]


def test_a_late_listing_does_not_launch_twice(rig: Rig) -> None:
    rig.box.describe_late(calls=100)
    asked = gang(2)
    rig.box.fault(lost_reply=True)
    rig.refusals(asked)
    rig.launch(asked)
    assert len(rig.box.instances()) == 2


def test_an_empty_listing_is_told_as_it_is_and_ends_nothing(rig: Rig) -> None:
    asked = gang(3)
    rig.launch(asked)
    rig.box.describe_empty(2)
    assert rig.provider.list() == ()
    rig.provider.terminate([asked[0].token])
    assert len(rig.box.up()) == 3
    rig.provider.terminate([asked[0].token])
    assert len(rig.box.up()) == 2


@pytest.mark.parametrize(
    ("verb", "code", "meaning"),
    [
        ("list", "RequestLimitExceeded", Throttled),
        ("list", "ExpiredToken", Credentials),
        ("terminate", "Unavailable", Unreachable),
        ("terminate", "AuthFailure", Credentials),
    ],
)
def test_a_verb_that_fails_says_what_to_do_and_works_again(
    rig: Rig, verb: str, code: str, meaning: type[ProviderError]
) -> None:
    asked = gang(1)
    rig.launch(asked)
    number = rig.box.fault(code, action="DescribeInstances", times=None)
    with pytest.raises(meaning, match=code):
        rig.provider.list() if verb == "list" else rig.provider.terminate([asked[0].token])
    assert rig.box.struck(number) <= 2
    rig.box.unfault(number)
    rig.provider.terminate([asked[0].token])
    assert rig.box.up() == []


def test_a_listing_of_a_dead_wire_ends_soon(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "READ_S", 0.2)
    rig.recorder.dead.set()
    with pytest.raises(Unreachable):
        rig.make().list()


def test_an_end_whose_reply_is_lost_is_repeated(rig: Rig) -> None:
    asked = gang(2)
    rig.launch(asked)
    rig.box.fault(action="TerminateInstances", lost_reply=True, times=None)
    with pytest.raises(Unreachable):
        rig.provider.terminate([one.token for one in asked])
    rig.box.clear_faults()
    rig.provider.terminate([one.token for one in asked])
    assert rig.box.up() == []


def test_one_instance_that_ec2_has_forgotten_keeps_no_other_alive(rig: Rig) -> None:
    asked = gang(2)
    rig.launch(asked)
    rig.box.fault("InvalidInstanceID.NotFound", action="TerminateInstances", times=2)
    rig.provider.terminate([one.token for one in asked])
    assert len(rig.recorder.sent("TerminateInstances")) == 3
    assert len(rig.box.up()) == 1


def test_many_tokens_are_ended_by_few_calls(rig: Rig) -> None:
    asked = gang(4)
    rig.launch(asked)
    never = [f"never{number}-0" for number in range(450)]
    rig.provider.terminate([*(one.token for one in asked), *never])
    assert rig.box.up() == []
    assert len(rig.recorder.sent("DescribeInstances")) == 3
    assert len(rig.recorder.sent("TerminateInstances")) == 1


def test_an_instance_with_our_tag_and_no_gang_is_seen_and_can_be_ended(rig: Rig) -> None:
    """Somebody launched it by hand with the deployment's tag: it is paid for like ours."""
    tag = {"Key": "scsched:deployment", "Value": DEPLOYMENT}
    answer = rig.box.ec2().run_instances(
        ImageId=rig.box.image,
        InstanceType=KIND,
        SubnetId=rig.box.subnets["us-east-1a"],
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [tag]}],
    )
    instance = answer["Instances"][0]["InstanceId"]
    assert [one.token for one in rig.provider.list()] == [instance]
    rig.provider.terminate([instance])
    assert rig.box.up() == []


def test_spot_prices_are_those_in_force_and_their_changes(rig: Rig) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    since = now - timedelta(hours=2)
    rig.box.price(KIND, "us-east-1a", Decimal("0.011"), since - timedelta(hours=1))
    rig.box.price(KIND, "us-east-1a", Decimal("0.017"), now - timedelta(hours=1))
    rig.box.price(KIND, "us-east-1b", Decimal("0.5"), now - timedelta(hours=1))
    rig.box.price(OTHER, "us-east-1a", Decimal("0.7"), now - timedelta(hours=1))
    found = rig.provider.prices([pool()], since)
    assert {one.candidate for one in found} == {Candidate(KIND, "us-east-1a")}
    assert [one.usd_per_hour for one in found] == [Decimal("0.011"), Decimal("0.017")]
    assert found[0].since <= since < found[1].since
    assert {one.market for one in found} == {Market.SPOT}


def test_prices_of_a_pool_without_zones_are_those_of_the_only_one(rig: Rig) -> None:
    rig.box.price(KIND, "us-east-1c", Decimal("0.3"), datetime.now(UTC) - timedelta(hours=1))
    site = rig.make(subnets={"us-east-1c": rig.box.subnets["us-east-1c"]})
    found = site.prices([pool(zones=())], datetime.now(UTC))
    assert {(one.candidate, one.usd_per_hour) for one in found} == {
        (Candidate(KIND), Decimal("0.3"))
    }


def test_on_demand_pools_keep_their_own_price(rig: Rig) -> None:
    assert rig.provider.prices([pool(market=Market.ON_DEMAND)], datetime.now(UTC)) == ()
    assert rig.recorder.sent("DescribeSpotPriceHistory") == []


def test_prices_that_cannot_be_had_are_an_error(rig: Rig) -> None:
    rig.box.fault("UnauthorizedOperation", action="DescribeSpotPriceHistory")
    with pytest.raises(Credentials):
        rig.provider.prices([pool()], datetime.now(UTC))


def test_a_partial_listing_is_told_as_it_is(rig: Rig) -> None:

    asked = gang(4)
    rig.launch(asked)
    rig.box.describe_partial(share=0.5, calls=1, seed=1)
    assert len(rig.provider.list()) < 4
    assert wait_for(lambda: len(rig.provider.list()), lambda count: count == 4) == 4
