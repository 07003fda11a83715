"""The `[provider.NAME]` table of kind openstack, and what its pools may add to it.

    [provider.egi]
    kind = "openstack"
    cloud = "egi"                      # in clouds.yaml; without it OS_CLOUD and OS_* hold
    image = "scsched-node"
    networks = ["private"]
    security_groups = ["scsched"]
    python = "/opt/scsched/bin/python"

Credentials come as openstacksdk finds them, never from here. Images, networks, groups and flavors
are names or ids.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from scsched.cluster.pools import Pool
from scsched.cluster.table import Table

_WORD = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_PATH = re.compile(r"/[\x21-\x7e]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where and as what servers are launched."""

    python: str
    """Of scsched's environment in the image."""
    networks: tuple[str, ...]
    security_groups: tuple[str, ...]
    """The site's own; scsched makes none."""
    cloud: str = ""
    """In clouds.yaml; empty: OS_CLOUD, or OS_AUTH_URL and the like."""
    region: str = ""
    image: str = ""
    """For pools that name none."""
    key_name: str = ""
    scratch: str = "/var/tmp"  # noqa: S108 - a directory on the node
    boot_volume_gib: int = 0
    """Boot from a new volume of this size, deleted with the server; 0: from the flavor's disk."""
    server_group: str = ""
    """Id of a server group, for its affinity."""
    config_drive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSite:
    """What holds for one pool: its own options before the site's."""

    image: str
    networks: tuple[str, ...]
    security_groups: tuple[str, ...]
    boot_volume_gib: int
    server_group: str


class _Table(Table):
    """With the forms that this kind's keys have."""

    def text(self, key: str, default: str | None = None, form: re.Pattern[str] = _WORD) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise self.refuse(key, "missing")
        if default is not None and value == default:
            return default
        if not isinstance(value, str) or not form.fullmatch(value):
            raise self.refuse(key, f"{value!r}; write {'a path' if form is _PATH else 'a name'}")
        return value

    def names(self, key: str, hint: str, default: Sequence[str] = ()) -> tuple[str, ...]:
        value = self.values.get(key, default)
        if not isinstance(value, list | tuple) or not value:
            raise self.refuse(key, "missing; write a list of names or ids", hint)
        for name in value:
            if not isinstance(name, str) or not _WORD.fullmatch(name):
                raise self.refuse(key, f"{name!r} is no name or id")
        return tuple(value)


_GROUPS_HINT = "make a group that lets in its own members and the submission host, nobody else"
_NETWORKS_HINT = "name the network from which nodes reach each other and the submission host"


def read(name: str, options: Mapping[str, object]) -> Site:
    """:raises ConfigError: names the key that is wrong."""
    table = _Table(f"provider.{name}", options)
    table.only([found.name for found in fields(Site)] + ["kind"])
    return Site(
        python=table.text("python", form=_PATH),
        networks=table.names("networks", _NETWORKS_HINT),
        security_groups=table.names("security_groups", _GROUPS_HINT),
        cloud=table.text("cloud", ""),
        region=table.text("region", ""),
        image=table.text("image", ""),
        key_name=table.text("key_name", ""),
        scratch=table.text("scratch", "/var/tmp", _PATH),  # noqa: S108
        boot_volume_gib=table.gib("boot_volume_gib", 0),
        server_group=table.text("server_group", ""),
        config_drive=table.yes("config_drive"),
    )


def for_pool(site: Site, pool: Pool) -> PoolSite:
    """:raises ConfigError: names the pool's key that is wrong."""
    table = _Table(f"pool {pool.name}", pool.options)
    table.only([found.name for found in fields(PoolSite)])
    image = table.text("image", site.image)
    if not image:
        raise table.refuse("image", "missing here and in the provider's table")
    return PoolSite(
        image=image,
        networks=table.names("networks", _NETWORKS_HINT, site.networks),
        security_groups=table.names("security_groups", _GROUPS_HINT, site.security_groups),
        boot_volume_gib=table.gib("boot_volume_gib", site.boot_volume_gib),
        server_group=table.text("server_group", site.server_group),
    )


def check_pool(site: Site, pool: Pool) -> None:
    """:raises ConfigError: the pool cannot be launched at this site; names its key."""
    for_pool(site, pool)
    table = _Table(f"pool {pool.name}", {"types": pool.types})
    table.names("types", "name flavors, the preferred first; see: openstack flavor list")
