"""The provider's table and its pools' keys; security groups; names of servers."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from scsched.cluster.openstack import provider, servers
from scsched.cluster.openstack.groups import openings
from scsched.cluster.pools import Market
from scsched.cluster.provider import NoCapacity
from scsched.steps.errors import ConfigError
from tests.cluster.openstack.conftest import POOL
from tests.openstack.options import OPTIONS


def test_a_whole_table_is_taken() -> None:
    more = {"key_name": "lab", "config_drive": True, "boot_volume_gib": 100, "region": "box"}
    provider.check("egi", {**OPTIONS, **more}, [POOL])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"python": None}, "provider.egi.python: missing"),
        ({"python": "opt/python"}, "provider.egi.python"),
        ({"security_groups": None}, "provider.egi.security_groups: missing"),
        ({"security_groups": []}, "provider.egi.security_groups: missing"),
        ({"security_groups": [""]}, "provider.egi.security_groups: ''"),
        ({"networks": "private"}, "provider.egi.networks: missing"),
        ({"image": None}, "pool p.image: missing"),
        ({"boot_volume_gib": -1}, "provider.egi.boot_volume_gib: -1"),
        ({"boot_volume_gib": True}, "provider.egi.boot_volume_gib: True"),
        ({"config_drive": "yes"}, "provider.egi.config_drive: 'yes'"),
        ({"password": "x"}, "provider.egi.password: unknown key"),
    ],
)
def test_a_wrong_key_of_the_table_is_named(change: Mapping[str, object], word: str) -> None:
    merged = {key: value for key, value in {**OPTIONS, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=f"^{word.replace('.', '[.]')}"):
        provider.check("egi", merged, [POOL])


@pytest.mark.parametrize(
    ("options", "word"), [({"types": ()}, "pool p.types"), ({"options": {"x": 1}}, "pool p.x")]
)
def test_a_wrong_key_of_a_pool_is_named(options: Mapping[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        provider.check("egi", OPTIONS, [replace(POOL, **options)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "is_open"),
    [
        ({"direction": "ingress", "remote_ip_prefix": "0.0.0.0/0", "protocol": "tcp"}, True),
        ({"direction": "ingress", "remote_ip_prefix": "::/0"}, True),
        ({"direction": "ingress", "remote_ip_prefix": None, "remote_group_id": None}, True),
        ({"direction": "ingress", "remote_ip_prefix": "10.0.0.0/8"}, False),
        ({"direction": "ingress", "remote_group_id": "g"}, False),
        ({"direction": "egress", "remote_ip_prefix": "0.0.0.0/0"}, False),
    ],
)
def test_a_group_is_open_when_everybody_may_come_in(
    rule: Mapping[str, object], is_open: bool
) -> None:
    assert bool(openings("lab", [rule])) is is_open


class Listed:
    """A server as openstacksdk has it."""

    def __init__(self, name: str, status: str = "ACTIVE", **fields: object) -> None:
        self.id, self.name, self.status, self.metadata = "s1", name, status, fields.pop("tags", {})
        for field in ("task_state", "launched_at", "terminated_at", "created_at", "fault"):
            setattr(self, field, fields.get(field))
        self.host_id = ""


@pytest.mark.parametrize("market", list(Market))
def test_a_name_tells_whose_server_it_is_and_why_it_ended(market: Market) -> None:
    name = servers.name_of("d", "41-0", market)
    live = servers.read(Listed(name, tags={servers.DEPLOYMENT: "d"}), "d")
    assert live is not None
    assert live.seen.token == "41-0"  # noqa: S105 - a node's name
    gone = servers.read(Listed(servers.marked(live, NoCapacity("full")), "DELETED"), "d")
    assert gone is not None
    assert gone.refusal is NoCapacity
    assert gone.seen.token == "41-0"  # noqa: S105 - a node's name


def test_why_it_was_never_built_outlives_that_somebody_ends_it() -> None:
    """Else its gang would count as one that has run, and no other flavor would be tried."""
    name, ours = servers.name_of("d", "41-0", Market.ON_DEMAND), {servers.DEPLOYMENT: "d"}
    full = {"message": "No valid host was found."}
    unbuilt = servers.read(Listed(name, "ERROR", tags=ours, fault=full), "d")
    assert unbuilt is not None
    assert not unbuilt.seen.built
    refused = servers.marked(unbuilt, None)
    marked = servers.read(Listed(refused, "BUILD", tags=ours), "d")
    assert marked is not None
    assert marked.refusal is NoCapacity
    assert servers.marked(marked, None) == refused
    gone = servers.read(Listed(refused, "DELETED"), "d")
    assert gone is not None
    assert servers.sights([gone]) == []


def test_a_server_that_broke_in_its_life_was_built() -> None:
    name, ours = servers.name_of("d", "41-0", Market.ON_DEMAND), {servers.DEPLOYMENT: "d"}
    broken = servers.read(Listed(name, "ERROR", tags=ours, launched_at="2026-11-01T10:00:00"), "d")
    assert broken is not None
    assert broken.seen.built
    assert servers.marked(broken, None) == f"{name}.error"


def test_servers_of_others_are_nobody_s() -> None:
    name = servers.name_of("d", "41-0", Market.SPOT)
    assert servers.read(Listed("web-1", tags={servers.DEPLOYMENT: "d"}), "d") is None
    assert servers.read(Listed(name, tags={servers.DEPLOYMENT: "d"}), "other") is None
    assert servers.read(Listed(name, tags={}), "d") is None
