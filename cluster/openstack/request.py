"""The one call that makes a server: a pure function of what was asked for."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster.openstack import servers
from scsched.cluster.openstack.site import PoolSite, Site
from scsched.cluster.provider import BadRequest, LaunchRequest, gang_of
from scsched.cluster.remote import NodeProgram, NoticeSource, bootstrap

_LONGEST = 255
"""Of a metadata value, and of a server's name.

https://docs.openstack.org/api-ref/compute/#create-server
"""

_LONGEST_TOKEN = 200
"""A name has more parts than the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the names of the configuration mean at this cloud."""

    image: str
    flavor: str
    networks: tuple[str, ...]
    security_groups: tuple[str, ...]


def check(requests: Sequence[LaunchRequest], deployment: str) -> None:
    """:raises BadRequest: these can never be one gang's servers."""
    first = requests[0]
    for request in requests:
        if request.deployment != deployment:
            raise BadRequest(f"{request.name}: deployment {request.deployment} is not {deployment}")
        if request.candidate != first.candidate or request.pool != first.pool:
            raise BadRequest(f"{request.name}: one gang is of one pool, flavor and zone")
        if not request.token.replace("-", "").isalnum() or len(request.token) > _LONGEST_TOKEN:
            raise BadRequest(f"{request.name}: {request.token!r} is no name for a server")
    if not first.candidate.kind:
        raise BadRequest(f"{first.name}: pool {first.pool.name} names no flavor")


def arguments(
    site: Site, mine: PoolSite, place: Place, request: LaunchRequest
) -> dict[str, object]:
    """Of `create_server`; equal for equal requests.

    :raises BadRequest: the start script is too long.
    """
    script = bootstrap([request], _program(site))
    asked: dict[str, object] = {
        "name": servers.name_of(request.deployment, request.token, request.pool.market),
        "flavor_id": place.flavor,
        "networks": [{"uuid": network} for network in place.networks],
        "security_groups": [{"name": group} for group in place.security_groups],
        "metadata": tags(request),
        "user_data": b64encode(script.encode()).decode("ascii"),
        "config_drive": site.config_drive,
    }
    if mine.boot_volume_gib:
        asked["block_device_mapping"] = [_volume(place.image, mine.boot_volume_gib)]
    else:
        asked["image_id"] = place.image
    if request.candidate.zone:
        asked["availability_zone"] = request.candidate.zone
    if site.key_name:
        asked["key_name"] = site.key_name
    if mine.server_group:
        asked["scheduler_hints"] = {"group": mine.server_group}
    return asked


def tags(request: LaunchRequest) -> Mapping[str, str]:
    """The server's metadata from its birth on: whose it is, and what was asked for."""
    found = {
        servers.DEPLOYMENT: request.deployment,
        servers.GANG: gang_of(request.token),
        servers.NODE: request.name,
        servers.POOL: request.pool.name,
        servers.OWNER: request.owner.username,
        servers.FLAVOR: request.candidate.kind,
        servers.ZONE: request.candidate.zone,
    }
    return {key: value[:_LONGEST] for key, value in found.items()}


def _program(site: Site) -> NodeProgram:
    return NodeProgram(python=site.python, notice=NoticeSource.NONE, scratch=site.scratch)


def _volume(image: str, gib: int) -> Mapping[str, object]:
    return {
        "boot_index": 0,
        "uuid": image,
        "source_type": "image",
        "destination_type": "volume",
        "volume_size": gib,
        "delete_on_termination": True,
    }
