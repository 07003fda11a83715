"""What `doctor --cloud` finds out about an account."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from scsched.cluster.ec2 import health
from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.clients import Clients
from scsched.cluster.health import Finding
from scsched.cluster.pools import Market
from tests.cluster.ec2.rig import DEPLOYMENT, Rig, made_group, pool


def found(rig: Rig, **changes: object) -> Sequence[Finding]:
    options = rig.options(**changes)
    return list(ec2.examine("box", options, deployment=DEPLOYMENT, pools=[pool()]))


def bad(findings: Sequence[Finding]) -> dict[str, str]:
    return {one.name: one.sentence for one in findings if not one.ok}


def test_a_good_account_has_nothing_bad(rig: Rig) -> None:
    findings = found(rig, interruption_queue=rig.box.queue)
    assert bad(findings) == {}
    names = {"credentials", "security group", "subnet", "image", "launch", "queue"}
    assert names <= {one.name for one in findings}
    assert rig.box.instances() == []


def test_without_credentials_nothing_else_is_asked(rig: Rig) -> None:
    rig.box.fault("ExpiredToken", action="GetCallerIdentity", times=None)
    (only,) = found(rig)
    assert (only.name, only.ok) == ("credentials", False)
    assert "ExpiredToken" in only.sentence


@pytest.mark.parametrize(
    ("action", "code", "name"),
    [
        ("DescribeImages", "InvalidAMIID.NotFound", "image"),
        ("DescribeSecurityGroups", "InvalidGroup.NotFound", "security group"),
        ("DescribeSubnets", "InvalidSubnetID.NotFound", "subnet"),
        ("RunInstances", "UnauthorizedOperation", "launch"),
    ],
)
def test_what_is_missing_is_found_and_the_rest_is_still_looked_at(
    rig: Rig, action: str, code: str, name: str
) -> None:
    rig.box.fault(code, action=action, times=None)
    findings = found(rig)
    assert bad(findings).keys() == {name}
    assert code in bad(findings)[name]
    assert len(findings) > 4


def test_an_image_that_is_not_there(rig: Rig) -> None:
    assert "image" in bad(found(rig, image="ami-00000000"))


def test_a_subnet_of_another_zone(rig: Rig) -> None:
    subnets = {"us-east-1a": rig.box.subnets["us-east-1b"]}
    assert "is in us-east-1b, not in us-east-1a" in bad(found(rig, subnets=subnets))["subnet"]


def test_a_group_open_to_the_world(rig: Rig) -> None:
    api, name = rig.box.ec2(), f"wide-{time.time_ns()}"
    group = api.create_security_group(GroupName=name, Description=name, VpcId=rig.box.vpc)
    anywhere = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    api.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[anywhere])
    sentence = bad(found(rig, security_groups=[group["GroupId"]]))["security group"]
    assert "open to the world (everything)" in sentence


@pytest.mark.parametrize(
    ("strategy", "state", "said"),
    [
        ("cluster", "available", ""),
        ("spread", "available", "its strategy is spread"),
        ("cluster", "deleting", "is deleting"),
        ("", "available", "InvalidPlacementGroup.Unknown"),
    ],
)
def test_a_placement_group_is_there_of_strategy_cluster_and_available(
    rig: Rig, strategy: str, state: str, said: str
) -> None:
    group = made_group(rig.box, strategy=strategy, state=state)
    mine = pool(types=("c6i.large",), options={"placement_group": group})
    findings = ec2.examine("box", rig.options(), deployment=DEPLOYMENT, pools=[mine])
    (finding,) = [one for one in findings if one.name == "placement group"]
    assert finding.ok is not bool(said)
    assert group in finding.sentence
    assert said in finding.sentence
    assert bool(finding.hint) is bool(said)


def test_a_clock_that_is_off(rig: Rig) -> None:
    site = sites.read("box", rig.options())
    later = datetime.now(UTC) + timedelta(minutes=3)
    findings = health.examine(site, [pool()], deployment=DEPLOYMENT, now=later)
    assert "differs from AWS's by 1" in bad(findings)["clock"]


@pytest.mark.parametrize(
    ("kind", "market", "code"),
    [
        ("c6i.large", Market.SPOT, "L-34B43A08"),
        ("c6i.large", Market.ON_DEMAND, "L-1216C47A"),
        ("g5.xlarge", Market.SPOT, "L-3819A6DF"),
        ("p4d.24xlarge", Market.ON_DEMAND, "L-417A185B"),
    ],
)
def test_the_quota_is_that_of_the_family_and_market(
    kind: str, market: Market, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = pool(types=(kind,), market=market, max_nodes=1, cores=1)
    need = health._vcpus(kind, mine)
    asked = quotas(monkeypatch, vcpus=need)
    (finding,) = health._quotas(Clients("us-east-1"), [mine])
    assert asked == [code]
    assert finding.ok
    (finding,) = health._quotas(Clients("us-east-1"), [mine, mine])
    assert not finding.ok
    assert f"{need} vCPUs; the pools may use {2 * need}" in finding.sentence


def test_a_pool_may_be_all_of_its_largest_type(monkeypatch: pytest.MonkeyPatch) -> None:
    quotas(monkeypatch, vcpus=8)
    mine = pool(types=("c6i.large", "m6i.2xlarge"), max_nodes=2, cores=2)
    (finding,) = health._quotas(Clients("us-east-1"), [mine])
    assert "8 vCPUs; the pools may use 16" in finding.sentence


def test_a_family_with_a_quota_of_its_own_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = quotas(monkeypatch, vcpus=0)
    for kind in ("x2idn.16xlarge", "trn1.2xlarge", "inf2.xlarge", "f1.2xlarge", "dl1.24xlarge"):
        (finding,) = health._quotas(Clients("us-east-1"), [pool(types=(kind,))])
        assert finding.ok
        assert f"the quota of {kind} is not looked at" in finding.sentence
    assert asked == []


def quotas(patch: pytest.MonkeyPatch, *, vcpus: int) -> list[str]:
    """Answers of Service Quotas, which the imaginary cloud has not; the codes asked for."""
    asked: list[str] = []

    class Quotas:
        def get_service_quota(self, *, ServiceCode: str, QuotaCode: str) -> dict[str, object]:  # noqa: N803
            asked.append(QuotaCode)
            return {"Quota": {"QuotaName": ServiceCode, "Value": float(vcpus)}}

    patch.setattr(Clients, "of", lambda self, service: Quotas())
    return asked


def test_a_quota_that_is_not_told_is_no_fault(rig: Rig) -> None:
    (finding,) = [one for one in found(rig) if one.name == "quota"]
    assert finding.ok
