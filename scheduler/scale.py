"""Bring nodes up and let them go: launch what was intended, end what nobody wants."""

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta

from scsched.cluster.provider import (
    BadRequest,
    Join,
    Launched,
    LaunchRequest,
    Owner,
    Refused,
    Throttled,
    Unreachable,
)
from scsched.cluster.provider import NodeState as Existence
from scsched.db import nodes as node_rows
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Census, Fleet

log = logging.getLogger("scsched.scale")

_USELESS = (NodeState.REQUESTED, NodeState.DRAINING)
"""Of nodes without a run: nothing will start on them."""

Joining = Callable[[NodeRec], tuple[Owner, Join] | None]
"""Whom a node belongs to and which Dask scheduler it joins; None until the driver is there."""


class Scale:
    """Launches REQUESTED nodes, ends idle ones and strangers, repeats terminations until they
    are seen gone."""

    def __init__(self, store: Store, fleet: Fleet, deployment: str, joining: Joining) -> None:
        self._store = store
        self._fleet = fleet
        self._deployment = deployment
        self._joining = joining

    def tick(
        self,
        now: datetime,
        census: Census,
        waiting: Collection[tuple[str, int]],
        wanted: Collection[int],
    ) -> None:
        """One look.

        :param waiting: (pool, workflow) pairs with a step that waits for room.
        :param wanted: workflows that have something to run.
        """
        with self._store.read() as session:
            live = node_rows.live(session)
        self._launch([node for node in live if node.state is NodeState.REQUESTED], now)
        self._release(live, waiting, wanted, now)
        self._terminate([node.token for node in live if _to_end(node, census)], census)
        self._terminate(list(_strangers(live, census)), census)

    def _launch(self, requested: Iterable[NodeRec], now: datetime) -> None:
        requests = {
            node.token: (node, request)
            for node in requested
            if node.run_id is not None and (request := self._request(node))
        }
        if not requests:
            return
        launched: list[tuple[int, str]] = []
        for answer in self._fleet.launch(request for _, request in requests.values()):
            node = requests[answer.token][0]
            if isinstance(answer, Launched):
                launched.append((node.id, answer.provider_id))
            else:
                self._refused(node, answer, now)
        if launched:
            with self._store.write() as session:
                node_rows.launched(session, launched, now)

    def _request(self, node: NodeRec) -> LaunchRequest | None:
        pool = self._fleet.pool(node.pool)
        joining = self._joining(node)
        if pool is None or joining is None:
            return None
        owner, join = joining
        return LaunchRequest(
            token=node.token,
            name=node.name,
            pool=pool,
            owner=owner,
            join=join,
            deployment=self._deployment,
        )

    def _refused(self, node: NodeRec, refused: Refused, now: datetime) -> None:
        """The provider will not; the run that waits for this node ends as NO_CAPACITY.

        After no answer, or "not now", the same token is tried again at the next tick.
        """
        log.warning("node n%d refused: %s", node.id, refused.error)
        if isinstance(refused.error, Throttled | Unreachable):
            return
        why = f"refused: {refused.error}"
        with self._store.write() as session:
            if isinstance(refused.error, BadRequest):
                # Said too of a token whose node came and went unheard of: the listings tell.
                node_rows.ask_terminate(session, [node.id], why, now)
            else:
                node_rows.ended(session, [(node.id, why)], now)

    def _release(
        self,
        live: Iterable[NodeRec],
        waiting: Collection[tuple[str, int]],
        wanted: Collection[int],
        now: datetime,
    ) -> None:
        """Idle past its pool's warm time, or nobody but another workflow has a use for it.

        One under notice, or whose run ended before it was launched, is of no use to anybody.
        """
        short = {pool for pool, _ in waiting}
        over = [
            node.id
            for node in live
            if node.run_id is None
            and node.idle_since is not None
            and node.terminate_asked_at is None
            and (node.state in _USELESS or (node.pool, node.workflow_id) not in waiting)
            and (
                node.state in _USELESS
                or node.pool in short
                or node.workflow_id not in wanted
                or now - node.idle_since > self._warm(node)
            )
        ]
        if over:
            with self._store.write() as session:
                node_rows.ask_terminate(session, over, "idle", now)

    def _warm(self, node: NodeRec) -> timedelta:
        pool = self._fleet.pool(node.pool)
        return timedelta(seconds=pool.warm_s if pool else 0.0)

    def _terminate(self, asked: Iterable[str], census: Census) -> None:
        tokens: dict[str, list[str]] = {}
        for token in asked:
            if token in census.seen:
                tokens.setdefault(census.provider_of[token], []).append(token)
        if tokens:
            self._fleet.terminate(tokens)


def _to_end(node: NodeRec, census: Census) -> bool:
    """Asked to end, or dead with processes left."""
    seen = census.seen.get(node.token)
    half_dead = seen is not None and seen.state is Existence.STOPPING
    return node.terminate_asked_at is not None or half_dead


def _strangers(live: Iterable[NodeRec], census: Census) -> Iterable[str]:
    """Nodes of ours that run though no record says so: given up while their provider was late."""
    known = {node.token for node in live}
    for token, seen in census.seen.items():
        if token not in known and seen.state is not Existence.TERMINATED:
            log.warning("node %s (%s) is nobody's; ended", seen.provider_id, token)
            yield token
