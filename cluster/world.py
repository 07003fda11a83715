"""Which networks are the whole world, as far as a security group is concerned."""

from ipaddress import ip_network

_NARROWEST = 8
"""Bits of the widest network that one organisation has: 10.0.0.0/8. 0.0.0.0/1 and 128.0.0.0/1 are
together what 0.0.0.0/0 is, and 2000::/3 is all of today's IPv6."""


def is_world(network: str) -> bool:
    """Whether `a.b.c.d/n`, or the same of IPv6, lets in more than anybody can answer for."""
    found = ip_network(network, strict=False)
    return not found.prefixlen or (found.prefixlen < _NARROWEST and not found.is_private)
