"""The nodes of a workflow as its driver cares for them: keys, leases, and gangs over machines.

A node of this machine needs none of it. One of another machine fetches its keys at the desk, is
kept alive by its lease, and lets in the lead of its gang with that gang's key.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scsched.cluster import agent, gang, lease
from scsched.cluster.dask_cluster import DaskCluster, NodeLost
from scsched.cluster.enrol import Desk
from scsched.cluster.gang import Gang
from scsched.scheduler.protocol import NodeOrder

log = logging.getLogger("scsched.driver")
RENEW_S = 30.0
"""Of a lease of half an hour: many renewals may fail before a machine ends itself."""
CALL_S = 20.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """A gang that its lead can reach, and where the lead may write what nobody else reads."""

    gang: Gang
    scratch: str
    """Empty: where the driver writes such things, since the lead is on its machine."""


class Members:
    """Belongs to the event loop's thread."""

    def __init__(self, cluster: DaskCluster, desk: Desk | None) -> None:
        self._cluster = cluster
        self._desk = desk
        self._renewed_at = 0.0
        self._renewing: asyncio.Task[None] | None = None

    def expect(self, nodes: Iterable[NodeOrder]) -> None:
        """Let these nodes fetch their keys, each once, and nobody else."""
        if self._desk is not None:
            self._desk.expect(
                {node.name: node.ticket for node in nodes if node.ticket and not node.gone}
            )

    def renew_leases(self) -> None:
        """The broker has answered, so its nodes may live on. Does not wait for them."""
        now = time.monotonic()
        busy = self._renewing is not None and not self._renewing.done()
        if self._desk is None or busy or now - self._renewed_at < RENEW_S:
            return
        self._renewed_at = now
        self._renewing = asyncio.ensure_future(self._renew())

    async def _renew(self) -> None:
        try:
            answers = await self._cluster.run_on(
                list(self._cluster.nodes_up()), lease.renew, timeout_s=CALL_S
            )
        except (TimeoutError, OSError) as exc:  # the next renewal is soon
            log.warning("leases were not renewed: %s", exc)
            return
        for name, answer in answers.items():
            if isinstance(answer, BaseException):
                log.warning("node %s: its lease was not renewed: %s", name, answer)

    async def gather(self, names: Sequence[str], ranks: int, run_token: str) -> Gathered:
        """Spread `ranks` over the nodes; over machines, make the gang's key and have it admitted.

        :raises NodeLost: one of them does not answer.
        """
        told = await self._ask_all(names, agent.where)
        spread = gang.spread(names, ranks)
        addresses = {name: str(one["address"]) for name, one in told.items() if one["address"]}
        scratch = str(told[names[0]].get("scratch", ""))
        if len(spread.members) < 2 or len(addresses) < len(names):
            return Gathered(spread, scratch)
        key = gang.make_key()
        await self._ask_all(names, agent.admit, run_token, key)
        return Gathered(spread.reached(addresses, key), scratch)

    async def part(self, names: Sequence[str], run_token: str) -> None:
        """The gang is no more: what of it still runs ends, and its key opens nothing."""
        try:
            await self._cluster.run_on(names, agent.forget, run_token, timeout_s=CALL_S)
        except (TimeoutError, OSError) as exc:
            log.warning("the gang of %s was not told to part: %s", run_token, exc)

    async def _ask_all(
        self, names: Sequence[str], function: Callable[..., Any], *args: object
    ) -> dict[str, Any]:
        try:
            answers = await self._cluster.run_on(names, function, *args, timeout_s=CALL_S)
        except (TimeoutError, OSError) as exc:
            raise NodeLost(f"a node of {', '.join(names)} does not answer: {exc}") from exc
        for name in names:
            if isinstance(answers.get(name), BaseException) or name not in answers:
                raise NodeLost(f"node {name} does not answer: {answers.get(name, 'it is gone')}")
        return answers
