"""Move steps on by what is: the drivers' beats, and the providers' word on the nodes."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scsched.cluster.provider import NodeState as Existence
from scsched.db import drivers as driver_rows
from scsched.db import nodes as node_rows
from scsched.db import runs as run_rows
from scsched.db.drivers import DriverRec
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun, open_runs_of
from scsched.db.past import PastRun, past_of
from scsched.db.queue import set_demands
from scsched.db.runs import RunEnd
from scsched.db.session import Session, Store
from scsched.db.settle import settle
from scsched.scheduler.ending import Ending
from scsched.scheduler.fleet import Census, Fleet
from scsched.scheduler.news import News, reports_of
from scsched.scheduler.protocol import Beat, EndReport, Hint, Phase
from scsched.scheduler.sizing import Sizing
from scsched.scheduler.verdict import RECLAIMED, judge
from scsched.steps.demand import Inputs
from scsched.steps.state import EndReason

log = logging.getLogger("scsched.monitor")

MISSING_GRACE = timedelta(seconds=20)
"""How long listings must lack a node until it counts as gone: clouds list late."""
DRIVER_GRACE = timedelta(seconds=20)
"""How long a driver that lives has to report the end of a run whose nodes are gone."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that one tick looks at."""

    now: datetime
    beats: Mapping[int, Beat]
    census: Census
    runs: Sequence[OpenRun]
    nodes: Mapping[int, NodeRec]
    """Live ones, by id."""
    drivers: Mapping[int, DriverRec]
    """Those not given up, by workflow."""


class Monitor:
    """Writes what has happened, and judges the runs that have ended."""

    def __init__(self, store: Store, fleet: Fleet, ending: Ending, sizing: Sizing) -> None:
        self._store = store
        self._fleet = fleet
        self._ending = ending
        self._sizing = sizing
        self._absences = Absences()
        self._began = datetime.max.replace(tzinfo=UTC)

    def tick(self, now: datetime, beats: Mapping[int, Beat], census: Census) -> Mapping[int, Beat]:
        """One look; gives the beats that counted, those of drivers not given up."""
        self._began = min(self._began, now)
        sight = self._look(now, beats, census)
        self._absences.note(sight)
        found = [
            (node.id, census.seen[node.token].provider_id)
            for node in sight.nodes.values()
            if node.launched_at is None and node.token in census.seen
        ]
        gone = _gone(sight, self._absences) | self._given_up(sight)
        news = News.of(sight.beats, sight.runs, sight.nodes, sight.drivers, census.notices)
        overdue = list(self._overdue(sight))
        useless = list(_useless(sight))
        ended = [*_reported(sight), *_orphaned(sight)]
        if not (news or found or gone or overdue or useless or ended):
            return sight.beats
        with self._store.write() as session:
            node_rows.launched(session, found, now)
            news.write(session, now)
            node_rows.ended(session, gone.items(), now)
            node_rows.ask_terminate(session, overdue, "did not come up in time", now)
            node_rows.ask_terminate(session, useless, "its worker has left", now)
            past = past_of(session, [run.step_id for run, _ in ended])
            ends = [self._end(run, end, past.get(run.step_id, ()), gone, now) for run, end in ended]
            run_rows.end_runs(session, ends, now)
            self._resize(session, ended)
            settle(session, {run.workflow_id for run, _ in ended}, now)
        return sight.beats

    def _resize(self, session: Session, ended: Sequence[tuple[OpenRun, EndReport]]) -> None:
        """Before the next dispatch: what the steps need that were waiting for these."""
        for run, end in ended:
            inputs = {
                ref: Inputs(box_px=made.box_px, particles=made.particles)
                for ref, made in end.inputs.items()
            }
            demands = self._sizing.demands(session, run.workflow_id, inputs)
            set_demands(session, demands)

    def _look(self, now: datetime, beats: Mapping[int, Beat], census: Census) -> Sight:
        with self._store.read() as session:
            drivers = {record.workflow_id: record for record in driver_rows.known(session)}
            return Sight(
                now=now,
                beats={
                    w: b for w, b in beats.items() if w in drivers and drivers[w].token == b.token
                },
                census=census,
                runs=open_runs_of(session),
                nodes={node.id: node for node in node_rows.live(session)},
                drivers=drivers,
            )

    def _given_up(self, sight: Sight) -> dict[int, str]:
        """Intents that are not wanted any more, and of which nothing was made.

        If the provider may have heard of one, its launch may have happened with the answer lost:
        it is gone when it is not listed a grace period after the last moment for a launch.
        """
        return {
            node.id: "not needed any more"
            for node in sight.nodes.values()
            if node.launched_at is None
            and node.terminate_asked_at is not None
            and node.token not in sight.census.seen
            and node.provider not in sight.census.silent
            and (
                sight.now - node.terminate_asked_at >= MISSING_GRACE
                or not (node.created_at < self._began or self._fleet.has_asked(node.token))
            )
        }

    def _overdue(self, sight: Sight) -> Iterable[int]:
        """Nodes that were launched but did not come up in time."""
        for node in sight.nodes.values():
            pool = self._fleet.pool(node.pool)
            if pool is None or node.state is not NodeState.STARTING or node.launched_at is None:
                continue
            if (sight.now - node.launched_at).total_seconds() > pool.boot_s:
                log.warning("node %s did not come up within %.0f s", node.name, pool.boot_s)
                yield node.id

    def _end(
        self,
        run: OpenRun,
        end: EndReport,
        past: Sequence[PastRun],
        gone: Mapping[int, str],
        now: datetime,
    ) -> RunEnd:
        reason = judge(
            end.hint,
            stop_reason=run.stop_reason,
            lost=[_short(word) for word in _words(run, gone)],
            noticed=any(node.notice_at is not None for node in run.nodes),
        )
        if reason in (EndReason.NODE_FAIL, EndReason.LOST) and not run.running_at:
            refused = any(word.startswith("refused") for word in _words(run, gone))
            reason = EndReason.NO_CAPACITY if refused else EndReason.BOOT_FAIL
        log.info("run %d of step %s ended: %s", run.run_id, run.ref, reason)
        return self._ending.of(run, end, reason, past, now)


