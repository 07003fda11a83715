"""Move steps on by what is: the drivers' beats, and the providers' word on the nodes."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from scsched.cluster.provider import NodeState as Existence
from scsched.db import drivers as driver_rows
from scsched.db import nodes as node_rows
from scsched.db import runs as run_rows
from scsched.db.former import runs_over
from scsched.db.models import NodeState
from scsched.db.nodes import Birth, Death, NodeRec
from scsched.db.open_runs import OpenRun, open_runs_of
from scsched.db.past import PastRun, past_of
from scsched.db.queue import set_demands
from scsched.db.runs import RunEnd
from scsched.db.session import Session, Store
from scsched.db.settle import settle
from scsched.scheduler.aside import BAD_DATA, PASSING, Aside, parts_of
from scsched.scheduler.departures import Departures
from scsched.scheduler.ending import Ending
from scsched.scheduler.fencing import unproven
from scsched.scheduler.fleet import Census, Fleet
from scsched.scheduler.intents import is_asked
from scsched.scheduler.news import News, reports_of
from scsched.scheduler.notices import Notices
from scsched.scheduler.presence import Boots, Sight
from scsched.scheduler.protocol import Beat, EndReport, Hint, Phase
from scsched.scheduler.sizing import Sizing
from scsched.scheduler.storage_hold import StorageHold
from scsched.scheduler.verdict import RECLAIMED, SILENT, judge
from scsched.steps.demand import Inputs
from scsched.steps.state import INFRASTRUCTURE, EndReason

log = logging.getLogger("scsched.monitor")

DRIVER_GRACE = timedelta(seconds=20)
"""How long a driver that lives has to report the end of a run whose nodes are gone."""


class Monitor:
    """Writes what has happened, and judges the runs that have ended."""

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        ending: Ending,
        sizing: Sizing,
        storage: StorageHold | None = None,
    ) -> None:
        self._store = store
        self._storage = storage or StorageHold()
        self._fleet = fleet
        self._ending = ending
        self._sizing = sizing
        self._notices = Notices(fleet)
        self._departures = Departures(fleet)
        self._boots = Boots()
        self._aside = Aside()
        self.unproven: Mapping[int, str] = {}
        """Steps that may not start: a node of their last run is not proven gone. With why."""
        self.sight: Sight | None = None
        """What the last look saw."""

    def tick(self, now: datetime, beats: Mapping[int, Beat], census: Census) -> Mapping[int, Beat]:
        """One look; gives the beats that counted, those of drivers not given up."""
        told = self._look(now, beats, census)
        sight = self.sight = replace(told, beats=self._aside.read(told.beats))
        self._departures.note(sight)
        self._boots.note(sight)
        self._hear_of_storage(sight)
        if self._write(sight, self._departures.gone(sight)):
            sight = self.sight = replace(told, beats=self._aside.read(told.beats))
            with self._store.read() as session:
                live = node_rows.live(session)
        else:
            live = list(sight.nodes.values())
        self.unproven = self._unproven(sight, live)
        return told.beats

    def _write(self, sight: Sight, gone: Mapping[int, Death]) -> bool:
        """All that has happened; False: nothing has. Where the database refuses it, each workflow
        by itself."""
        try:
            return self._write_together(sight, gone)
        except PASSING:
            raise
        except BAD_DATA as exc:
            log.error("not written: %s; each workflow by itself", exc)
        for workflow_id, part in parts_of(sight):
            self._write_apart(workflow_id, part, gone)
        return True

    def _write_apart(self, workflow_id: int, part: Sight, gone: Mapping[int, Death]) -> None:
        """What is known of one workflow, with as much of its driver's beat as can be kept."""
        lost = {node_id: death for node_id, death in gone.items() if node_id in part.nodes}
        try:
            self._write_together(part, lost)
        except PASSING:
            raise
        except BAD_DATA as exc:
            beat = part.beats.get(workflow_id)
            if beat is None:
                log.exception("workflow %d: nothing of it can be written", workflow_id)
                return
            with self._store.write() as session:
                self._aside.tell(session, workflow_id, beat, exc, part.now)
            instead = self._aside.put(workflow_id, beat)
            beats = {} if instead is None else {workflow_id: instead}
            self._write_apart(workflow_id, replace(part, beats=beats), lost)

    def _write_together(self, sight: Sight, gone: Mapping[int, Death]) -> bool:
        """All of that sight in one transaction; False: nothing has happened."""
        now, census = sight.now, sight.census
        found = [_birth(node, sight) for node in sight.nodes.values() if _is_found(node, sight)]
        news = News.of(sight.beats, sight.runs, sight.nodes, sight.drivers, census.notices)
        overdue = list(self._overdue(sight))
        useless = list(_useless(sight))
        ended = [*_reported(sight), *self._orphaned(sight)]
        if not (news or found or gone or overdue or useless or ended):
            return False
        with self._store.write() as session:
            node_rows.launched(session, found, now)
            news.write(session, now)
            self._notices.act(session, sight, dict(news.notices))
            node_rows.ended(session, gone.values(), now)
            node_rows.ask_terminate(session, overdue, "did not come up in time", now)
            node_rows.ask_terminate(session, useless, "its worker has left", now)
            past = past_of(session, [run.step_id for run, _ in ended])
            ends = [
                self._end(run, end, past.get(run.step_id, ()), gone, sight) for run, end in ended
            ]
            run_rows.end_runs(session, ends, now)
            self._resize(session, ended)
            settle(session, {run.workflow_id for run, _ in ended}, now)
        return True

    def _hear_of_storage(self, sight: Sight) -> None:
        """Whether new work may start is asked of the hold, by dispatch."""
        for workflow_id, beat in sight.beats.items():
            username = sight.drivers[workflow_id].username
            self._storage.hear(workflow_id, username, beat.storage, sight.now)
        self._storage.keep(sight.drivers)

    def _unproven(self, sight: Sight, live: Iterable[NodeRec]) -> Mapping[int, str]:
        """Steps that have to wait for a proof, by id."""
        doubtful = [node for node in live if self._departures.is_doubtful(node, sight)]
        if not doubtful:
            return {}
        with self._store.read() as session:
            over = runs_over(session, [node.last_run_id or 0 for node in doubtful])
        return unproven(
            self._departures.former(node, run.step_id, sight)
            for node in doubtful
            if (run := over.get(node.last_run_id or 0)) is not None
            and (run.began or node.up_at is not None or node.terminate_asked_at is not None)
        )

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

    def _overdue(self, sight: Sight) -> Iterable[int]:
        """Nodes that run but did not come up in time."""
        for node in sight.nodes.values():
            pool = self._fleet.pool(node.pool)
            if pool is None or node.state is not NodeState.STARTING or node.launched_at is None:
                continue
            began = self._boots.began(node, node.launched_at, remote=pool.remote)
            if (sight.now - began).total_seconds() > pool.boot_s:
                log.warning("node %s did not come up within %.0f s", node.name, pool.boot_s)
                yield node.id

    def _end(
        self,
        run: OpenRun,
        end: EndReport,
        past: Sequence[PastRun],
        gone: Mapping[int, Death],
        sight: Sight,
    ) -> RunEnd:
        words = [_short(word) for word in _words(run, gone)]
        silent = [SILENT for node in run.nodes if node.up_at is not None and sight.lacks(node)]
        noticed = (node.notice_at or sight.census.notices.get(node.token) for node in run.nodes)
        reason = judge(
            end.hint,
            stop_reason=run.stop_reason,
            lost=[*words, *silent],
            noticed=any(noticed),
            in_time=run.stop_after is not None,
        )
        if reason in (EndReason.NODE_FAIL, EndReason.LOST) and not run.running_at:
            refused = any(word.startswith("refused") for word in _words(run, gone))
            reason = EndReason.NO_CAPACITY if refused else EndReason.BOOT_FAIL
        if reason in INFRASTRUCTURE and end.hint is Hint.FAILED:
            end = end.model_copy(update={"detail": _with_nodes(end.detail, run, gone, sight)})
        log.info("run %d of step %s ended: %s", run.run_id, run.ref, reason)
        return self._ending.of(run, end, reason, past, sight.now)

    def _orphaned(self, sight: Sight) -> Iterable[tuple[OpenRun, EndReport]]:
        """Runs that their drivers will not end: their nodes are gone, or their leases are over.

        A run that has not begun needs all of its nodes, so one lost is enough, once the driver too
        has said that it waits and lacks it: before that it may have begun, and be done. One that
        has begun is its driver's to end, as long as there is a driver that may. To check outputs it
        needs no node, and takes its time; one that falls silent over it is killed for that.
        """
        reports = reports_of(sight.beats)
        for run in sight.runs:
            report = reports.get((run.run_id, run.epoch))
            out = [node for node in run.nodes if self._departures.is_out(node)]
            if (report is not None and report.end is not None) or (run.nodes and not out):
                continue
            ends = [node.ended_at for node in out if node.ended_at is not None]
            waiting = report is not None and report.phase is Phase.WAITING
            never_began = waiting and any(sight.lacks(node) for node in out)
            nobody = run.workflow_id not in sight.drivers
            checks = report is not None and report.phase is Phase.COMPLETING
            late = sight.now - max(ends, default=run.started_at) > DRIVER_GRACE
            silent = late and not checks
            if never_began or (len(out) == len(run.nodes) and (nobody or silent)):
                words = ", ".join(sorted({node.end_reason or "silent" for node in out}))
                yield run, EndReport(hint=Hint.LOST, detail=f"its nodes are gone: {words}")


