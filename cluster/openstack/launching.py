"""One gang's launch: found or made, all or none, and what that means for each token.

look for the gang ─► make what is missing, all at once ─► until hosts have them
    │ one had run and ended: nothing new              ├─ all: Launched
    └ one could not be built ──────┐                  ├─ not known yet: all are asked again
                                   └──────────────────┴─ one cannot: the others are deleted,
                                                         and then it is said
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from scsched.cluster.openstack import request as requests_
from scsched.cluster.openstack import servers
from scsched.cluster.openstack import site as sites
from scsched.cluster.openstack.clients import Client
from scsched.cluster.openstack.errors import of_fault
from scsched.cluster.openstack.groups import openings
from scsched.cluster.openstack.request import Place
from scsched.cluster.openstack.servers import Server
from scsched.cluster.openstack.site import PoolSite, Site
from scsched.cluster.provider import (
    BadRequest,
    InProgress,
    Launched,
    LaunchRequest,
    ProviderError,
    Refused,
    Throttled,
    Unreachable,
)

Answers = Sequence[Launched | Refused]
Look = Callable[[str], Sequence[Server]]
"""What Nova lists of the gang of a token, ended ones too."""
_CLOSED_FOR_S = 600.0
_OPEN_END = (Unreachable, InProgress)


class Launcher:
    """Remembers of the cloud only what names mean, and that the groups were closed."""

    def __init__(self, site: Site, deployment: str, client: Client, look: Look) -> None:
        self._site = site
        self._deployment = deployment
        self._client = client
        self._look = look
        self._lock = threading.Lock()
        self._closed_until: dict[tuple[str, ...], float] = {}

    def launch(self, asked: Sequence[LaunchRequest]) -> Answers:
        """Of one gang."""
        try:
            requests_.check(asked, self._deployment)
            found = servers.by_token(self._look(asked[0].token))
        except ProviderError as exc:
            return [Refused(one.token, exc) for one in asked]
        try:
            return self._with(asked, {token: same[0] for token, same in found.items()})
        except ProviderError as exc:
            return [Refused(one.token, exc) for one in asked]

    def _with(self, asked: Sequence[LaunchRequest], found: dict[str, Server]) -> Answers:
        mine = [found[one.token] for one in asked if one.token in found]
        failed = next((one for one in mine if one.was_not_built), None)
        if failed is not None:
            raise self._undone(mine, _why(failed))
        if any(not one.is_up for one in mine):
            return [_by_sight(one, found.get(one.token)) for one in asked]
        return self._made(asked, found)

    def _made(self, asked: Sequence[LaunchRequest], found: dict[str, Server]) -> Answers:
        """All that are missing, once hosts have them."""
        # dask-cloudprovider takes seconds to import.
        from scsched.cluster.openstack.workers import NodeWorker, start

        missing = any(one.token not in found for one in asked)
        pool = sites.for_pool(self._site, asked[0].pool)
        place = self._place(pool, asked[0]) if missing else None
        workers = [
            NodeWorker(
                self._client,
                one,
                requests_.arguments(self._site, pool, place, one) if place else {},
                found.get(one.token),
            )
            for one in asked
        ]
        errors = [error for error in asyncio.run(start(workers)) if error is not None]
        made = [one.instance for one in workers if one.instance is not None]
        if not errors:
            return [_launched(one) for one in made]
        raise _still_open(errors, made) or self._undone(made, errors[0])

    def _undone(self, made: Sequence[Server], error: ProviderError) -> ProviderError:
        """`error`, once nothing of the gang is left; else that this is not known."""
        from scsched.cluster.openstack.workers import delete

        for one in made:
            try:
                if not one.is_gone:
                    delete(self._client, one, refused=error)
            except ProviderError as exc:
                return Unreachable(f"{error}; and {exc}")
        return error

    def _place(self, pool: PoolSite, first: LaunchRequest) -> Place:
        """:raises ProviderError: something that is named does not exist, or a group is open."""
        find = self._client.id_of
        with self._lock:
            self._check_groups(pool.security_groups)
        return Place(
            image=find("image", pool.image),
            flavor=find("flavor", first.candidate.kind),
            networks=tuple(find("network", name) for name in pool.networks),
            security_groups=tuple(find("security group", name) for name in pool.security_groups),
        )

    def _check_groups(self, groups: tuple[str, ...]) -> None:
        if self._closed_until.get(groups, 0.0) > time.monotonic():
            return
        wide = [word for group in groups for word in openings(group, self._client.rules(group))]
        if wide:
            raise BadRequest(
                f"{wide[0]}: nothing is launched into a group that the world can reach",
                hint="let in the submission host and the group itself only",
            )
        self._closed_until[groups] = time.monotonic() + _CLOSED_FOR_S


def _still_open(errors: Sequence[ProviderError], made: Sequence[Server]) -> ProviderError | None:
    """The error after which the same tokens are asked for again; None: one was final."""
    for error in errors:
        if isinstance(error, Throttled) and made:
            return Unreachable(f"{error}; a part of the gang is there")
        if isinstance(error, (Throttled, *_OPEN_END)):
            return error
    return None


def _why(server: Server) -> ProviderError:
    """Why it was not built; of one that is gone already its name tells."""
    doing = f"launch of {server.seen.token}"
    if server.refusal is not None:
        return server.refusal(f"{doing}: this gang was refused before")
    return of_fault(server.fault, doing)


def _by_sight(asked: LaunchRequest, server: Server | None) -> Launched | Refused:
    if server is not None and server.is_up:
        return _launched(server)
    said = "has ended" if server is not None else "is of a gang that has ended"
    return Refused(
        asked.token, BadRequest(f"{asked.name}: the node of {asked.token} {said}; use a new token")
    )


def _launched(server: Server) -> Launched:
    return Launched(server.seen.token, server.server_id, server.seen.launched_at)
