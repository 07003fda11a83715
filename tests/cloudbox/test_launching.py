"""The box launches, ends and refuses as EC2 does, and fails as told."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from tests.cloudbox.asking import (
    KIND,
    ZONE,
    ClientError,
    ConnectionLost,
    asked,
    code_of,
    launch,
    shown,
    wait_until,
)
from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import flat_box

__all__ = ["flat_box"]

# ---------------------------------------------------------------------- launch and tokens


def test_the_same_token_gives_the_same_instances(flat_box: Box) -> None:
    first = launch(flat_box, count=3, ClientToken="gang-1")
    assert launch(flat_box, count=3, ClientToken="gang-1") == first
    assert [one.index for one in flat_box.instances()] == [0, 1, 2]
    assert flat_box.calls()["replayed"] == 1


def test_a_launch_that_was_done_needs_no_room_to_be_told_of_again(flat_box: Box) -> None:
    """What is refused for other reasons is refused all the same."""
    made = launch(flat_box, ClientToken="mine")
    flat_box.fault("InsufficientInstanceCapacity", times=None)
    assert launch(flat_box, ClientToken="mine") == made
    assert code_of(lambda: launch(flat_box)) == "InsufficientInstanceCapacity"
    flat_box.clear_faults()
    flat_box.fault("RequestLimitExceeded")
    assert code_of(lambda: launch(flat_box, ClientToken="mine")) == "RequestLimitExceeded"
    assert len(flat_box.instances()) == 1


def test_without_a_token_every_call_launches(flat_box: Box) -> None:
    assert launch(flat_box) != launch(flat_box)


def test_a_token_that_says_other_words_is_refused(flat_box: Box) -> None:
    launch(flat_box, ClientToken="gang-1")
    code = code_of(lambda: launch(flat_box, kind="c5.2xlarge", ClientToken="gang-1"))
    assert code == "IdempotentParameterMismatch"
    assert len(flat_box.instances()) == 1


def test_a_token_holds_in_its_zone_only(flat_box: Box) -> None:
    launch(flat_box, ClientToken="gang-1")
    launch(flat_box, zone="us-east-1b", ClientToken="gang-1")
    assert len(flat_box.up()) == 2


def test_the_token_of_a_terminated_instance_launches_nothing(flat_box: Box) -> None:
    [one] = launch(flat_box, ClientToken="gang-1")
    flat_box.ec2().terminate_instances(InstanceIds=[one])
    wait_until(lambda: flat_box.instance(one).state == "terminated")
    code = code_of(lambda: launch(flat_box, ClientToken="gang-1"))
    assert code == "IdempotentInstanceTerminated"
    assert not flat_box.up()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"UserData": "x" * 16385}, "InvalidParameterValue"),
        ({"kind": "c5.nosuch"}, "InvalidInstanceType"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"ImageId": "ami-00000000"}, "InvalidAMIID.NotFound"),
    ],
)
def test_what_can_never_be_launched_is_refused(
    flat_box: Box, words: Mapping[str, Any], code: str
) -> None:
    assert code_of(lambda: launch(flat_box, **words)) == code
    assert not flat_box.instances()


def test_nothing_gets_an_address_outside_the_box(flat_box: Box) -> None:
    words = asked(flat_box)
    subnet = words.pop("SubnetId")
    ec2 = flat_box.ec2()
    assert code_of(lambda: ec2.run_instances(**words)) == "VPCIdNotSpecified"
    del words["SecurityGroupIds"]
    card = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}
    assert code_of(lambda: ec2.run_instances(**words, NetworkInterfaces=[card])) == (
        "UnauthorizedOperation"
    )
    assert code_of(lambda: ec2.allocate_address()) == "UnsupportedOperation"
    launch(flat_box)
    assert all(one.address.startswith("127.") for one in flat_box.instances())
    assert not any("PublicIpAddress" in one for one in shown(flat_box).values())


# ---------------------------------------------------------------------- states


def test_an_instance_goes_through_ec2s_states(flat_box: Box) -> None:
    found = flat_box.ec2().run_instances(**asked(flat_box))["Instances"][0]
    assert found["State"]["Name"] == "pending"
    one = found["InstanceId"]
    wait_until(lambda: shown(flat_box)[one]["State"]["Name"] == "running")
    answer = flat_box.ec2().terminate_instances(InstanceIds=[one])["TerminatingInstances"][0]
    assert answer["CurrentState"]["Name"] == "shutting-down"
    wait_until(lambda: shown(flat_box)[one]["State"]["Name"] == "terminated")
    last = shown(flat_box)[one]
    assert last["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    ended = flat_box.instance(one).ended_at
    assert ended is not None
    assert last["StateTransitionReason"] == f"User initiated ({ended:%Y-%m-%d %H:%M:%S} GMT)"
    assert last["LaunchTime"] == flat_box.instance(one).launched_at


def test_a_shutdown_from_inside_does_what_was_said_at_launch(flat_box: Box) -> None:
    [goes] = launch(flat_box)
    [stays] = launch(flat_box, InstanceInitiatedShutdownBehavior="stop")
    for one in (goes, stays):
        flat_box.shutdown(one)
    wait_until(lambda: flat_box.instance(goes).state == "terminated")
    assert flat_box.instance(goes).reason == "Client.InstanceInitiatedShutdown"
    assert flat_box.instance(stays).state == "stopped"


def test_one_unknown_id_terminates_none(flat_box: Box) -> None:
    [one] = launch(flat_box)
    ec2 = flat_box.ec2()
    code = code_of(lambda: ec2.terminate_instances(InstanceIds=[one, "i-00000000000000000"]))
    assert code == "InvalidInstanceID.NotFound"
    assert flat_box.instance(one).up


# ---------------------------------------------------------------------- limits and faults


def test_a_gang_gets_all_or_none(flat_box: Box) -> None:
    flat_box.capacity(2, kind=KIND, zone=ZONE, market="spot")
    code = code_of(lambda: launch(flat_box, count=3))
    assert code == "InsufficientInstanceCapacity"
    assert not flat_box.instances()
    launch(flat_box, count=3, zone="us-east-1b")
    launch(flat_box, count=3, spot=False)
    launch(flat_box, count=2)
    assert code_of(lambda: launch(flat_box)) == "InsufficientInstanceCapacity"


def test_who_asks_for_a_range_gets_what_there_is(flat_box: Box) -> None:
    flat_box.capacity(2)
    assert len(launch(flat_box, MinCount=1, MaxCount=3)) == 2


def test_quotas_are_of_the_account(flat_box: Box) -> None:
    flat_box.quota(spot_instances=1, on_demand_vcpus=8)
    launch(flat_box)
    assert code_of(lambda: launch(flat_box)) == "MaxSpotInstanceCountExceeded"
    launch(flat_box, spot=False, count=2)
    assert code_of(lambda: launch(flat_box, spot=False)) == "VcpuLimitExceeded"


def test_too_low_a_price_gets_nothing(flat_box: Box) -> None:
    flat_box.price(KIND, ZONE, Decimal("0.10"))
    market = {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.09"}}
    code = code_of(lambda: launch(flat_box, InstanceMarketOptions=market))
    assert code == "SpotMaxPriceTooLow"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("InsufficientInstanceCapacity", 500),
        ("UnfulfillableCapacity", 400),
        ("RequestLimitExceeded", 503),
        ("InstanceLimitExceeded", 400),
        ("ExpiredToken", 400),
        ("AuthFailure", 401),
        ("UnauthorizedOperation", 403),
    ],
)
def test_a_fault_strikes_as_often_as_told(flat_box: Box, code: str, status: int) -> None:
    number = flat_box.fault(code, times=2)
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            launch(flat_box)
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    launch(flat_box)
    assert flat_box.struck(number) == 2
    assert len(flat_box.instances()) == 1


def test_a_fault_may_be_of_one_type_zone_and_market(flat_box: Box) -> None:
    code = "InsufficientInstanceCapacity"
    flat_box.fault(code, kind=KIND, zone=ZONE, market="spot", times=None)
    launch(flat_box, kind="c5.2xlarge")
    launch(flat_box, zone="us-east-1b")
    launch(flat_box, spot=False)
    assert code_of(lambda: launch(flat_box)) == code


def test_a_fault_by_chance_can_be_repeated(flat_box: Box) -> None:
    def run() -> list[bool]:
        flat_box.clear()
        flat_box.fault("RequestLimitExceeded", times=None, probability=0.5, seed=7)
        return [_launches(flat_box) for _ in range(12)]

    first = run()
    assert run() == first
    assert 0 < sum(first) < 12


def _launches(box: Box) -> bool:
    try:
        launch(box)
    except ClientError:
        return False
    return True


def test_a_lost_reply_leaves_the_call_done(flat_box: Box) -> None:
    flat_box.fault(lost_reply=True)
    with pytest.raises(ConnectionLost):
        launch(flat_box, ClientToken="gang-1")
    [one] = flat_box.up()
    assert launch(flat_box, ClientToken="gang-1") == [one.instance_id]


def test_any_action_can_fail(flat_box: Box) -> None:
    flat_box.fault("UnauthorizedOperation", action="DescribeInstances")
    assert code_of(lambda: shown(flat_box)) == "UnauthorizedOperation"
    assert shown(flat_box) == {}
    flat_box.fault("AccessDenied", action="ReceiveMessage")
    sqs = flat_box.service("sqs")
    assert code_of(lambda: sqs.receive_message(QueueUrl=flat_box.queue)) == "AccessDenied"
