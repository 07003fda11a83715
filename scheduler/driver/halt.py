"""No process of an attempt survives it on any node of its gang."""

import logging
from pathlib import Path

from scsched.cluster.dask_cluster import DaskCluster
from scsched.scheduler.driver.gangcheck import preflight_token
from scsched.scheduler.driver.members import Members
from scsched.scheduler.protocol import RunOrder
from scsched.steps.spec import Resume

log = logging.getLogger("scsched.driver")
STOP_TRIES = 3


class Halt:
    """Ends the attempt of one run, and its preflight; may be repeated."""

    def __init__(self, order: RunOrder, cluster: DaskCluster, members: Members) -> None:
        self._order = order
        self._cluster = cluster
        self._members = members

    @property
    def is_dear(self) -> bool:
        """RELION's iterations under MPI take minutes to days: worth two seconds of looking."""
        return self._order.ranks > 1 and self._order.resume == Resume.ITERATION

    async def everywhere(self, grace_s: float, job_dir: Path | None) -> None:
        """On all nodes that are left; returns when it is done, or they do not answer."""
        tokens = [self._order.token, *([preflight_token(self._order.token)] * self.is_dear)]
        for token in tokens:
            await self._on_nodes(token, grace_s, job_dir)
        await self._members.part(self._names, self._order.token)

    @property
    def _names(self) -> list[str]:
        return [node.name for node in self._order.nodes]

    async def _on_nodes(self, token: str, grace_s: float, job_dir: Path | None) -> None:
        """A node that hangs is asked again, until it answers or Dask has given it up."""
        for _ in range(STOP_TRIES):
            try:
                await self._cluster.stop(self._names, token, grace_s=grace_s, job_dir=job_dir)
            except OSError as exc:  # TimeoutError is one
                log.warning("run %d: a node does not answer to stop: %r", self._order.run, exc)
            else:
                return
