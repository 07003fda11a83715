"""Which rules of a security group let the whole world in."""

from collections.abc import Mapping, Sequence
from typing import Any

from scsched.cluster.world import is_world


def openings(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """One phrase per group and rule, from DescribeSecurityGroups; empty: all are closed."""
    return [
        f"security group {group['GroupId']} is open to the world ({_ports(rule)})"
        for group in groups
        for rule in group.get("IpPermissions", ())
        if any(map(is_world, _sources(rule)))
    ]


def _sources(rule: Mapping[str, Any]) -> set[str]:
    ranges = [one.get("CidrIp", "") for one in rule.get("IpRanges", ())]
    more = (one.get("CidrIpv6", "") for one in rule.get("Ipv6Ranges", ()))
    return {source for source in (*ranges, *more) if source}


def _ports(rule: Mapping[str, Any]) -> str:
    protocol, first, last = rule.get("IpProtocol", "-1"), rule.get("FromPort"), rule.get("ToPort")
    if protocol == "-1":
        return "everything"
    return f"{protocol} {first}" if first == last else f"{protocol} {first}-{last}"
