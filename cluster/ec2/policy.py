"""The least rights that the broker needs, as an IAM policy.

It may look at everything, launch only what carries this deployment's tag, of these images, types,
subnets and groups, with encrypted disks and version 2 of the metadata service, and end only what
carries the tag: so a reaper that errs harms nobody else.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.instances import DEPLOYMENT
from scsched.cluster.ec2.site import Site
from scsched.cluster.pools import Pool

Statement = Mapping[str, object]
_LOOK = (
    "ec2:DescribeImages",
    "ec2:DescribeInstances",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "servicequotas:GetServiceQuota",
)
_HEAR = ("sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage")
_RUN = "ec2:RunInstances"


def least(
    site: Site, pools: Sequence[Pool], *, deployment: str, account: str
) -> Mapping[str, object]:
    """For this site's pools; without pools it launches nothing.

    :param account: its twelve digits, or a placeholder to be filled in.
    """
    arns = _Arns(site.region, account)
    tagged = {"StringEquals": {f"aws:RequestTag/{DEPLOYMENT}": deployment}}
    here = {"StringEquals": {"aws:RequestedRegion": site.region}}
    statements = [
        _statement("Look", _look(site, pools), ["*"], here),
        _statement("LaunchTagged", [_RUN], [arns.ec2(kind) for kind in _BORN], tagged),
        _statement("LaunchParts", [_RUN], _parts(arns, site, pools)),
        *_denials(arns, site, pools),
        _statement(
            "TagAtLaunch",
            ["ec2:CreateTags"],
            [arns.ec2(kind) for kind in _BORN],
            {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        ),
        _statement(
            "KillOnlyOurs",
            ["ec2:TerminateInstances"],
            [arns.ec2("instance/*")],
            {"StringEquals": {f"aws:ResourceTag/{DEPLOYMENT}": deployment}},
        ),
    ]
    return {"Version": "2012-10-17", "Statement": statements + _extras(arns, site)}


_BORN = ("instance/*", "volume/*", "network-interface/*")
"""What a launch makes, and tags."""


class _Arns:
    def __init__(self, region: str, account: str) -> None:
        self._region, self._account = region, account
        self._partition = "aws"
        for prefix, partition in (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov")):
            if region.startswith(prefix):
                self._partition = partition

    def ec2(self, what: str) -> str:
        return f"arn:{self._partition}:ec2:{self._region}:{self._account}:{what}"

    def image(self, image: str) -> str:
        """Images of others have no account in their name."""
        return f"arn:{self._partition}:ec2:{self._region}::image/{image}"

    def queue(self, url: str) -> str:
        _, account, name = urlsplit(url).path.rsplit("/", 2)
        return f"arn:{self._partition}:sqs:{self._region}:{account or self._account}:{name}"

    def role(self, name: str) -> str:
        return f"arn:{self._partition}:iam::{self._account}:role/{name}"


def _placements(site: Site, pools: Sequence[Pool]) -> Sequence[str]:
    named = {sites.for_pool(site, pool).placement_group for pool in pools}
    return sorted(named - {""})


def _look(site: Site, pools: Sequence[Pool]) -> Sequence[str]:
    groups = ("ec2:DescribePlacementGroups",) if _placements(site, pools) else ()
    return sorted([*_LOOK, *groups])


def _parts(arns: _Arns, site: Site, pools: Sequence[Pool]) -> Sequence[str]:
    """What a launch uses and does not make."""
    mine = [sites.for_pool(site, pool) for pool in pools]
    zones = {zone for pool in pools for zone in pool.zones or site.subnets}
    return [
        *sorted({arns.image(one.image) for one in mine}),
        *(arns.ec2(f"subnet/{site.subnets[zone]}") for zone in sorted(zones)),
        *(arns.ec2(f"security-group/{group}") for group in site.security_groups),
        *([arns.ec2(f"key-pair/{site.key_name}")] if site.key_name else []),
        *(arns.ec2(f"placement-group/{name}") for name in _placements(site, pools)),
        arns.ec2("spot-instances-request/*"),
    ]


def _denials(arns: _Arns, site: Site, pools: Sequence[Pool]) -> Sequence[Statement]:
    """What no other policy of the same role may allow."""
    types = sorted({kind for pool in pools for kind in pool.types})
    instance, volume = [arns.ec2("instance/*")], [arns.ec2("volume/*")]
    rules: list[tuple[str, Sequence[str], Mapping[str, object]]] = [
        ("NoImdsV1", instance, {"StringNotEquals": {"ec2:MetadataHttpTokens": "required"}}),
        (
            "NoLongHop",
            instance,
            {"NumericGreaterThan": {"ec2:MetadataHttpPutResponseHopLimit": "1"}},
        ),
        ("OnlyOurTypes", instance, {"StringNotEquals": {"ec2:InstanceType": types}}),
        ("OnlyEncrypted", volume, {"Bool": {"ec2:Encrypted": "false"}}),
    ]
    if not site.public_ip:
        card = [arns.ec2("network-interface/*")]
        rules.append(("NoPublicIp", card, {"Bool": {"ec2:AssociatePublicIpAddress": "true"}}))
    return [
        _statement(sid, [_RUN], resources, condition, effect="Deny")
        for sid, resources, condition in rules
    ]


def _extras(arns: _Arns, site: Site) -> list[Statement]:
    found = []
    if site.interruption_queue:
        found.append(_statement("Hear", _HEAR, [arns.queue(site.interruption_queue)]))
    if site.iam_instance_profile:
        name = site.iam_role or site.iam_instance_profile.rpartition("/")[2]
        roles = [arns.role(name), arns.role(f"*/{name}")]
        found.append(_statement("PassRole", ["iam:PassRole"], roles))
    return found


def _statement(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[str],
    condition: Mapping[str, object] | None = None,
    *,
    effect: str = "Allow",
) -> Statement:
    found: dict[str, object] = {
        "Sid": sid,
        "Effect": effect,
        "Action": list(actions),
        "Resource": list(resources),
    }
    return found | ({"Condition": condition} if condition else {})
