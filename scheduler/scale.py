"""Bring nodes up and let them go: launch what was intended, end what nobody wants."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import NodeState as Existence
from scsched.db import nodes as node_rows
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.db.session import Session, Store
from scsched.db.soon import Soon, soon, unfinished
from scsched.scheduler.bills import Bills
from scsched.scheduler.broker import Want, accepts
from scsched.scheduler.fencing import FENCE_S
from scsched.scheduler.fleet import Census, Fleet
from scsched.scheduler.intents import Joining, is_asked
from scsched.scheduler.launching import Launching
from scsched.scheduler.reaper import Reaper
from scsched.scheduler.unconfigured import Unconfigured

_USELESS = (NodeState.REQUESTED, NodeState.DRAINING)
"""Of nodes without a run: nothing will start on them."""


class Scale:
    """Launches REQUESTED nodes, ends idle ones and strangers, repeats terminations until they
    are seen gone, and then has their bills right."""

    def __init__(self, store: Store, fleet: Fleet, deployment: str, joining: Joining) -> None:
        self._store = store
        self._fleet = fleet
        self._launching = Launching(store, fleet, joining, deployment)
        self.reaper = Reaper(store, fleet)
        self._bills = Bills(store)
        self._unconfigured = Unconfigured(store, fleet)

    def tick(
        self,
        now: datetime,
        census: Census,
        waiting: Collection[tuple[str, int]],
        wanted: Collection[int],
    ) -> None:
        """One look. Launching comes last: no trouble with it keeps a node alive that is paid for.

        :param waiting: (pool, workflow) pairs with a step that waits for room.
        :param wanted: workflows that have something to run.
        """
        with self._store.read() as session:
            live = node_rows.live(session)
            over = self._over(session, live, waiting, wanted, now)
        if over:
            with self._store.write() as session:
                node_rows.ask_terminate(session, over, "idle", now)
        self._terminate([node.token for node in live if _to_end(node, census)], census)
        self.reaper.tick(now, census, live)
        self._bills.tick(now, census)
        self._unconfigured.tick(now, census, live)
        self._launching.tick(now, census, live)

    def _over(
        self,
        session: Session,
        live: Iterable[NodeRec],
        waiting: Collection[tuple[str, int]],
        wanted: Collection[int],
        now: datetime,
    ) -> list[int]:
        """Nodes without a run that nobody has a use for any more."""
        free = [node for node in live if node.run_id is None and node.terminate_asked_at is None]
        spares = [node for node in free if node.spare_for is not None]
        idle = [
            node
            for node in free
            if node.spare_for is None
            and node.idle_since is not None
            and (node.state in _USELESS or not self._awaited(node, waiting, now))
        ]
        wants = _wants(session, {node.workflow_id for node in idle})
        short = {pool for pool, _ in waiting}
        return [
            *(
                node.id
                for node in idle
                if node.state in _USELESS
                or node.pool in short
                or node.workflow_id not in wanted
                or not self._keeps(node, wants[node.workflow_id], now)
            ),
            *self._spent(session, spares, now),
        ]

    def _awaited(self, node: NodeRec, waiting: Collection[tuple[str, int]], now: datetime) -> bool:
        """Whether it is kept for a step of its workflow that waits for room in its pool.

        Not for long: nodes of several kinds or zones are no gang, and fill the pool that would give
        one.
        """
        pool = self._fleet.pool(node.pool)
        if node.idle_since is None or (node.pool, node.workflow_id) not in waiting:
            return False
        kept_s = max(pool.warm_s if pool else 0.0, 2 * FENCE_S)
        return now - node.idle_since <= timedelta(seconds=kept_s)

    def _keeps(self, node: NodeRec, wants: Iterable[Want], now: datetime) -> bool:
        """Warm, and for a step that could use it soon."""
        pool = self._fleet.pool(node.pool)
        if pool is None or node.idle_since is None:
            return False
        warm = now - node.idle_since <= timedelta(seconds=pool.warm_s)
        return warm and any(accepts(pool, want) for want in wants)

    def _spent(self, session: Session, spares: Sequence[NodeRec], now: datetime) -> Iterable[int]:
        """Replacements whose step has ended, or did not come for them while they were warm."""
        alive = unfinished(session, {node.spare_for for node in spares if node.spare_for})
        for node in spares:
            late = now - node.created_at > spare_life(self._fleet.pool(node.pool))
            if late or node.spare_for not in alive or node.state is NodeState.DRAINING:
                yield node.id

    def _terminate(self, asked: Iterable[str], census: Census) -> None:
        tokens: dict[str, list[str]] = {}
        for token in asked:
            if token in census.seen:
                tokens.setdefault(census.provider_of[token], []).append(token)
        if tokens:
            self._fleet.terminate(tokens)


def _wants(session: Session, workflow_ids: Collection[int]) -> Mapping[int, list[Want]]:
    found: defaultdict[int, list[Want]] = defaultdict(list)
    for step in soon(session, workflow_ids) if workflow_ids else ():
        found[step.workflow_id].append(_want(step))
    return found


def _want(step: Soon) -> Want:
    return Want(
        step_id=step.step_id,
        workflow_id=step.workflow_id,
        resource_class=step.resource_class,
        demand=step.demand,
        market=Market(step.market),
        long_lived=step.long_lived,
        allow_spot=step.allow_spot,
        larger=step.larger,
    )


def spare_life(pool: Pool | None) -> timedelta:
    """For how long, from when it was asked for, a replacement is kept for its step."""
    return timedelta(seconds=pool.boot_s + pool.warm_s if pool else 0.0)


def _to_end(node: NodeRec, census: Census) -> bool:
    """Asked to end, or dead with processes left."""
    seen = census.seen.get(node.token)
    half_dead = seen is not None and seen.state is Existence.STOPPING and not is_asked(node, seen)
    return node.terminate_asked_at is not None or half_dead
