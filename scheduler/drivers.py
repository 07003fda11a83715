"""Keep one driver alive for every workflow that has something to run.

A driver is a process of the submitter, in a session of its own, known by the token in its
environment. It is found again after a restart through that tag, never started twice, and declared
dead only on proof: its process is gone.
"""

import logging
import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process
from scsched.cluster.provider import Join, Owner
from scsched.db import drivers as driver_rows
from scsched.db import nodes as node_rows
from scsched.db.drivers import DriverRec
from scsched.db.nodes import NodeRec
from scsched.db.session import Store

log = logging.getLogger("scsched.drivers")

PROGRAM = (sys.executable, "-I", "-m", "scsched.scheduler.driver.main")
BACKOFF_S = 2.0
MAX_BACKOFF_S = 300.0


@dataclass(frozen=True, slots=True)
class Places:
    """Where drivers work and how they reach the broker."""

    state_dir: Path
    socket: Path

    def work_dir(self, workflow_id: int) -> Path:
        return self.state_dir / "wf" / str(workflow_id)

    def log(self, workflow_id: int) -> Path:
        return self.state_dir / "log" / f"driver-{workflow_id}.log"


class Drivers:
    """Starts the drivers that are wanted and missing, and notices those that have gone."""

    def __init__(
        self,
        store: Store,
        places: Places,
        deployment: str,
        *,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        """:param program: the driver's command line, but for its arguments."""
        self._program = tuple(program)
        self._store = store
        self._places = places
        self._deployment = deployment
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._last_start: dict[int, datetime] = {}
        self._records: dict[int, DriverRec] = {}
        self.wanted: frozenset[int] = frozenset()
        """Workflows that had something to run at the last tick."""

    def tick(self, now: datetime) -> None:
        self._reap()
        with self._store.read() as session:
            wanted = {record.workflow_id: record for record in driver_rows.wanted(session)}
            known = {record.workflow_id: record for record in driver_rows.known(session)}
        self._records, self.wanted = known, frozenset(wanted)
        for workflow_id, record in known.items():
            self._look_after(record, now, wanted=workflow_id in wanted)
        for workflow_id, record in wanted.items():
            if workflow_id not in known and self._is_due(record, now):
                self._start(record, now)

    def joining(self, node: NodeRec) -> tuple[Owner, Join] | None:
        """Whose the node is and where it joins; None until its driver has said hello."""
        record = self._records.get(node.workflow_id)
        tls_dir = (record.info or {}).get("tls_dir") if record else None
        if record is None or not record.address or not tls_dir:
            return None
        owner = Owner(uid=record.uid, gid=_gid(record.uid), username=record.username)
        join = Join(
            scheduler_address=record.address,
            tls_dir=Path(str(tls_dir)),
            work_dir=self._places.work_dir(node.workflow_id),
        )
        return owner, join

    def _look_after(self, record: DriverRec, now: datetime, *, wanted: bool) -> None:
        """Write down what became of a driver that was intended."""
        if record.pid is not None and record.started_ticks is not None:
            if not processes.alive(Process(record.pid, record.started_ticks)):
                self._gone(record, now, wanted=wanted)
            return
        # We died between intending and recording: the tag tells whether it was started.
        found = processes.find({tags.DRIVER: record.token or ""}, uid=record.uid)
        if found:
            self._record(record.workflow_id, record.epoch, found[0], now)
        else:
            self._gone(record, now, wanted=wanted)

    def _gone(self, record: DriverRec, now: datetime, *, wanted: bool) -> None:
        """Its nodes end with its Dask scheduler; they are asked to, in case they do not."""
        with self._store.write() as session:
            if wanted:
                log.warning("workflow %d: its driver is dead", record.workflow_id)
                why = f"process {record.pid} is gone"
                driver_rows.lost(session, record.workflow_id, record.epoch, why, now)
            else:
                driver_rows.ended(session, record.workflow_id, record.epoch, now)
            live = [node.id for node in node_rows.live(session, record.workflow_id)]
            node_rows.ask_terminate(session, live, "their driver is gone", now)

    def _is_due(self, record: DriverRec, now: datetime) -> bool:
        """A driver that keeps dying is started ever more seldom."""
        last = self._last_start.get(record.workflow_id)
        if record.failures < 2 or last is None:
            return True
        pause_s = min(BACKOFF_S * 2.0 ** min(record.failures, 16), MAX_BACKOFF_S)
        return now - last >= timedelta(seconds=pause_s)

    def _start(self, record: DriverRec, now: datetime) -> None:
        """Intend, start, record."""
        self._last_start[record.workflow_id] = now
        token = secrets.token_hex(16)
        with self._store.write() as session:
            epoch = driver_rows.intend_start(session, record.workflow_id, token, now)
        try:
            child = self._spawn(record, token)
        except OSError as exc:
            log.error("workflow %d: the driver cannot start: %s", record.workflow_id, exc)
            return
        self._children[child.pid] = child
        if (process := processes.identify(child.pid)) is not None:
            self._record(record.workflow_id, epoch, process, now)

    def _record(self, workflow_id: int, epoch: int, process: Process, now: datetime) -> None:
        with self._store.write() as session:
            driver_rows.started(session, workflow_id, epoch, process.pid, process.start_ticks, now)

    def _spawn(self, record: DriverRec, token: str) -> subprocess.Popen[bytes]:
        work_dir = self._places.work_dir(record.workflow_id)
        _make_dir(work_dir, record.uid)
        argv = [
            *self._program,
            "--socket", str(self._places.socket),
            "--workflow", str(record.workflow_id),
            "--work-dir", str(work_dir),
        ]  # fmt: skip
        with self._places.log(record.workflow_id).open("ab") as out:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=_environment(record, token, self._deployment),
                start_new_session=True,
                umask=0o022,
                **_as_user(record.uid),
            )

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]


class _User(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _as_user(uid: int) -> _User:
    """Popen's arguments to become `uid`, with its own groups and no other; none if we are it."""
    if uid == os.geteuid():
        return {}
    entry = pwd.getpwuid(uid)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": uid, "group": entry.pw_gid, "extra_groups": groups}


def _environment(record: DriverRec, token: str, deployment: str) -> Mapping[str, str]:
    mine = record.uid == os.geteuid()
    home = os.environ.get("HOME") if mine else None
    return {
        **tags.allowed(),
        "HOME": home or pwd.getpwuid(record.uid).pw_dir,
        "USER": record.username,
        "LOGNAME": record.username,
        tags.DEPLOYMENT: deployment,
        tags.DRIVER: token,
    }


def _make_dir(path: Path, uid: int) -> None:
    """Of the user alone; we never look into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and path.stat().st_uid != uid:
        os.chown(path, uid, _gid(uid))


def _gid(uid: int) -> int:
    return pwd.getpwuid(uid).pw_gid
