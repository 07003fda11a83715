"""Start what can start: give eligible steps their nodes, and write down why the others wait."""

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from scsched.cluster.pools import Market
from scsched.db import nodes as node_rows
from scsched.db import queue, runs
from scsched.db.exposure import lives_of
from scsched.db.former import Pace, paces_of
from scsched.db.models import Exact
from scsched.db.models import Market as Recorded
from scsched.db.queue import Eligible
from scsched.db.runs import NewRun
from scsched.db.session import Session, Store
from scsched.scheduler.broker import Placement, Unplaceable, Want, place, threads_at_work
from scsched.scheduler.fencing import FENCE_S
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.offers import HISTORY, exposures, nodes_of, room_at
from scsched.scheduler.preempt import Work
from scsched.scheduler.room import Room
from scsched.steps.errors import StaleStep
from scsched.steps.resume import EXACT_PROTOCOLS
from scsched.steps.spec import Demand, Resume, Shape
from scsched.steps.state import INFRASTRUCTURE, PendingReason

log = logging.getLogger("scsched.dispatch")
STEPS_A_TICK = 500
PORTION = 50

Unproven = Callable[[], Mapping[int, str]]
"""Steps that may not start before a node of their last run is proven gone, and why."""
Storage = Callable[[datetime], Mapping[int, Unplaceable]]
"""Workflows whose storage takes no new work, and why."""


class Dispatch:
    """Places eligible steps; remembers the last tick's refusals for `scsched why`."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        *,
        unproven: Unproven = dict,
        storage: Storage = lambda now: {},
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._unproven = unproven
        self._storage = storage
        self.unplaced: dict[int, Unplaceable] = {}
        self.waiting: frozenset[tuple[str, int]] = frozenset()
        """(pool, workflow) pairs with a step that waits for room."""

    def tick(self, now: datetime) -> int:
        """Open runs for the steps that find room; returns how many."""
        with self._store.read() as session:
            placed = self._place(session, now)
        if not placed:
            return 0
        return self._open([self._new_run(step, found) for step, found in placed], now)

    def _place(self, session: Session, now: datetime) -> list[tuple[Eligible, Placement]]:
        placed: list[tuple[Eligible, Placement]] = []
        unplaced: dict[int, Unplaceable] = {}
        waiting: set[tuple[str, int]] = set()
        unproven, storage = self._unproven(), self._storage(now)
        room = room_at(node_rows.live(session), self._fleet, unproven, now)
        for step in self._eligible(session, now, room):
            if step.step_id in unproven:
                word = Unplaceable(PendingReason.NODE_FENCING, unproven[step.step_id])
                unplaced[step.step_id] = word
                waiting |= set(self._cooling(room, step.workflow_id))
                continue
            if step.workflow_id in storage:
                unplaced[step.step_id] = storage[step.workflow_id]
                continue
            found = place(self._want(session, step, room, now), self._fleet.pools, room)
            if isinstance(found, Unplaceable):
                unplaced[step.step_id] = found
                room.reserved.update(found.pools)
                waiting |= {(pool, step.workflow_id) for pool in found.pools}
                continue
            room.take(found.pool.name, step.workflow_id, found.reuse, found.new)
            placed.append((step, found))
        self.unplaced, self.waiting = unplaced, frozenset(waiting)
        return placed

    def _cooling(self, room: Room, workflow_id: int) -> Iterable[tuple[str, int]]:
        """Where survivors would be let go before the proof is there that their step waits for."""
        for name, owner in room.idle:
            pool = self._fleet.pool(name)
            if owner == workflow_id and pool is not None and pool.warm_s < FENCE_S:
                yield name, owner

    def _want(self, session: Session, step: Eligible, room: Room, now: datetime) -> Want:
        """Of an interrupted step also how long its iterations are, and its pools' history."""
        want = want_of(step)
        if not want.interrupted:
            return want
        if not room.exposure:
            room.exposure = exposures(lives_of(session, now - HISTORY, now))
        pace = paces_of(session, [step.step_id]).get(step.step_id)
        return replace(want, iteration_thread_s=_thread_s(pace, now))

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

    def _new_run(self, step: Eligible, placement: Placement) -> NewRun:
        token = secrets.token_hex(16)
        pool = placement.pool
        tokens = [f"{token[:24]}-{i}" for i in range(placement.new)]
        return NewRun(
            step_id=step.step_id,
            epoch=step.epoch,
            pool=pool.name,
            market=Recorded(pool.market),
            layout=_layout(placement),
            token=token,
            new_nodes=nodes_of(self._fleet, pool, placement.zone, tokens),
            reuse_nodes=placement.reuse,
        )


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
        project=step.project,
    )


def _demand(step: Eligible) -> Demand:
    """In exact mode one process with one thread adds up in one order, whatever the nodes have."""
    if step.exact is Exact.ON and step.protocol in EXACT_PROTOCOLS:
        return replace(step.demand, shape=Shape.SERIAL, ranks=1, threads=1)
    return step.demand


def _thread_s(pace: Pace | None, now: datetime) -> float | None:
    """Seconds of one thread that an iteration of the step takes."""
    if pace is None:
        return None
    seconds = Work.of_run(Resume.ITERATION, pace.progress, now).seconds_per_iteration
    ranks, threads = pace.layout.get("ranks"), pace.layout.get("threads")
    if seconds is None or not isinstance(ranks, int) or not isinstance(threads, int):
        return None
    return seconds * threads_at_work(ranks, threads)


def _layout(placement: Placement) -> dict[str, object]:
    layout = placement.layout
    return {
        "nodes": layout.nodes,
        "ranks": layout.ranks,
        "threads": layout.threads,
        "memory_gib": layout.memory_gib_per_node,
    }
