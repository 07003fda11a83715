"""The policy allows what the provider does, and no more."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from scsched.cluster.ec2 import provider as ec2
from tests.cluster.ec2.rig import DEPLOYMENT, PLAIN, Rig, gang, made_group, pool

ACCOUNT = "123456789012"
SITE = {
    **PLAIN,
    "subnets": {"us-east-1a": "subnet-0a1b2c3d", "us-east-1b": "subnet-0a1b2c3e"},
    "interruption_queue": f"https://queue.example/{ACCOUNT}/scsched-notices",
}


def policy(**changes: object) -> dict[str, Any]:
    made = ec2.policy(
        "aws", {**SITE, **changes}, deployment=DEPLOYMENT, pools=[pool()], account=ACCOUNT
    )
    return dict(json.loads(json.dumps(made)))


def statements(**changes: object) -> Mapping[str, Mapping[str, Any]]:
    return {one["Sid"]: one for one in policy(**changes)["Statement"]}


def test_every_call_that_is_made_is_allowed(rig: Rig) -> None:
    asked = gang(1)
    rig.launch(asked)
    rig.provider.list()
    rig.provider.prices([pool()], datetime.now(UTC))
    rig.provider.terminate([asked[0].token])
    list(ec2.examine("box", rig.options(), deployment=DEPLOYMENT, pools=[pool()]))
    allowed = [
        action
        for one in policy()["Statement"]
        if one["Effect"] == "Allow"
        for action in one["Action"]
    ]
    made = {form["Action"] for form in rig.recorder.forms if "Action" in form}
    assert "RunInstances" in made
    missing = {
        action
        for action in made - {"GetCallerIdentity"}  # needs no right
        if not any(fnmatchcase(f"ec2:{action}", one) for one in allowed)
    }
    assert missing == set()


def test_a_placement_group_is_looked_at_and_used_only_where_one_is_named(rig: Rig) -> None:
    group = made_group(rig.box)
    list(
        ec2.examine(
            *("box", rig.options()),
            deployment=DEPLOYMENT,
            pools=[pool(types=("c6i.large",), options={"placement_group": group})],
        )
    )
    assert "DescribePlacementGroups" in {form.get("Action") for form in rig.recorder.forms}
    named = statements(placement_group=group)
    assert "ec2:DescribePlacementGroups" in named["Look"]["Action"]
    assert "placement" not in json.dumps(policy()).lower()


def test_only_what_has_our_tag_is_ended() -> None:
    kill = statements()["KillOnlyOurs"]
    assert kill["Action"] == ["ec2:TerminateInstances"]
    assert kill["Condition"] == {"StringEquals": {"aws:ResourceTag/scsched:deployment": DEPLOYMENT}}


def test_only_with_our_tag_is_launched_or_tagged() -> None:
    found = statements()
    assert found["LaunchTagged"]["Condition"]["StringEquals"] == {
        "aws:RequestTag/scsched:deployment": DEPLOYMENT
    }
    assert found["TagAtLaunch"]["Condition"]["StringEquals"] == {"ec2:CreateAction": "RunInstances"}
    made = {arn.rpartition(":")[2].partition("/")[0] for arn in found["LaunchTagged"]["Resource"]}
    assert made == {"instance", "volume", "network-interface"}


def test_parts_are_those_of_the_site_and_its_pools() -> None:
    parts = statements(key_name="lab", placement_group="close")["LaunchParts"]["Resource"]
    head = f"arn:aws:ec2:us-east-1:{ACCOUNT}"
    assert parts == [
        "arn:aws:ec2:us-east-1::image/ami-0a1b2c3d",
        f"{head}:subnet/subnet-0a1b2c3d",
        f"{head}:security-group/sg-0a1b2c3d",
        f"{head}:key-pair/lab",
        f"{head}:placement-group/close",
        f"{head}:spot-instances-request/*",
    ]


def test_nothing_changes_the_account() -> None:
    actions = {action for one in policy()["Statement"] for action in one["Action"]}
    changing = {one for one in actions if not re.match(r"\w+:(Describe|Get|Receive)", one)}
    assert changing == {
        "ec2:RunInstances",
        "ec2:TerminateInstances",
        "ec2:CreateTags",
        "sqs:DeleteMessage",
    }
    assert not [action for action in actions if "*" in action]


def test_what_is_unsafe_is_denied() -> None:
    found = statements()
    denied = {sid for sid, one in found.items() if one["Effect"] == "Deny"}
    assert denied == {"NoImdsV1", "NoLongHop", "OnlyOurTypes", "OnlyEncrypted", "NoPublicIp"}
    assert found["OnlyOurTypes"]["Condition"] == {
        "StringNotEquals": {"ec2:InstanceType": ["t3.small"]}
    }
    assert "NoPublicIp" not in statements(public_ip=True)


def test_a_role_is_passed_only_where_one_is_configured() -> None:
    assert "PassRole" not in statements()
    arn = f"arn:aws:iam::{ACCOUNT}:instance-profile/scsched-s3"
    for profile in ("scsched-s3", arn):
        passed = statements(iam_instance_profile=profile)["PassRole"]
        mine = f"arn:aws:iam::{ACCOUNT}:role"
        assert passed["Resource"] == [f"{mine}/scsched-s3", f"{mine}/*/scsched-s3"]
    other = statements(iam_instance_profile="lab", iam_role="lab-NodeRole-1X2Y")["PassRole"]
    assert other["Resource"][0] == f"{mine}/lab-NodeRole-1X2Y"


def test_the_queue_is_the_sites_own() -> None:
    assert statements()["Hear"]["Resource"] == [f"arn:aws:sqs:us-east-1:{ACCOUNT}:scsched-notices"]


def test_other_partitions_have_other_names() -> None:
    region = {"region": "cn-north-1", "subnets": {"cn-north-1a": "subnet-0a1b2c3d"}}
    made = ec2.policy(
        "aws",
        {**PLAIN, **region},
        deployment=DEPLOYMENT,
        pools=[pool(zones=())],
        account=ACCOUNT,
    )
    arns = re.findall(r'"(arn:[^"]*)"', json.dumps(made))
    assert arns
    assert {arn.split(":")[1] for arn in arns} == {"aws-cn"}
