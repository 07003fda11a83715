"""Keep one driver alive for every workflow that has something to run.

A driver is a process of the submitter, in a session of its own, known by the token in its
environment. It is found again after a restart through that tag, never started twice, and declared
dead only on proof: its process is gone. One that has said nothing for long is killed, which is such
a proof: what its last beat told of its nodes would count for ever.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from scsched.cluster.processes import Process
from scsched.cluster.provider import Desk, Join, Owner
from scsched.db import drivers as driver_rows
from scsched.db import nodes as node_rows
from scsched.db.drivers import DriverRec
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.driver_processes import group_of
from scsched.scheduler.presence import WITNESSED_S

log = logging.getLogger("scsched.drivers")

BACKOFF_S = 2.0
MAX_BACKOFF_S = 300.0
SILENT_S = 300.0
"""A driver that works speaks twice a second, from a thread that waits for no storage."""


class Programs(Protocol):
    """Where drivers run."""

    def work_dir(self, workflow_id: int) -> Path:
        """Folder of the workflow's own, as its owner sees it."""
        ...

    def start(self, record: DriverRec, token: str) -> Process | None:
        """Start a driver that is found by `token`; None: it has ended already.

        :raises OSError: it cannot be started.
        """
        ...

    def find(self, record: DriverRec) -> Process | None:
        """The driver that was started under the record's token, if it lives."""
        ...

    def alive(self, process: Process) -> bool: ...

    def last_words(self, record: DriverRec) -> str:
        """The last line of what this driver has written, bounded; empty: it wrote nothing."""
        ...

    def end(self, process: Process) -> None:
        """It goes without a word, as soon as the kernel lets it."""
        ...


