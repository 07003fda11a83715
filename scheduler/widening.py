"""A gang that lost nodes and went on with fewer grows again, between two iterations.

    narrow run ──► nodes are asked for ──► they are up ──► it stops after this iteration
                   so late that they are                   and goes on with all of them
                   not idle for long

A restart costs time too: a run whose iterations would gain less than that is left alone.
"""

import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from scsched.cluster.pools import Market, Pool
from scsched.db import stops
from scsched.db.exposure import lives_of
from scsched.db.models import Exact
from scsched.db.models import Market as Recorded
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun
from scsched.db.session import Store
from scsched.db.spares import NewSpare, intend, is_spare
from scsched.scheduler.broker import layout_within, threads_at_work
from scsched.scheduler.ending import want_of_run
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.news import reports_of
from scsched.scheduler.notices import work_of
from scsched.scheduler.offers import HISTORY, exposures, nodes_of
from scsched.scheduler.preempt import Work
from scsched.scheduler.presence import Sight
from scsched.scheduler.scale import spare_life
from scsched.scheduler.survival import Exposure, likely
from scsched.steps.layout import Layout
from scsched.steps.spec import Resume
from scsched.steps.state import StepState

RESTART_S = 60.0
"""What a planned restart may cost: some seconds of standstill (5 to 10 s in the demo), and then
RELION reads its particles again, which grows with the data."""


@dataclass(frozen=True, slots=True)
class Gain:
    """What a wider gang would bring to a run."""

    wide: Layout
    iteration: int
    """The one at work."""
    needs_s: float
    """Until it is done."""
    saved_s: float
    """Of all the iterations that are known to follow; of one, where their number is not known."""
    wide_iteration_s: float

    @property
    def pays(self) -> bool:
        return self.saved_s > RESTART_S


def gain(run: OpenRun, wide: Layout, work: Work) -> Gain | None:
    """None: not enough is known of the run. Time is taken to go down as threads go up."""
    each_s, needs_s, iteration = work.seconds_per_iteration, work.needs_s, work.iteration
    if each_s is None or needs_s is None or iteration is None:
        return None
    share = _threads(run) / threads_at_work(wide.ranks, wide.threads)
    left = 1 if work.of is None else max(0, work.of - iteration)
    return Gain(
        wide=wide,
        iteration=iteration,
        needs_s=needs_s,
        saved_s=left * each_s * (1.0 - share),
        wide_iteration_s=each_s * share,
    )


class Widening:
    """Asks for what narrow runs lack, and stops them in time when it has come."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._asked: dict[int, int] = {}
        """The iteration in which nodes were last asked for, by run: once in each is enough."""

    def tick(self, sight: Sight, short: Collection[str]) -> None:
        """One look.

        :param short: pools that steps wait for: their nodes are not for those that run.
        """
        self._asked = {run.run_id: at for run in sight.runs if (at := self._asked.get(run.run_id))}
        for run in sight.runs:
            if _may_be_narrow(run, sight) and run.pool not in short:
                self._look_at(run, sight)

    def _look_at(self, run: OpenRun, sight: Sight) -> None:
        pool = self._fleet.pool(run.pool)
        if pool is None:
            return
        spares = [node for node in sight.nodes.values() if is_spare(node, run.step_id)]
        there = sum(node.pool == pool.name for node in sight.nodes.values())
        width = _count(run, "nodes")
        wide = layout_within(
            want_of_run(run, Market(run.market)),
            pool,
            self._fleet.pools,
            width + len(spares) + max(0, pool.max_nodes - there),
        )
        if wide is None or wide.nodes <= width:
            return
        report = reports_of(sight.beats).get((run.run_id, run.epoch))
        found = gain(run, wide, work_of(run, report, sight.now))
        if found is None or not found.pays:
            return
        ready = [node for node in spares if _lasts(node, pool, found, sight)]
        if width + len(ready) >= wide.nodes:
            self._stop(run, found, ready, sight)
        elif width + len(spares) < wide.nodes and found.needs_s <= pool.boot_s:
            self._ask(run, pool, found, wide.nodes - width - len(spares), sight)

    def _stop(self, run: OpenRun, found: Gain, ready: Sequence[NodeRec], sight: Sight) -> None:
        names = ", ".join(node.name for node in ready)
        why = (
            f"{names} joins it: {found.wide.nodes} nodes instead of {len(run.nodes)}, "
            f"which saves about {found.saved_s:.0f} s"
        )
        with self._store.write() as session:
            stops.stop_after(session, run.run_id, found.iteration, why, sight.now)

    def _ask(self, run: OpenRun, pool: Pool, found: Gain, count: int, sight: Sight) -> None:
        if self._asked.get(run.run_id) == found.iteration:
            return
        zone = run.nodes[0].zone if pool.one_zone else ""
        refused = bool(zone) and self._fleet.next_candidate(pool, zone) is None
        if (
            refused
            or pool.name in self._fleet.holds(sight.now)
            or not self._lives(pool, found, sight)
        ):
            return
        tokens = [f"{secrets.token_hex(12)}-0" for _ in range(count)]
        new = [
            NewSpare(
                step_id=run.step_id,
                workflow_id=run.workflow_id,
                run_id=run.run_id,
                pool=pool.name,
                market=Recorded(pool.market),
                node=node,
                why=f"to join the gang after iteration {found.iteration}",
            )
            for node in nodes_of(self._fleet, pool, zone, tokens)
        ]
        self._asked[run.run_id] = found.iteration
        with self._store.write() as session:
            intend(session, new, sight.now)

    def _lives(self, pool: Pool, found: Gain, sight: Sight) -> bool:
        """Whether an iteration of the wide gang fits into a likely unbroken stretch."""
        if pool.market is not Market.SPOT:
            return True
        with self._store.read() as session:
            seen = exposures(lives_of(session, sight.now - HISTORY, sight.now))
        known = seen.get(pool.name, Exposure())
        return likely(known, nodes=found.wide.nodes, seconds=found.wide_iteration_s)


def _may_be_narrow(run: OpenRun, sight: Sight) -> bool:
    """A first attempt has the width that its demand likes best; so has an exact one."""
    driver = sight.drivers.get(run.workflow_id)
    return (
        run.attempt > 1
        and run.state is StepState.RUNNING
        and run.resume is Resume.ITERATION
        and run.stop_reason is None
        and run.stop_after is None
        and driver is not None
        and driver.exact is not Exact.ON
        and bool(run.nodes)
        and all(node.notice_at is None and node.ended_at is None for node in run.nodes)
    )


def _lasts(node: NodeRec, pool: Pool, found: Gain, sight: Sight) -> bool:
    """Whether it is up, and is kept until the iteration is done."""
    kept_until = node.created_at + spare_life(pool)
    return node.up_at is not None and sight.now + timedelta(seconds=found.needs_s) <= kept_until


def _threads(run: OpenRun) -> int:
    return threads_at_work(_count(run, "ranks"), _count(run, "threads"))


def _count(run: OpenRun, name: str) -> int:
    found = run.layout.get(name)
    return found if isinstance(found, int) else 1
