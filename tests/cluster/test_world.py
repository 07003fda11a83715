"""Which networks count as the whole world."""

import pytest

from scsched.cluster.ec2 import groups
from scsched.cluster.openstack import groups as openstack_groups
from scsched.cluster.world import is_world

WIDE = ("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/2", "::/0", "2000::/3", "8000::/1")
NARROW = (
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.1.1/32",
    "130.206.0.0/16",
    "fc00::/7",
    "fe80::/10",
)


@pytest.mark.parametrize("network", WIDE)
def test_halves_of_the_world_are_the_world(network: str) -> None:
    assert is_world(network)
    six = ":" in network
    ranges = {"Ipv6Ranges": [{"CidrIpv6": network}]} if six else {"IpRanges": [{"CidrIp": network}]}
    group = {"GroupId": "sg-1", "IpPermissions": [{"IpProtocol": "-1", **ranges}]}
    assert groups.openings([group]) == ["security group sg-1 is open to the world (everything)"]
    rule = {"direction": "ingress", "remote_ip_prefix": network}
    assert openstack_groups.openings("lab", [rule])


@pytest.mark.parametrize("network", NARROW)
def test_a_network_that_somebody_has_is_not(network: str) -> None:
    assert not is_world(network)
