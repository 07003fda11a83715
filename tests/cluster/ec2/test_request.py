"""What is really sent to EC2 for a gang."""

import base64
import json
from dataclasses import replace
from decimal import Decimal

import pytest

from scsched.cluster.ec2 import request
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.request import Launch
from scsched.cluster.pools import Market, Storage
from scsched.cluster.provider import BadRequest
from tests.cluster.ec2.rig import DEPLOYMENT, PLAIN, Rig, gang, pool

SECRETS = ("-----BEGIN", "PRIVATE KEY", "aws_secret", "AWS_SECRET_ACCESS_KEY", "AKIA", "ASIA")


def sent(rig: Rig, size: int = 2, **changes: object) -> dict[str, str]:
    """The form of a launch as it went over the wire."""
    rig.launch(gang(size, of=pool(**changes)))
    return dict(rig.recorder.sent("RunInstances")[-1])


def tags(form: dict[str, str], kind: str) -> dict[str, str]:
    """Those which the launch gives to what it makes."""
    number = next(
        key.split(".")[1]
        for key, value in form.items()
        if key.startswith("TagSpecification") and key.endswith("ResourceType") and value == kind
    )
    head = f"TagSpecification.{number}.Tag."
    values = {key[len(head) :]: value for key, value in form.items() if key.startswith(head)}
    count = len(values) // 2
    return {values[f"{at}.Key"]: values[f"{at}.Value"] for at in range(1, count + 1)}


def user_data(form: dict[str, str]) -> str:
    return base64.b64decode(form["UserData"]).decode()


def test_the_metadata_service_is_asked_for_in_version_2_and_one_hop(rig: Rig) -> None:
    form = sent(rig)
    assert form["MetadataOptions.HttpTokens"] == "required"
    assert form["MetadataOptions.HttpPutResponseHopLimit"] == "1"


def test_disks_are_encrypted_and_go_with_the_machine(rig: Rig) -> None:
    form = sent(rig, options={"disk_gib": 77})
    assert form["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"
    assert form["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert form["BlockDeviceMapping.1.Ebs.VolumeSize"] == "77"
    (image,) = rig.box.ec2().describe_images(ImageIds=[rig.box.image])["Images"]
    assert form["BlockDeviceMapping.1.DeviceName"] == image["RootDeviceName"]


def test_a_machine_that_shuts_down_is_gone(rig: Rig) -> None:
    assert sent(rig)["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_a_machine_that_failed_is_not_brought_back(rig: Rig) -> None:
    assert sent(rig)["MaintenanceOptions.AutoRecovery"] == "disabled"


@pytest.mark.parametrize("kind", ["instance", "volume", "network-interface"])
def test_what_is_made_is_tagged_in_the_launch_call(rig: Rig, kind: str) -> None:
    asked = gang(2)
    rig.launch(asked)
    form = dict(rig.recorder.sent("RunInstances")[-1])
    found = tags(form, kind)
    assert found["scsched:deployment"] == DEPLOYMENT
    assert f"{found['scsched:gang']}-0" == asked[0].token
    assert found["scsched:pool"] == "p"
    assert found["scsched:owner"] == "ada"
    assert found["Name"]
    assert form["ClientToken"] == found["scsched:gang"]
    assert rig.recorder.sent("CreateTags") == []


def test_the_sites_own_group_and_subnet_are_used_and_no_public_address(rig: Rig) -> None:
    form = sent(rig, zones=("us-east-1b",))
    assert form["NetworkInterface.1.SubnetId"] == rig.box.subnets["us-east-1b"]
    assert form["NetworkInterface.1.SecurityGroupId.1"] == rig.box.security_group
    assert form["NetworkInterface.1.AssociatePublicIpAddress"] == "false"
    assert rig.recorder.sent("CreateSecurityGroup") == []
    assert {one.zone for one in rig.box.up()} == {"us-east-1b"}


def test_spot_is_one_time(rig: Rig) -> None:
    form = sent(rig, options={"max_spot_price": 2})
    assert form["InstanceMarketOptions.MarketType"] == "spot"
    assert form["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    assert form["InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"] == "terminate"
    assert form["InstanceMarketOptions.SpotOptions.MaxPrice"] == "2"
    assert all(one.spot for one in rig.box.up())


def test_on_demand_is_not_spot(rig: Rig) -> None:
    form = sent(rig, market=Market.ON_DEMAND)
    assert not [key for key in form if key.startswith("InstanceMarketOptions")]


def test_the_start_script_has_tickets_and_no_secret(rig: Rig) -> None:
    asked = gang(3)
    rig.launch(asked)
    text = user_data(dict(rig.recorder.sent("RunInstances")[-1]))
    assert all(one.ticket in text for one in asked)
    assert not [word for word in SECRETS if word in text]
    assert "cloudbox" not in text, "the broker's own credentials"
    assert len(text.encode()) < 16_384


def test_a_node_asks_the_metadata_service_for_its_place(rig: Rig) -> None:
    text = user_data(sent(rig))
    assert "/opt/scsched/bin/python -I -m scsched.cluster.ec2.place" in text


@pytest.mark.parametrize(("market", "notice"), [(Market.SPOT, "imds"), (Market.ON_DEMAND, "none")])
def test_spot_nodes_listen_for_their_notice(market: Market, notice: str) -> None:
    site = sites.read("x", PLAIN)
    assert request.program(site, gang(1, of=pool(market=market))[0]).notice == notice


def arguments(size: int = 1, /, table: object = None, **changes: object) -> dict[str, object]:
    extra = table if isinstance(table, dict) else {}
    site = sites.read("x", {**PLAIN, **extra})
    return request.arguments(Launch(site, gang(size, of=pool(**changes), name="g"), "/dev/sda1"))


def test_equal_requests_make_equal_calls() -> None:
    storage = Storage(path="/shared", export="server:/export")
    assert json.dumps(arguments(3, storage=storage)) == json.dumps(arguments(3, storage=storage))


def test_the_pools_own_options_come_before_the_sites() -> None:
    asked = arguments(
        table={"placement_group": "all", "disk_gib": 10},
        options={"image": "ami-00000001", "placement_group": "close", "disk_gib": 20},
    )
    assert asked["ImageId"] == "ami-00000001"
    assert asked["Placement"] == {"GroupName": "close"}
    assert asked["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 20  # type: ignore[index]


def test_nodes_have_no_role_and_no_key_unless_told() -> None:
    assert not {"IamInstanceProfile", "KeyName", "Placement"} & arguments().keys()
    asked = arguments(table={"iam_instance_profile": "s3-only", "key_name": "lab"})
    assert asked["IamInstanceProfile"] == {"Name": "s3-only"}
    assert asked["KeyName"] == "lab"
    arn = "arn:aws:iam::123456789012:instance-profile/s3-only"
    assert arguments(table={"iam_instance_profile": arn})["IamInstanceProfile"] == {"Arn": arn}


def test_a_start_script_that_is_too_long_is_refused_before_any_call(rig: Rig) -> None:
    asked = [replace(one, ticket="t" * 2000) for one in gang(9)]
    (refused, *_) = rig.refusals(asked)
    assert type(refused.error) is BadRequest
    assert rig.recorder.sent("RunInstances") == []


def test_a_price_is_sent_as_it_was_written() -> None:
    asked = arguments(options={"max_spot_price": Decimal("0.10")})
    options = asked["InstanceMarketOptions"]
    assert isinstance(options, dict)
    assert options["SpotOptions"]["MaxPrice"] == "0.10"