class Drivers:
    """Starts the drivers that are wanted and missing, and notices those that have gone."""

    def __init__(self, store: Store, programs: Programs, heard: Callable[[int], int]) -> None:
        """:param heard: how many beats of a workflow's drivers there were so far."""
        self._store = store
        self._programs = programs
        self._silences = _Silences(heard)
        self._last_start: dict[int, datetime] = {}
        self._records: dict[int, DriverRec] = {}
        self._refusals: dict[int, str] = {}
        """Why the driver that was intended last could not be started, by workflow."""
        self.wanted: frozenset[int] = frozenset()
        """Workflows that had something to run at the last tick."""
        self._unknown: set[int] = set()
        """Users without an account here, of whom it was told."""

    def tick(self, now: datetime) -> None:
        with self._store.read() as session:
            wanted = {record.workflow_id: record for record in driver_rows.wanted(session)}
            known = {record.workflow_id: record for record in driver_rows.known(session)}
        self._records, self.wanted = known, frozenset(wanted)
        self._silences.note(known.values(), now)
        for workflow_id, record in known.items():
            self._look_after(record, now, wanted=workflow_id in wanted)
        for workflow_id, record in wanted.items():
            if workflow_id not in known and self._is_due(record, now):
                self._start(record, now)

    def joining(self, node: NodeRec) -> tuple[Owner, Join] | None:
        """Whose the node is and where it joins; None until its driver has said hello, and while its
        owner's account cannot be looked up."""
        record = self._records.get(node.workflow_id)
        tls_dir = (record.info or {}).get("tls_dir") if record else None
        if record is None or not record.address or not tls_dir:
            return None
        gid = self._group_of(record)
        if gid is None:
            return None
        owner = Owner(uid=record.uid, gid=gid, username=record.username)
        join = Join(
            scheduler_address=record.address,
            tls_dir=Path(str(tls_dir)),
            work_dir=self._programs.work_dir(node.workflow_id),
            desk=_desk(record),
        )
        return owner, join

    def _group_of(self, record: DriverRec) -> int | None:
        try:
            gid = group_of(record.uid)
        except KeyError:
            if record.uid not in self._unknown:
                self._unknown.add(record.uid)
                words = "workflow %d: uid %d (%s) has no account here, no node is launched for it"
                log.error(words, record.workflow_id, record.uid, record.username)
            return None
        self._unknown.discard(record.uid)
        return gid

    def _look_after(self, record: DriverRec, now: datetime, *, wanted: bool) -> None:
        """Write down what became of a driver that was intended."""
        if record.pid is not None and record.started_ticks is not None:
            process = Process(record.pid, record.started_ticks)
            if not self._programs.alive(process):
                self._gone(record, now, wanted=wanted)
            elif self._silences.of(record) >= SILENT_S:
                self._end(record, process, now)
            return
        # We died between intending and recording: the tag tells whether it was started.
        found = self._programs.find(record)
        if found is not None:
            self._record(record.workflow_id, record.epoch, found, now)
        else:
            self._gone(record, now, wanted=wanted)

    def _end(self, record: DriverRec, process: Process, now: datetime) -> None:
        """Intend, act; that it is gone is recorded when it is seen gone."""
        if self._silences.is_news(record):
            log.error("workflow %d: its driver says nothing; killed", record.workflow_id)
            why = f"process {process.pid} has said nothing for {SILENT_S:.0f} s: it is killed"
            with self._store.write() as session:
                driver_rows.silent(session, record.workflow_id, record.epoch, why, now)
        self._programs.end(process)

    def _gone(self, record: DriverRec, now: datetime, *, wanted: bool) -> None:
        """Its nodes end with its Dask scheduler; they are asked to, in case they do not."""
        with self._store.write() as session:
            if wanted:
                why = self._why_gone(record)
                log.warning("workflow %d: its driver is dead: %s", record.workflow_id, why)
                driver_rows.lost(session, record.workflow_id, record.epoch, why, now)
            else:
                driver_rows.ended(session, record.workflow_id, record.epoch, now)
            live = [node.id for node in node_rows.live(session, record.workflow_id)]
            node_rows.ask_terminate(session, live, "their driver is gone", now)

    def _why_gone(self, record: DriverRec) -> str:
        """For its owner to read."""
        refusal = self._refusals.pop(record.workflow_id, "")
        if refusal:
            return f"it did not start: {refusal}"
        what = f"process {record.pid} is gone" if record.pid else "it did not start"
        said = self._programs.last_words(record)
        return f"{what}; its last words: {said}" if said else what

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
            process = self._programs.start(record, token)
        except OSError as exc:
            log.error("workflow %d: the driver cannot start: %s", record.workflow_id, exc)
            self._refusals[record.workflow_id] = str(exc)
            return
        if process is not None:
            self._record(record.workflow_id, epoch, process, now)

    def _record(self, workflow_id: int, epoch: int, process: Process, now: datetime) -> None:
        with self._store.write() as session:
            driver_rows.started(session, workflow_id, epoch, process.pid, process.start_ticks, now)


@dataclass(slots=True)
class _Silence:
    epoch: int
    heard: int
    seconds: float = 0.0
    told: bool = False


class _Silences:
    """For how long drivers have said nothing, as far as the broker was there to hear."""

    def __init__(self, heard: Callable[[int], int]) -> None:
        self._heard = heard
        self._known: dict[int, _Silence] = {}
        self._last: datetime | None = None

    def note(self, records: Iterable[DriverRec], now: datetime) -> None:
        """Once a look."""
        gap_s = 0.0 if self._last is None else (now - self._last).total_seconds()
        gap_s = min(max(0.0, gap_s), WITNESSED_S)
        self._last = now
        self._known = {record.workflow_id: self._after(record, gap_s) for record in records}

    def of(self, record: DriverRec) -> float:
        """Seconds."""
        return self._known[record.workflow_id].seconds

    def is_news(self, record: DriverRec) -> bool:
        """At the first call for a driver."""
        known = self._known[record.workflow_id]
        first, known.told = not known.told, True
        return first

    def _after(self, record: DriverRec, gap_s: float) -> _Silence:
        known, heard = self._known.get(record.workflow_id), self._heard(record.workflow_id)
        if known is None or known.epoch != record.epoch or known.heard != heard:
            return _Silence(record.epoch, heard)
        known.seconds += gap_s
        return known


def _desk(record: DriverRec) -> Desk | None:
    """Where its remote nodes fetch their keys."""
    found = (record.info or {}).get("desk")
    if not isinstance(found, dict):
        return None
    return Desk(address=str(found["address"]), fingerprint=str(found["fingerprint"]))
