"""An examination of a project on OpenStack: what our pools name exists, is closed, and has room."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

from scsched.cluster.health import Finding
from scsched.cluster.openstack import site as sites
from scsched.cluster.openstack.clients import Client
from scsched.cluster.openstack.errors import translated
from scsched.cluster.openstack.groups import openings
from scsched.cluster.openstack.site import Site
from scsched.cluster.pools import Pool
from scsched.cluster.provider import ProviderError

_CLOCK_S = 60.0
"""Nobody's leases and certificates mind less."""
_MIB = 1024
_EXISTENCE_HINT = "see what there is with: openstack {} list"


def examine(site: Site, pools: Sequence[Pool], *, now: datetime) -> Iterator[Finding]:
    """Asks the cloud, changes nothing. Without credentials nothing else can be told."""
    client = Client(site)
    credentials = _told("credentials", partial(_credentials, client))
    yield credentials
    if not credentials.ok:
        return
    yield _told("clock", lambda: _clock(client, now))
    wanted = [sites.for_pool(site, pool) for pool in pools]
    yield from _exist(client, "image", (one.image for one in wanted))
    yield from _exist(client, "network", (name for one in wanted for name in one.networks))
    yield from _exist(client, "flavor", (kind for pool in pools for kind in pool.types))
    yield from _exist(client, "key pair", [site.key_name] if site.key_name else [])
    for group in _once(name for one in wanted for name in one.security_groups):
        yield _told("security group", partial(_closed, client, group))
    for pool in pools:
        yield _told("zones", partial(_zones, client, pool))
        yield _told("quota", partial(_quota, client, pool))


def _credentials(client: Client) -> Finding:
    with translated("sign in"):
        cloud = client.connection
        project = cloud.session.get_project_id()
    where = f"{cloud.config.name}, region {cloud.config.get_region_name() or 'default'}"
    return Finding("credentials", True, f"project {project} of {where}")


def _clock(client: Client, now: datetime) -> Finding:
    with translated("look at the cloud's clock"):
        answer = client.connection.session.get(
            client.connection.config.get_auth_args()["auth_url"], authenticated=False
        )
    theirs = parsedate_to_datetime(answer.headers["Date"]).astimezone(UTC)
    off_s = abs((theirs - now).total_seconds())
    return Finding(
        "clock",
        off_s <= _CLOCK_S,
        f"{off_s:.0f} s from the cloud's",
        "" if off_s <= _CLOCK_S else "start a time service on this machine",
    )


def _exist(client: Client, kind: str, names: Iterable[str]) -> Iterator[Finding]:
    hint = _EXISTENCE_HINT.format(kind.replace(" ", ""))
    for name in _once(names):
        yield _told(kind, partial(_there, client, kind, name), hint)


def _there(client: Client, kind: str, name: str) -> Finding:
    return Finding(kind, True, f"{name} is {client.id_of(kind, name)}")


def _closed(client: Client, group: str) -> Finding:
    wide = openings(group, client.rules(group))
    if wide:
        return Finding(
            "security group", False, "; ".join(wide), "nothing is launched into it; remove the rule"
        )
    return Finding("security group", True, f"{group} is closed to the world")


def _zones(client: Client, pool: Pool) -> Finding:
    with translated("look at the zones"):
        zones = {str(one.name) for one in client.connection.compute.availability_zones()}
    missing = sorted(set(pool.zones) - zones)
    if missing:
        return Finding(
            "zones",
            False,
            f"pool {pool.name}: no zone {', '.join(missing)}",
            f"there is {', '.join(sorted(zones)) or 'none'}",
        )
    return Finding("zones", True, f"pool {pool.name}: {', '.join(pool.zones) or 'any'}")


def _quota(client: Client, pool: Pool) -> Finding:
    """Whether the project may have `max_nodes` of the pool's first flavor, as it is used now."""
    with translated("look at the quota"):
        compute = client.connection.compute
        limits = compute.get_limits().absolute
        flavor = compute.find_flavor(pool.types[0], ignore_missing=False)
    room = {
        "instances": _room(limits.instances, limits.instances_used, 1),
        "cores": _room(limits.total_cores, limits.total_cores_used, flavor.vcpus),
        "memory": _room(limits.total_ram, limits.total_ram_used, flavor.ram),
    }
    least = min(room, key=lambda word: room[word])
    enough = room[least] >= pool.max_nodes
    return Finding(
        "quota",
        enough,
        f"pool {pool.name}: room for {min(room[least], 10_000)} {pool.types[0]}; max_nodes is "
        f"{pool.max_nodes}"
        f" ({least}; {flavor.vcpus} cores and {flavor.ram / _MIB:g} GiB each)",
        "" if enough else "ask the site for more, or lower max_nodes",
    )


def _room(limit: int | None, used: int | None, each: int | None) -> int:
    """How many more; a limit of -1 is none."""
    if limit is None or limit < 0 or not each:
        return 1_000_000
    return max(0, limit - (used or 0)) // each


def _told(name: str, look: Callable[[], Finding], hint: str = "") -> Finding:
    try:
        return look()
    except ProviderError as exc:
        return Finding(name, False, str(exc), exc.hint or hint)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