def _reported(sight: Sight) -> Iterable[tuple[OpenRun, EndReport]]:
    """Runs that a driver says have ended."""
    reports = reports_of(sight.beats)
    for run in sight.runs:
        report = reports.get((run.run_id, run.epoch))
        if report is not None and report.end is not None:
            yield run, report.end


def _useless(sight: Sight) -> Iterable[int]:
    """Nodes that are dying, or whose worker has left its driver: no step may be given to them."""
    for node in sight.nodes.values():
        seen = sight.census.seen.get(node.token)
        dying = seen is not None and seen.state is Existence.STOPPING and not is_asked(node, seen)
        beat = sight.beats.get(node.workflow_id)
        named = beat is None or node.name in {report.name for report in beat.nodes}
        left = node.state is NodeState.UP and not named
        if node.terminate_asked_at is None and (dying or left):
            yield node.id


def _is_found(node: NodeRec, sight: Sight) -> bool:
    seen = sight.census.seen.get(node.token)
    return node.launched_at is None and seen is not None and seen.built


def _birth(node: NodeRec, sight: Sight) -> Birth:
    """A node that its provider lists and no launch was recorded for."""
    seen = sight.census.seen[node.token]
    return Birth(node.id, seen.provider_id, seen.launched_at, seen.usd_per_hour)


def _words(run: OpenRun, gone: Mapping[int, Death]) -> list[str]:
    """Why nodes of the gang are gone, now or before."""
    words = [gone[node.id].why if node.id in gone else node.end_reason for node in run.nodes]
    return [word for word in words if word]


def _short(word: str) -> str:
    return RECLAIMED if word.startswith(RECLAIMED) else word


def _with_nodes(detail: str, run: OpenRun, gone: Mapping[int, Death], sight: Sight) -> str:
    """What the program said of its end, and then whose fault it was: that is what people read."""
    told = []
    for node in run.nodes:
        why = gone[node.id].why if node.id in gone else node.end_reason
        if why or sight.lacks(node):
            told.append(f"{node.name} was lost" + (f": {why}" if why else ""))
    return "\n".join([*([detail] if detail else []), *([", ".join(told)] if told else [])])[-8000:]
