"""Which rules of a security group let the whole world in."""

from collections.abc import Iterable, Mapping

from scsched.cluster.world import is_world

Rule = Mapping[str, object]


def openings(name: str, rules: Iterable[Rule]) -> list[str]:
    """One phrase per rule, from Neutron's `security_group_rules`; empty: the group is closed."""
    return [
        f"security group {name} is open to the world ({_what(rule)})"
        for rule in rules
        if rule.get("direction") == "ingress" and _is_open(rule)
    ]


def _is_open(rule: Rule) -> bool:
    """A rule without any source is for everybody.

    https://docs.openstack.org/api-ref/network/v2/#security-group-rules-security-group-rules
    """
    if rule.get("remote_group_id") or rule.get("remote_address_group_id"):
        return False
    prefix = rule.get("remote_ip_prefix")
    return not prefix or is_world(str(prefix))


def _what(rule: Rule) -> str:
    first, last = rule.get("port_range_min"), rule.get("port_range_max")
    ports = "" if first is None else f" {first}" if last in (first, None) else f" {first}-{last}"
    return f"{rule.get('protocol') or 'everything'}{ports}, {rule.get('ethertype')}"
