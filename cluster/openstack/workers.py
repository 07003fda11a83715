"""One worker machine, on dask-cloudprovider's OpenStack worker.

Of its OpenStackWorker we keep what a worker on OpenStack is and its way from `start` to `close`.
Its own calls knew one kind of credentials, blocked the event loop, waited for ever for a server in
error, left no metadata and made a new connection each time; its cluster, a SpecCluster, is not
used.

Importing this takes seconds: do it where a machine is made.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from dask_cloudprovider.openstack.instances import OpenStackWorker

from scsched.cluster.openstack import servers
from scsched.cluster.openstack.clients import Client
from scsched.cluster.openstack.errors import of_fault, status_of, translated
from scsched.cluster.openstack.servers import Server
from scsched.cluster.provider import InProgress, LaunchRequest, ProviderError, Unreachable

_log = logging.getLogger(__name__)
BUILT_WITHIN_S = 6.0
"""Nova finds a host in a second or two. A server that a host has may go on building when we leave;
one without is asked for again at the next call."""
_POLL_S = 0.25


class NodeWorker(OpenStackWorker):  # type: ignore[misc]
    """One server, new or found; `create_vm` returns when it runs, or a host has had it for long."""

    def __init__(
        self,
        client: Client,
        request: LaunchRequest,
        asked: Mapping[str, Any],
        found: Server | None,
    ) -> None:
        super().__init__(
            request.join.scheduler_address,
            cluster=SimpleNamespace(
                uuid=request.deployment,
                protocol="tls",
                scheduler_internal_ip="",
                scheduler_port=0,
                call_async=asyncio.to_thread,
                _log=_silent,
            ),
            config={"create_floating_ip": False},
            size=request.candidate.kind,
        )
        self.name = request.token
        self._client = client
        self._deployment = request.deployment
        self._asked = asked
        self.instance = found

    async def create_vm(self) -> tuple[None, None]:
        """Made unless found; an error ends the wait, and so does time.

        Nobody asks the node's address of us: its worker dials the scheduler.

        :raises ProviderError: no server; `Unreachable` and `InProgress`: it may come.
        """
        await self.call_async(self._make)
        return None, None

    async def destroy_vm(self) -> None:
        """Its server is deleted; one that is gone already counts as deleted."""
        if self.instance is not None:
            await self.call_async(delete, self._client, self.instance)

    def _make(self) -> None:
        if self.instance is None:
            with translated(f"launch of {self.name}"):
                made = self._client.connection.compute.create_server(**self._asked)
            try:
                self.instance = self._look(str(made.id))
            except ProviderError as exc:  # whatever it says is not about the server, which exists
                raise Unreachable(str(exc)) from exc
        end = time.monotonic() + BUILT_WITHIN_S
        while not self.instance.ran:
            if not self.instance.is_up:
                raise of_fault(self.instance.fault, f"launch of {self.name}")
            if time.monotonic() > end:
                break
            time.sleep(_POLL_S)
            self.instance = self._look(self.instance.server_id)
        if not self.instance.is_placed:
            raise InProgress(f"{self.name}: the cloud still looks for a host")

    def _look(self, server_id: str) -> Server:
        try:
            with translated(f"look at {self.name}"):
                found = self._client.connection.compute.get_server(server_id)
        except ProviderError as exc:
            if status_of(exc.__cause__) == 404:  # not to be seen yet, or not any more
                raise Unreachable(str(exc)) from exc
            raise
        server = servers.read(found, self._deployment)
        if server is None:
            raise Unreachable(f"{self.name}: server {server_id} has lost its metadata")
        return server


async def start(workers: Sequence[NodeWorker]) -> list[ProviderError | None]:
    """Start all at once; each one's error, None where a host has it."""
    ends = await asyncio.gather(*(one.start() for one in workers), return_exceptions=True)
    return [_error(end) for end in ends]


def delete(client: Client, server: Server, refused: ProviderError | None = None) -> None:
    """Delete one server, after its name says why; gone already is done.

    :param refused: with this its gang is refused.
    :raises ProviderError: it may still run.
    """
    compute = client.connection.compute
    name = servers.marked(server, refused)
    if name != server.name:
        try:
            with translated(f"rename {server.name}"):
                compute.update_server(server.server_id, name=name)
        except ProviderError as exc:  # then nobody will know why; it must go all the same
            _log.warning("server %s was not renamed %s: %s", server.server_id, name, exc)
    try:
        with translated(f"delete {server.name}"):
            soft = server.status == "SOFT_DELETED"
            compute.delete_server(server.server_id, ignore_missing=False, force=soft)
    except ProviderError as exc:
        if status_of(exc.__cause__) != 404:
            raise


def _error(end: BaseException | None) -> ProviderError | None:
    if end is None or isinstance(end, ProviderError):
        return end
    raise end


def _silent(*_: object) -> None:
    """Its cluster's log; ours is the ledger."""
