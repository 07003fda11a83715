"""What the drivers' beats say that the database does not know yet."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Self

from scsched.cluster.provider import Notice
from scsched.db import drivers as driver_rows
from scsched.db import jobs, submissions
from scsched.db import nodes as node_rows
from scsched.db import runs as run_rows
from scsched.db.drivers import DriverRec
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun
from scsched.db.session import Session
from scsched.scheduler.protocol import Beat, Phase, RunReport
from scsched.steps.state import StepState

log = logging.getLogger("scsched.news")
Reports = Mapping[tuple[int, int], RunReport]
SAME_NOTICE = timedelta(seconds=2)
"""What two ears say of one notice may differ by this: one of them rounds, one adds two minutes."""
_STARTED = frozenset({Phase.RUNNING, Phase.COMPLETING})


@dataclass(frozen=True, slots=True)
class News:
    """All of it is safe to write twice; what comes from a driver given up changes nothing."""

    hellos: Sequence[tuple[int, Beat]]
    projects: Sequence[tuple[int, str]]
    up: Sequence[int]
    notices: Sequence[tuple[int, datetime]]
    placed: Sequence[tuple[int, int, str]]
    """(step, Scipion's id, job folder)"""
    running: Sequence[tuple[int, int]]
    completing: Sequence[tuple[int, int]]
    progress: Sequence[tuple[int, int, Mapping[str, object]]]
    healthy: Sequence[int]

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    @classmethod
    def of(
        cls,
        beats: Mapping[int, Beat],
        runs: Sequence[OpenRun],
        nodes: Mapping[int, NodeRec],
        drivers: Mapping[int, DriverRec],
        notices: Mapping[str, Notice],
    ) -> Self:
        pairs = list(_reported(beats, runs))
        return cls(
            hellos=[(w, beat) for w, beat in beats.items() if _is_new(beat, drivers.get(w))],
            projects=[
                (w, beat.project)
                for w, beat in beats.items()
                if beat.project and w in drivers and drivers[w].project != beat.project
            ],
            up=[node.id for node in _up(beats, nodes)],
            notices=list(_noticed(beats, nodes, notices)),
            placed=[
                (run.step_id, report.object_id, report.job_dir)
                for run, report in pairs
                if report.object_id is not None
                and report.job_dir is not None
                and report.job_dir != run.job_dir
            ],
            running=[
                (run.run_id, run.epoch)
                for run, report in pairs
                if run.state is StepState.CONFIGURING and report.phase in _STARTED
            ],
            completing=[
                (run.run_id, run.epoch)
                for run, report in pairs
                if run.state is not StepState.COMPLETING and report.phase is Phase.COMPLETING
            ],
            progress=[
                (run.run_id, run.epoch, report.progress)
                for run, report in pairs
                if report.progress is not None and report.progress != run.progress
            ],
            healthy=[
                w
                for w, beat in beats.items()
                if w in drivers and drivers[w].failures and beat.nodes
            ],
        )

    def write(self, session: Session, now: datetime) -> None:
        for workflow_id, beat in self.hellos:
            info = _info(beat)
            driver_rows.hello(session, workflow_id, beat.token, beat.address, info, now)
        for workflow_id, project in self.projects:
            submissions.set_project(session, workflow_id, project)
        driver_rows.healthy(session, self.healthy)
        node_rows.up(session, self.up, now)
        for node_id, deadline in self.notices:
            node_rows.notice(session, node_id, deadline, now)
        jobs.placed(session, self.placed)
        run_rows.set_running(session, self.running, now)
        run_rows.set_completing(session, self.completing, now)
        run_rows.progress(session, self.progress, now)


def reports_of(beats: Mapping[int, Beat]) -> Reports:
    """By run and epoch."""
    return {(report.run, report.epoch): report for beat in beats.values() for report in beat.runs}


def _reported(
    beats: Mapping[int, Beat], runs: Sequence[OpenRun]
) -> Iterable[tuple[OpenRun, RunReport]]:
    reports = reports_of(beats)
    for run in runs:
        if (report := reports.get((run.run_id, run.epoch))) is not None:
            yield run, report


def _is_new(beat: Beat, record: DriverRec | None) -> bool:
    return record is not None and (beat.address, _info(beat)) != (record.address, record.info)


def _noticed(
    beats: Mapping[int, Beat], nodes: Mapping[int, NodeRec], notices: Mapping[str, Notice]
) -> Iterable[tuple[int, datetime]]:
    """Nodes that are to be taken back and were not known to be, or not so soon: from the node
    itself through its driver, or from the provider. Of all that they say the earliest counts."""
    heard = {
        (w, report.name): deadline
        for w, beat in beats.items()
        for report in beat.nodes
        if report.notice_deadline and (deadline := _moment(report.notice_deadline))
    }
    for node in nodes.values():
        said = [notices[node.token].deadline] if node.token in notices else []
        if (own := heard.get((node.workflow_id, node.name))) is not None:
            said.append(own)
        if said and _is_sooner(min(said), node):
            yield node.id, min(said)


def _is_sooner(deadline: datetime, node: NodeRec) -> bool:
    known = node.notice_deadline
    return node.notice_at is None or (known is not None and deadline < known - SAME_NOTICE)


def _moment(text: str) -> datetime | None:
    """A time as a node wrote it; without a zone it is UTC. None: it is none, or of no age of ours,
    at the ends of which no time can be counted."""
    try:
        found: datetime | None = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or not 2000 <= found.year < 9000:
        log.warning("a notice for %r: that is no time", text[:40])
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _info(beat: Beat) -> dict[str, object]:
    desk = {"desk": beat.desk.model_dump()} if beat.desk is not None else {}
    return {"tls_dir": beat.tls_dir, "problem": beat.problem, **desk}


def _up(beats: Mapping[int, Beat], nodes: Mapping[int, NodeRec]) -> Iterable[NodeRec]:
    """Nodes that start, whose worker answers their own workflow's driver."""
    names = {(w, report.name) for w, beat in beats.items() for report in beat.nodes}
    for node in nodes.values():
        if node.state is NodeState.STARTING and (node.workflow_id, node.name) in names:
            yield node
