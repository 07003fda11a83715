"""Nodes on an OpenStack cloud.

    launch ─────► a server a node, named by its token, all of a gang or none   by `workers`
    list ───────► our project's servers, and those deleted in the last hour
    terminate ──► the servers that are listed for these tokens
    notices, prices: OpenStack has none; a server that was taken back is seen to be gone

A token is in the server's name, and its metadata say at birth whose it is, so nothing has to be
remembered and nothing is found by address. Nova knows no client token: before a server is made, it
is looked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

from scsched.cluster import image
from scsched.cluster.health import Finding
from scsched.cluster.openstack import servers
from scsched.cluster.openstack import site as sites
from scsched.cluster.openstack.clients import Client
from scsched.cluster.openstack.errors import translated
from scsched.cluster.openstack.launching import Launcher
from scsched.cluster.openstack.servers import Server
from scsched.cluster.openstack.site import Site
from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    Launched,
    LaunchRequest,
    Notice,
    Price,
    Refused,
    Seen,
    Traits,
    by_gang,
    gang_of,
    in_order,
)

for _library in ("openstack", "dask_cloudprovider"):
    # Imported where they are used, since they take seconds; looked for here, where it is reported.
    if find_spec(_library) is None:
        raise ModuleNotFoundError(f"No module named {_library!r}", name=_library)

_ENDED_FOR = timedelta(hours=1)
_AT_ONCE = 8
"""Deletions under way at a time."""


class OpenStackProvider:
    """Servers of one deployment in one project and region; may be used from any thread."""

    traits = Traits(remote=True, listing_lag_s=60.0, stranger_grace_s=300.0)

    def __init__(self, site: Site, deployment: str) -> None:
        self.site = site
        self.client = Client(site)
        self._deployment = deployment
        self._launcher = Launcher(site, deployment, self.client, self._gang)

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        """See `Provider.launch`."""
        gangs = by_gang(requests)
        return in_order(
            requests, (answer for gang in gangs for answer in self._launcher.launch(gang))
        )

    def list(self) -> tuple[Seen, ...]:
        """See `Provider.list`; two calls, paged."""
        return tuple(servers.sights(self._listed("list of servers")))

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`."""
        if not tokens:
            return
        from scsched.cluster.openstack.workers import delete

        ending = servers.to_end(self._listed("terminate"), tokens)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ends = [pool.submit(delete, self.client, one) for one in ending]
        for end in ends:
            end.result()

    def notices(self) -> tuple[Notice, ...]:
        """See `Provider.notices`: OpenStack gives none."""
        return ()

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        """See `Provider.prices`: OpenStack knows none; the pools' own hold."""
        return ()

    def _gang(self, token: str) -> Sequence[Server]:
        return self._listed(f"look for gang {gang_of(token)}", gang_of(token))

    def _listed(self, doing: str, gang: str | None = None) -> Sequence[Server]:
        """Servers of our deployment: what is there, and what was deleted of late.

        What was deleted between the two calls is in both; the later one is right.
        """
        names = servers.names_like(self._deployment, gang)
        since = (datetime.now(UTC) - _ENDED_FOR).strftime("%Y-%m-%dT%H:%M:%SZ")
        with translated(doing):
            compute = self.client.connection.compute
            there = list(compute.servers(name=names))
            changed = list(compute.servers(name=names, changes_since=since))
        found = {str(one.id): one for one in (*there, *changed)}
        read = (servers.read(one, self._deployment) for one in found.values())
        return [one for one in read if one is not None]


def check(name: str, options: Mapping[str, object], pools: Sequence[Pool]) -> None:
    """:raises ConfigError: names the table and key that is wrong. Asks nobody."""
    site = sites.read(name, options)
    for pool in pools:
        sites.check_pool(site, pool)


def from_config(
    name: str, options: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> OpenStackProvider:
    """:raises ConfigError: as `check`."""
    check(name, options, pools)
    return OpenStackProvider(sites.read(name, options), deployment)


def image_recipe(name: str, options: Mapping[str, object], *, scipion_python: str) -> str:
    """A shell script that makes a fresh Debian 12 server ready to be made an image of."""
    site = sites.read(name, options)
    return image.recipe(site.python, scipion_python=scipion_python, keep_sshd=bool(site.key_name))


def examine(
    name: str, options: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterable[Finding]:
    """What the project has and lacks for these pools; asks the cloud, changes nothing."""
    from scsched.cluster.openstack import health

    return health.examine(sites.read(name, options), pools, now=datetime.now(UTC))