def _reported(sight: Sight) -> Iterable[tuple[OpenRun, EndReport]]:
    """Runs that a driver says have ended."""
    reports = reports_of(sight.beats)
    for run in sight.runs:
        report = reports.get((run.run_id, run.epoch))
        if report is not None and report.end is not None:
            yield run, report.end


def _orphaned(sight: Sight) -> Iterable[tuple[OpenRun, EndReport]]:
    """Runs that their drivers will not end: their nodes are gone.

    A run that has not begun needs all of its nodes, so one lost is enough. One that has begun is
    its driver's to end, as long as there is a driver that may.
    """
    reports = reports_of(sight.beats)
    for run in sight.runs:
        report = reports.get((run.run_id, run.epoch))
        ends = [node.ended_at for node in run.nodes if node.ended_at is not None]
        if (report is not None and report.end is not None) or (run.nodes and not ends):
            continue
        never_began = report is not None and report.phase is Phase.WAITING
        nobody = run.workflow_id not in sight.drivers
        silent = sight.now - max(ends, default=run.started_at) > DRIVER_GRACE
        if never_began or (len(ends) == len(run.nodes) and (nobody or silent)):
            words = ", ".join(sorted({node.end_reason or "" for node in run.nodes} - {""}))
            yield run, EndReport(hint=Hint.LOST, detail=f"its nodes are gone: {words}")


class Absences:
    """Since when listings have lacked a node. One that lacks it proves nothing: they come late."""

    def __init__(self) -> None:
        self._since: dict[str, datetime] = {}

    def note(self, sight: Sight) -> None:
        """Of nodes known to be launched. A provider that does not answer says nothing."""
        since = {}
        for node in sight.nodes.values():
            if node.launched_at is None or node.token in sight.census.seen:
                continue
            if node.token in self._since or node.provider not in sight.census.silent:
                since[node.token] = self._since.get(node.token, sight.now)
        self._since = since

    def proves(self, node: NodeRec, now: datetime) -> bool:
        """Whether it has been lacking for so long that it is gone."""
        since = self._since.get(node.token)
        return since is not None and now - since >= MISSING_GRACE


def _useless(sight: Sight) -> Iterable[int]:
    """Nodes that are dying, or whose worker has left its driver: no step may be given to them."""
    for node in sight.nodes.values():
        seen = sight.census.seen.get(node.token)
        dying = seen is not None and seen.state is Existence.STOPPING
        beat = sight.beats.get(node.workflow_id)
        named = beat is None or node.name in {report.name for report in beat.nodes}
        left = node.state is NodeState.UP and not named
        if node.terminate_asked_at is None and (dying or left):
            yield node.id


def _gone(sight: Sight, absences: Absences) -> dict[int, str]:
    """Live nodes that their provider says are gone, with its word for why."""
    gone = {}
    for node in sight.nodes.values():
        if node.provider not in sight.census.silent and _is_gone(node, sight, absences):
            seen = sight.census.seen.get(node.token)
            gone[node.id] = _word(node, seen.reason if seen is not None else "")
    return gone


def _is_gone(node: NodeRec, sight: Sight, absences: Absences) -> bool:
    seen = sight.census.seen.get(node.token)
    if seen is not None:
        return seen.state is Existence.TERMINATED
    return absences.proves(node, sight.now)


def _word(node: NodeRec, reason: str) -> str:
    return reason or ("terminated" if node.terminate_asked_at is not None else "lost")


def _words(run: OpenRun, gone: Mapping[int, str]) -> list[str]:
    """Why nodes of the gang are gone, now or before."""
    words = [gone.get(node.id) or node.end_reason for node in run.nodes]
    return [word for word in words if word]


def _short(word: str) -> str:
    return RECLAIMED if word.startswith(RECLAIMED) else word
