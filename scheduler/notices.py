"""What follows a notice, in the transaction that writes it down: a decision, and a replacement."""

import logging
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from scsched.db import stops
from scsched.db.models import Market
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun
from scsched.db.session import Session
from scsched.db.spares import NewSpare, intend, is_spare
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.news import reports_of
from scsched.scheduler.offers import nodes_of
from scsched.scheduler.preempt import Decision, Finish, LetRun, Work, decide
from scsched.scheduler.presence import Sight
from scsched.scheduler.protocol import Phase, RunReport
from scsched.steps.state import EndReason, StepState

log = logging.getLogger("scsched.notices")
Deadlines = Mapping[int, datetime]
"""Of nodes, by id."""


class Notices:
    """Decides for each node that is newly under notice, and anew when it is to go sooner."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def act(self, session: Session, sight: Sight, new: Deadlines) -> None:
        """Ask the drivers for what is decided, and intend the replacements."""
        reports = reports_of(sight.beats)
        spares: list[NewSpare] = []
        for run in sight.runs:
            lost = [node for node in run.nodes if node.id in new]
            if not lost or run.stop_reason is EndReason.CANCELLED:
                continue
            decision = decide(
                _left_s(run, new, sight.now),
                work_of(run, reports.get((run.run_id, run.epoch)), sight.now),
            )
            log.info("run %d of step %s: %s", run.run_id, run.ref, decision.why)
            if run.stop_reason is None:
                _ask(session, run, decision, sight.now)
            if not (isinstance(decision, LetRun) and decision.ends):
                spares += self._spares(run, new, sight, spares)
        intend(session, spares, sight.now)

    def _spares(
        self, run: OpenRun, new: Deadlines, sight: Sight, before: Sequence[NewSpare]
    ) -> Iterable[NewSpare]:
        """One for each node that is to go, unless it was asked for; as far as the pool may have
        them beside those nodes."""
        pool = self._fleet.pool(run.pool)
        if pool is None or pool.service or pool.name in self._fleet.holds(sight.now):
            return
        there = sum(node.pool == pool.name for node in sight.nodes.values())
        room = pool.max_nodes - there - sum(spare.pool == pool.name for spare in before)
        going = [node for node in run.nodes if node.notice_at is not None or node.id in new]
        lacking = len(going) - sum(is_spare(node, run.step_id) for node in sight.nodes.values())
        tokens = [f"{secrets.token_hex(12)}-0" for _ in range(min(room, lacking))]
        zone = _zone(node for node in run.nodes if node not in going) if pool.one_zone else ""
        for node in nodes_of(self._fleet, pool, zone, tokens):
            yield NewSpare(
                step_id=run.step_id,
                workflow_id=run.workflow_id,
                run_id=run.run_id,
                pool=pool.name,
                market=Market(pool.market),
                node=node,
            )


def work_of(run: OpenRun, report: RunReport | None, now: datetime) -> Work:
    """What is known of the run, from its driver's newest word."""
    told = report.progress if report is not None and report.progress else run.progress
    phase = report.phase if report is not None else Phase.WAITING
    return Work.of_run(
        run.resume,
        told,
        now,
        begun=run.state is not StepState.CONFIGURING or phase is not Phase.WAITING,
        done=run.state is StepState.COMPLETING or phase in (Phase.COMPLETING, Phase.ENDED),
    )


def _left_s(run: OpenRun, new: Deadlines, now: datetime) -> float:
    """Seconds until the first node of the gang goes."""
    known = [new.get(node.id) or node.notice_deadline for node in run.nodes]
    deadlines = [deadline for deadline in known if deadline is not None]
    return (min(deadlines, default=now) - now).total_seconds()


def _ask(session: Session, run: OpenRun, decision: Decision, now: datetime) -> None:
    if isinstance(decision, LetRun):
        stops.let_run(session, run.run_id, decision.why, now)
    elif isinstance(decision, Finish):
        stops.stop_after(session, run.run_id, decision.iteration, decision.why, now)
    else:
        reason = EndReason.PREEMPTED
        stops.ask_stop(session, [run.run_id], reason, now, why=decision.why)


def _zone(staying: Iterable[NodeRec]) -> str:
    """Where the rest of the gang is; empty: anywhere will do."""
    zones = Counter(node.zone for node in staying)
    return zones.most_common(1)[0][0] if zones else ""
