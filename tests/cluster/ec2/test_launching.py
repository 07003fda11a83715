"""Launches on EC2 under the faults of its API: all or none, once, and never unknown."""

import time
from dataclasses import replace

import pytest

from scsched.cluster.ec2 import clients, workers
from scsched.cluster.ec2.request import Launch
from scsched.cluster.ec2.workers import Described
from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    Desk,
    Launched,
    NoCapacity,
    NodeState,
    ProviderError,
    QuotaExceeded,
    Refused,
    Throttled,
    Unreachable,
)
from tests.cluster.ec2.rig import JOIN, KIND, OTHER, Rig, gang, pool


def test_a_gang_is_one_call_and_each_node_has_its_index(rig: Rig) -> None:
    asked = gang(3)
    ids = rig.launch(asked)
    (form,) = rig.recorder.sent("RunInstances")
    assert (form["MinCount"], form["MaxCount"]) == ("3", "3")
    there = {one.instance_id: one.index for one in rig.box.up()}
    assert [there[one] for one in ids] == [0, 1, 2]
    assert {one.token: one.provider_id for one in rig.provider.list()} == {
        request.token: instance for request, instance in zip(asked, ids, strict=True)
    }


def test_a_gang_whose_machines_cannot_tell_their_places_is_ended(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = workers.launch

    def unordered(asked: Launch) -> list[Described]:
        return [{**one, "AmiLaunchIndex": 0} for one in honest(asked)]

    monkeypatch.setattr(workers, "launch", unordered)
    (first, second) = rig.refusals(gang(2))
    assert type(first.error) is type(second.error) is BadRequest
    assert "the same ami-launch-index" in str(first.error)
    assert rig.box.up() == []


def test_two_gangs_are_two_calls_and_the_answers_keep_their_order(rig: Rig) -> None:
    first, second = gang(2), gang(2)
    mixed = [first[0], second[0], first[1], second[1]]
    answers = rig.provider.launch(mixed)
    assert [one.token for one in answers] == [one.token for one in mixed]
    assert len(rig.recorder.sent("RunInstances")) == 2


def test_one_gang_may_fail_while_another_is_launched(rig: Rig) -> None:
    rig.box.fault("InsufficientInstanceCapacity", kind=KIND)
    full, free = gang(1), gang(1, candidate=Candidate(OTHER, "us-east-1a"))
    answers = rig.provider.launch([*full, *free])
    assert [type(one) for one in answers] == [Refused, Launched]


@pytest.mark.parametrize("size", [1, 3])
def test_a_lost_reply_launches_once(rig: Rig, size: int) -> None:
    asked = gang(size)
    rig.box.fault(lost_reply=True)
    lost = rig.refusals(asked)
    assert {type(one.error) for one in lost} == {Unreachable}
    assert len(rig.recorder.sent("RunInstances")) == 1, "the client repeated it by itself"
    ids = rig.launch(asked)
    assert len(rig.box.instances()) == size == len(set(ids))


def test_a_broker_that_dies_before_the_reply_gets_the_same_nodes(rig: Rig) -> None:
    asked = gang(2)
    rig.box.fault(lost_reply=True)
    rig.refusals(asked)
    again = rig.make().launch(asked)
    assert all(isinstance(one, Launched) for one in again)
    assert len(rig.box.instances()) == 2


def test_a_dead_wire_is_unreachable_and_the_call_ends(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "LAUNCH_S", 0.3)
    asked = gang(1)
    rig.launch(gang(1))  # imports and looks up what is looked up once
    rig.recorder.dead.set()
    (refused,) = rig.refusals(asked)
    assert type(refused.error) is Unreachable


def test_the_token_of_a_terminated_node_is_refused(rig: Rig) -> None:
    asked = gang(1)
    rig.launch(asked)
    rig.provider.terminate([asked[0].token])
    rig.until(asked[0].token, NodeState.TERMINATED)
    (refused,) = rig.refusals(asked)
    assert type(refused.error) is BadRequest
    assert "IdempotentInstanceTerminated" in str(refused.error)
    assert len(rig.box.instances()) == 1


def test_of_a_gang_that_lost_a_node_the_others_are_given_again(rig: Rig) -> None:
    asked = gang(3)
    ids = rig.launch(asked)
    rig.box.lose(ids[1])
    rig.until(asked[1].token, NodeState.TERMINATED)
    answers = rig.provider.launch(asked)
    assert [type(one) for one in answers] == [Launched, Refused, Launched]
    assert len(rig.box.instances()) == 3


def test_a_part_of_a_gang_gets_its_nodes_and_launches_nothing(rig: Rig) -> None:
    asked = gang(3)
    ids = rig.launch(asked)
    (answer,) = rig.provider.launch([asked[2]])
    assert isinstance(answer, Launched)
    assert answer.provider_id == ids[2]
    (stranger,) = rig.refusals([gang(2)[1]])
    assert type(stranger.error) is BadRequest
    assert len(rig.box.instances()) == 3


def test_the_same_token_with_other_words_gets_the_live_node(rig: Rig) -> None:
    """The driver has a new address after a restart, so the start script differs."""
    asked = gang(2)
    ids = rig.launch(asked)
    moved = replace(JOIN, desk=Desk("127.0.0.1:10", "cd" * 32))
    assert rig.launch([replace(one, join=moved) for one in asked]) == ids
    assert rig.box.calls()["RunInstances"] == 2
    assert len(rig.box.instances()) == 2


def test_other_words_for_a_token_whose_node_has_ended_are_refused(rig: Rig) -> None:
    asked = gang(1)
    (instance,) = rig.launch(asked)
    rig.box.lose(instance)
    rig.until(asked[0].token, NodeState.TERMINATED)
    moved = replace(JOIN, desk=Desk("127.0.0.1:10", "cd" * 32))
    (refused,) = rig.refusals([replace(asked[0], join=moved)])
    assert type(refused.error) is BadRequest


def test_what_cannot_be_settled_by_looking_stays_open(rig: Rig) -> None:
    asked = gang(1)
    rig.launch(asked)
    moved = replace(JOIN, desk=Desk("127.0.0.1:10", "cd" * 32))
    rig.box.fault("UnauthorizedOperation", action="DescribeInstances")
    (refused,) = rig.refusals([replace(asked[0], join=moved)])
    assert type(refused.error) is Unreachable


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("InsufficientInstanceCapacity", NoCapacity),
        ("MaxSpotInstanceCountExceeded", QuotaExceeded),
        ("RequestLimitExceeded", Throttled),
        ("UnauthorizedOperation", Credentials),
        ("InternalError", Unreachable),
        ("NobodyHasHeardOfThis", BadRequest),
    ],
)
def test_a_refused_gang_has_no_node_and_says_what_to_do(
    rig: Rig, code: str, meaning: type[ProviderError]
) -> None:
    number = rig.box.fault(code)
    refused = rig.refusals(gang(2))
    assert {type(one.error) for one in refused} == {meaning}
    assert all(code in str(one.error) for one in refused)
    assert rig.box.struck(number) == 1
    assert rig.box.instances() == []


