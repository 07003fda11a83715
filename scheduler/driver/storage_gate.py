"""Keeps a run from nodes that do not see its storage, before it begins and when it has failed."""

import asyncio
import logging
import time
from collections.abc import Mapping

from scsched.cluster.dask_cluster import DaskCluster, NodeLost
from scsched.scheduler.driver.storage import ProjectStorage
from scsched.scheduler.protocol import RunOrder

log = logging.getLogger("scsched.driver")
POLL_S = 5.0
HELD_S = 300.0
"""So long nodes wait, which are paid for: a file server is back from a restart, with the 90 s in
which it lets NFS clients take back their locks, well before."""


class StorageGate:
    """Sends away the nodes that cannot do with it."""

    def __init__(
        self, order: RunOrder, cluster: DaskCluster, storage: ProjectStorage | None
    ) -> None:
        """:param storage: None: all nodes are of this machine, and nothing is asked."""
        self._run = order.run
        self._names = [node.name for node in order.nodes]
        self._cluster = cluster
        self._storage = storage

    async def wait(self) -> None:
        """While the storage takes no work, for some minutes.

        :raises NodeLost: of nodes that do not see it, or when the minutes are over: the step then
            waits for its storage without nodes, since the driver's beats tell the broker of it.
        """
        give_up_at = time.monotonic() + HELD_S
        while self._storage is not None:
            verdict = await self._storage.check(self._names)
            if verdict.ok:
                return
            if verdict.bad:
                problems = _told(verdict.bad)
                log.warning("run %d: %s", self._run, problems)
                await self._cluster.dismiss(list(verdict.bad))
                raise NodeLost(problems)
            if time.monotonic() > give_up_at:
                raise NodeLost(f"waited {HELD_S / 60:.0f} min: {verdict.held}")
            log.warning("run %d waits: %s", self._run, verdict.held)
            await asyncio.sleep(POLL_S)

    async def blame(self, detail: str) -> None:
        """After the run has failed with these words.

        :raises NodeLost: the storage is gone where it ran; elsewhere it may do well.
        """
        if self._storage is None:
            return
        verdict = await self._storage.blame(self._names)
        if not verdict.ok:
            problems = verdict.held or _told(verdict.bad)
            log.warning("run %d failed: %s", self._run, problems)
            await self._cluster.dismiss(list(verdict.bad))
            raise NodeLost(f"{detail}\n{problems}")


def _told(bad: Mapping[str, str]) -> str:
    return "; ".join(bad.values())
