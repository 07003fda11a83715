"""Start what can start: give eligible steps their nodes, and write down why the others wait."""

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from scsched.cluster.pools import Market
from scsched.db import nodes as node_rows
from scsched.db import queue, runs
from scsched.db.gangs import NewNode
from scsched.db.models import Exact, NodeState
from scsched.db.models import Market as Recorded
from scsched.db.nodes import NodeRec
from scsched.db.queue import Eligible
from scsched.db.runs import NewRun
from scsched.db.session import Session, Store
from scsched.scheduler.broker import Placement, Room, Unplaceable, Want, place
from scsched.scheduler.fleet import Fleet
from scsched.steps.errors import StaleStep
from scsched.steps.resume import EXACT_PROTOCOLS
from scsched.steps.spec import Demand, Shape
from scsched.steps.state import INFRASTRUCTURE

log = logging.getLogger("scsched.dispatch")
STEPS_A_TICK = 500
PORTION = 50


class Dispatch:
    """Places eligible steps; remembers the last tick's refusals for `scsched why`."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self.unplaced: dict[int, Unplaceable] = {}
        self.waiting: frozenset[tuple[str, int]] = frozenset()
        """(pool, workflow) pairs with a step that waits for room."""

    def tick(self, now: datetime) -> int:
        """Open runs for the steps that find room; returns how many."""
        with self._store.read() as session:
            placed = self._place(session, now)
        if not placed:
            return 0
        return self._open([_new_run(step, found) for step, found in placed], now)

    def _place(self, session: Session, now: datetime) -> list[tuple[Eligible, Placement]]:
        placed: list[tuple[Eligible, Placement]] = []
        unplaced: dict[int, Unplaceable] = {}
        waiting: set[tuple[str, int]] = set()
        room = room_of(node_rows.live(session))
        for step in self._eligible(session, now, room):
            found = place(want_of(step), self._fleet.pools, room)
            if isinstance(found, Unplaceable):
                unplaced[step.step_id] = found
                room.reserved.update(found.pools)
                waiting |= {(pool, step.workflow_id) for pool in found.pools}
                continue
            room.take(found, step.workflow_id)
            placed.append((step, found))
        self.unplaced, self.waiting = unplaced, frozenset(waiting)
        return placed

    def _eligible(self, session: Session, now: datetime, room: Room) -> Iterable[Eligible]:
        """By portions, until every pool is waited for: then nothing behind them can start."""
        names = {pool.name for pool in self._fleet.pools}
        last: Eligible | None = None
        for _ in range(0, STEPS_A_TICK, PORTION):
            portion = queue.eligible(session, now, PORTION, last)
            yield from portion
            if len(portion) < PORTION or room.reserved >= names:
                return
            last = portion[-1]

    def _open(self, new: Sequence[NewRun], now: datetime) -> int:
        """All at once; if somebody moved one of them meanwhile, the next tick looks again."""
        try:
            with self._store.write() as session:
                return len(runs.open_runs(session, new, now))
        except StaleStep as exc:
            log.info("not opened: %s", exc)
            return 0


def want_of(step: Eligible) -> Want:
    return Want(
        step_id=step.step_id,
        workflow_id=step.workflow_id,
        resource_class=step.resource_class,
        demand=_demand(step),
        market=Market(step.market),
        long_lived=step.long_lived,
        allow_spot=step.allow_spot,
        larger=step.larger,
        interrupted=bool(step.ends) and step.ends[-1] in INFRASTRUCTURE,
    )


def _demand(step: Eligible) -> Demand:
    """In exact mode one process with one thread adds up in one order, whatever the nodes have."""
    if step.exact is Exact.ON and step.protocol in EXACT_PROTOCOLS:
        return replace(step.demand, shape=Shape.SERIAL, ranks=1, threads=1)
    return step.demand


def room_of(live: Iterable[NodeRec]) -> Room:
    """Nodes that live, by pool; those without a run are idle for their own workflow."""
    room = Room()
    for node in live:
        room.alive[node.pool] = room.alive.get(node.pool, 0) + 1
        if node.run_id is None and node.state is NodeState.UP and node.terminate_asked_at is None:
            room.idle.setdefault((node.pool, node.workflow_id), []).append(node.id)
    return room


def _new_run(step: Eligible, placement: Placement) -> NewRun:
    token = secrets.token_hex(16)
    pool = placement.pool
    new_nodes = tuple(
        NewNode(
            token=f"{token[:24]}-{i}",
            provider=pool.provider,
            cores=pool.cores,
            memory_gib=pool.memory_gib,
            gpus=pool.gpus,
            usd_per_hour=pool.usd_per_hour,
        )
        for i in range(placement.new)
    )
    return NewRun(
        step_id=step.step_id,
        epoch=step.epoch,
        pool=pool.name,
        market=Recorded(pool.market),
        layout=_layout(placement),
        token=token,
        new_nodes=new_nodes,
        reuse_nodes=placement.reuse,
    )


def _layout(placement: Placement) -> dict[str, object]:
    layout = placement.layout
    return {
        "nodes": layout.nodes,
        "ranks": layout.ranks,
        "threads": layout.threads,
        "memory_gib": layout.memory_gib_per_node,
    }
