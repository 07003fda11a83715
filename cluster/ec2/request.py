"""The one RunInstances call that launches a gang: a pure function of what was asked for."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.instances import DEPLOYMENT, GANG, OWNER, POOL
from scsched.cluster.ec2.site import PoolSite, Site
from scsched.cluster.pools import Market
from scsched.cluster.provider import BadRequest, LaunchRequest, gang_of, index_of
from scsched.cluster.remote import NodeProgram, NoticeSource, bootstrap

_LONGEST_TOKEN = 64
"""https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html"""
_LONGEST_TAG = 256


@dataclass(frozen=True, slots=True)
class Launch:
    """One gang to launch; `root_device` as the image names it."""

    site: Site
    requests: Sequence[LaunchRequest]
    root_device: str

    @property
    def gang(self) -> str:
        return gang_of(self.requests[0].token)


def check(requests: Sequence[LaunchRequest], deployment: str) -> None:
    """:raises BadRequest: these can never be one launch."""
    first = requests[0]
    gang = gang_of(first.token)
    if len(gang) > _LONGEST_TOKEN or not gang.isascii():
        raise BadRequest(f"{first.name}: {gang!r} is no client token: {_LONGEST_TOKEN} ASCII signs")
    for request in requests:
        if request.deployment != deployment:
            raise BadRequest(f"{request.name}: deployment {request.deployment} is not {deployment}")
        if request.candidate != first.candidate or request.pool != first.pool:
            raise BadRequest(f"{request.name}: one gang is of one pool, type and zone")
    if not first.candidate.kind:
        raise BadRequest(f"{first.name}: pool {first.pool.name} names no instance type")


def is_whole(requests: Sequence[LaunchRequest]) -> bool:
    """Whether these are all nodes of a gang, as far as their indices say."""
    return [index_of(request.token) for request in requests] == list(range(len(requests)))


def arguments(launch: Launch) -> dict[str, object]:
    """Of RunInstances; equal for equal requests.

    :raises BadRequest: the start script is too long, or no subnet fits.
    """
    first, count = launch.requests[0], len(launch.requests)
    mine = sites.for_pool(launch.site, first.pool)
    asked: dict[str, object] = {
        "ImageId": mine.image,
        "InstanceType": first.candidate.kind,
        "MinCount": count,
        "MaxCount": count,
        "ClientToken": launch.gang,
        "UserData": bootstrap(launch.requests, program(launch.site, first)),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        },
        "BlockDeviceMappings": [_disk(launch.root_device, mine)],
        "NetworkInterfaces": [_network(launch.site, first)],
        # A machine that comes back after a failure has neither its node nor its dead man.
        "MaintenanceOptions": {"AutoRecovery": "disabled"},
        "TagSpecifications": _tags(launch),
    }
    return {**asked, **_market(first, mine), **_extras(launch.site, mine)}


def program(site: Site, request: LaunchRequest) -> NodeProgram:
    """How the site's nodes start."""
    spot = request.pool.market is Market.SPOT
    return NodeProgram(
        python=site.python,
        notice=NoticeSource.IMDS if spot else NoticeSource.NONE,
        scratch=site.scratch,
        index=shlex.join([site.python, "-I", "-m", "scsched.cluster.ec2.place"]),
    )


def _disk(root_device: str, mine: PoolSite) -> Mapping[str, object]:
    return {
        "DeviceName": root_device,
        "Ebs": {
            "VolumeSize": mine.disk_gib,
            "VolumeType": "gp3",
            "Encrypted": True,
            "DeleteOnTermination": True,
        },
    }


def _network(site: Site, request: LaunchRequest) -> Mapping[str, object]:
    return {
        "DeviceIndex": 0,
        "SubnetId": sites.subnet(site, request.candidate),
        "Groups": list(site.security_groups),
        "AssociatePublicIpAddress": site.public_ip,
        "DeleteOnTermination": True,
    }


def _tags(launch: Launch) -> Sequence[Mapping[str, object]]:
    """At birth: a launch whose answer is lost is found by them."""
    first = launch.requests[0]
    tags = {
        DEPLOYMENT: first.deployment,
        GANG: launch.gang,
        POOL: first.pool.name,
        OWNER: first.owner.username,
        "Name": f"scsched {first.pool.name} {launch.gang}",
    }
    shown = [{"Key": key, "Value": value[:_LONGEST_TAG]} for key, value in tags.items()]
    kinds = ["instance", "volume", "network-interface"]
    return [{"ResourceType": kind, "Tags": shown} for kind in kinds]


def _market(request: LaunchRequest, mine: PoolSite) -> Mapping[str, object]:
    if request.pool.market is not Market.SPOT:
        return {}
    spot = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
    if mine.max_spot_price is not None:
        spot["MaxPrice"] = str(mine.max_spot_price)
    return {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": spot}}


def _extras(site: Site, mine: PoolSite) -> Mapping[str, object]:
    asked: dict[str, object] = {}
    if mine.placement_group:
        asked["Placement"] = {"GroupName": mine.placement_group}
    if site.key_name:
        asked["KeyName"] = site.key_name
    if site.iam_instance_profile:
        key = "Arn" if site.iam_instance_profile.startswith("arn:") else "Name"
        asked["IamInstanceProfile"] = {key: site.iam_instance_profile}
    return asked