def test_capacity_for_a_part_of_a_gang_launches_nothing(rig: Rig) -> None:
    rig.box.capacity(2)
    assert {type(one.error) for one in rig.refusals(gang(3))} == {NoCapacity}
    assert rig.box.instances() == []
    assert len(rig.launch(gang(2))) == 2


def test_the_accounts_own_limit_is_a_quota(rig: Rig) -> None:
    rig.box.quota(spot_instances=1, on_demand_vcpus=2)
    assert {type(one.error) for one in rig.refusals(gang(2))} == {QuotaExceeded}
    on_demand = pool(market=Market.ON_DEMAND)
    assert {type(one.error) for one in rig.refusals(gang(2, of=on_demand))} == {QuotaExceeded}


def test_a_price_over_the_cap_is_no_capacity(rig: Rig) -> None:
    cheap = pool(options={"max_spot_price": 0.0001})
    (refused,) = rig.refusals(gang(1, of=cheap))
    assert type(refused.error) is NoCapacity
    assert "SpotMaxPriceTooLow" in str(refused.error)


def test_a_group_that_the_world_can_reach_is_refused(rig: Rig) -> None:
    ec2 = rig.box.ec2()
    name = f"wide-{time.time_ns()}"
    made = ec2.create_security_group(GroupName=name, Description=name, VpcId=rig.box.vpc)
    group = made["GroupId"]
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 22,
                "ToPort": 22,
                "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            }
        ],
    )
    provider = rig.make(security_groups=[rig.box.security_group, group])
    (refused,) = provider.launch(gang(1))
    assert isinstance(refused, Refused)
    assert type(refused.error) is BadRequest
    assert group in str(refused.error)
    assert "tcp 22" in str(refused.error)
    assert rig.recorder.sent("RunInstances") == []


def test_groups_and_images_are_looked_up_once(rig: Rig) -> None:
    for _ in range(3):
        rig.launch(gang(1))
    assert len(rig.recorder.sent("DescribeSecurityGroups")) == 1
    assert len(rig.recorder.sent("DescribeImages")) == 1


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"candidate": Candidate(KIND, "us-east-1f")}, "subnet"),
        ({"candidate": Candidate("", "us-east-1a")}, "instance type"),
        ({"deployment": "other"}, "deployment"),
        ({"name": "x" * 65}, "64"),
        ({"join": replace(JOIN, desk=None)}, "desk"),
    ],
)
def test_what_can_never_be_launched_is_never_sent(
    rig: Rig, changes: dict[str, object], word: str
) -> None:
    (refused,) = rig.refusals(gang(1, **changes))  # type: ignore[arg-type]
    assert type(refused.error) is BadRequest
    assert word in str(refused.error)
    assert rig.recorder.sent("RunInstances") == []


def test_a_gang_of_two_zones_is_refused(rig: Rig) -> None:
    one, two = gang(2)
    asked = [one, replace(two, candidate=Candidate(KIND, "us-east-1b"))]
    assert {type(found.error) for found in rig.refusals(asked)} == {BadRequest}
    assert rig.box.instances() == []
