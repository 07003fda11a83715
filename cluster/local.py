"""Nodes on this machine: a process group each, which behaves as a machine of its own would.

A node is known by the tags in its environment, so a provider that starts anew, or that died
between starting a node and writing it down, finds it again in /proc. Nodes survive their
provider. The files in `state_dir` hold only what /proc cannot tell: why a node ended, when one is
to be taken back, and on which CPUs it is.

    state_dir/nodes/<token>.json     record           state_dir/nodes/<token>.log   its first words
    state_dir/notices/<token>.json   what the node polls, as it would ask a cloud's metadata server
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from scsched.cluster import cgroup, processes, rundir, tags
from scsched.cluster.local_processes import Found, Nodes, main_of
from scsched.cluster.node import NodeSpec, to_json
from scsched.cluster.pools import Pool
from scsched.cluster.processes import Process
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Price,
    ProviderError,
    Refused,
    Seen,
    Traits,
    Unreachable,
    by_gang,
    gang_of,
    in_order,
)
from scsched.cluster.records import Record, Records

_log = logging.getLogger(__name__)
_POOL = "SCSCHED_POOL"
_GRACE_S = 2.0
_KEPT = timedelta(hours=1)
_SPOT = "spot"


class LocalProvider:
    """One at a time per `state_dir` and deployment; its methods may be called from any thread.

    As root it starts nodes as their owners, who must be able to search `state_dir` (mode 0711) and
    to run `python`.
    """

    traits = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)

    def __init__(
        self,
        state_dir: Path,
        deployment: str,
        *,
        python: str = sys.executable,
        pin_cpus: bool = True,
    ) -> None:
        self._deployment = deployment
        self._pin_cpus = pin_cpus
        self._notices = _directory(state_dir / "notices", 0o711)
        self._records = Records(_directory(state_dir / "nodes", 0o700))
        self._nodes = Nodes(deployment, python, self._records)
        self._lock = threading.RLock()

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        """See `Provider.launch`."""
        with self._lock:
            gangs = by_gang(requests)
            return in_order(requests, (answer for gang in gangs for answer in self._launch(gang)))

    def list(self) -> tuple[Seen, ...]:
        """See `Provider.list`; one pass over /proc."""
        with self._lock:
            found = self._nodes.found()
            for token in found:
                self._adopt(token, found[token])
            self._close_ended(found, datetime.now(UTC))
            return tuple(_seen(record, found) for record in self._records if record.provider_id)

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`; on return nothing of the nodes is left."""
        with self._lock:
            self._ask_to_end(tokens)
            self._kill(tokens, reason="")

    def notices(self) -> tuple[Notice, ...]:
        """See `Provider.notices`."""
        with self._lock:
            return tuple(
                Notice(record.token, datetime.fromisoformat(record.deadline))
                for record in self._records
                if record.deadline and not record.ended
            )

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        """See `Provider.prices`: a machine at home has none but those of the configuration."""
        return ()

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        """Act as a spot market: take the node back `notice_s` from now, or at once without notice.

        `tick` does the taking, after a restart of ours too. A node that is gone is left alone.
        """
        with self._lock:
            record = self._records.get(token)
            if record is None or record.ended:
                return
            deadline = (now + timedelta(seconds=notice_s or 0.0)).isoformat()
            record = self._records.write(record, deadline=deadline)
            if notice_s is None:
                self.tick(now)
            else:
                self._put_notice(record)

    def tick(self, now: datetime) -> tuple[str, ...]:
        """Take back the nodes whose time has come, without a word; returns their tokens.

        Ends what is left of nodes whose own process died: a machine leaves nothing either.
        """
        with self._lock:
            dead = [token for token, node in self._nodes.found().items() if node.main is None]
            self._kill(dead, reason="")
            due = [r.token for r in self._records if r.is_due(now) and not r.ended]
            self._kill(due, reason=_SPOT)
            self._records.forget(older_than=_KEPT, now=now)
            return tuple(due)

    def _launch(self, gang: Sequence[LaunchRequest]) -> Sequence[Launched | Refused]:
        """All of it that is not there yet, or nothing."""
        there: dict[str, str] = {}
        error: ProviderError = Unreachable(f"node {gang[0].name}: was not started")
        try:
            found = self._nodes.found()
            for request in gang:
                node = found.get(request.token)
                if node is not None and node.main is not None:
                    there[request.token] = self._adopt(request.token, node).provider_id
            missing = [request for request in gang if request.token not in there]
            self._check(missing, found)
            there |= self._spawn_all(missing)
        except ProviderError as exc:
            error = exc
        except OSError as exc:
            # A record cannot be written; nodes may be there, and a repeat finds them.
            error = Unreachable(f"node {gang[0].name}: {exc}")
        return [
            Launched(request.token, there[request.token])
            if request.token in there
            else Refused(request.token, error)
            for request in gang
        ]

    def _check(self, missing: Sequence[LaunchRequest], found: Mapping[str, Found]) -> None:
        """:raises ProviderError: they cannot all be started."""
        for request in missing:
            self._check_one(request)
        if not missing:
            return
        pool, gang = missing[0].pool, gang_of(missing[0].token)
        known = {*found, *(record.token for record in self._records)}
        for token in sorted(token for token in known if gang_of(token) == gang):
            if self._has_ended(token, found):
                raise BadRequest(f"the node of {token} has ended; use a new token")
        used = sum(node.pool == pool.name for node in found.values())
        if used + len(missing) > pool.max_nodes:
            raise NoCapacity(f"pool {pool.name}: {used} of {pool.max_nodes} nodes are in use")

    def _check_one(self, request: LaunchRequest) -> None:
        name = request.name
        if request.deployment != self._deployment:
            raise BadRequest(f"{name}: deployment {request.deployment} is not {self._deployment}")
        if not request.token.replace("-", "").isalnum():
            raise BadRequest(f"{name}: token {request.token!r}; letters, digits and - only")
        if not name.isidentifier():
            raise BadRequest(f"node name {name!r}; letters, digits and _ only")
        if os.geteuid() not in (0, request.owner.uid):
            raise BadRequest(f"{name}: only root can start it as {request.owner.username}")

    def _has_ended(self, token: str, found: Mapping[str, Found]) -> bool:
        if token in found:
            return found[token].main is None
        record = self._records.get(token)
        return record is not None and bool(record.provider_id)

    def _spawn_all(self, requests: Sequence[LaunchRequest]) -> dict[str, str]:
        """Their processes by token; when one cannot be started, none is left."""
        try:
            return {request.token: self._spawn(request) for request in requests}
        except ProviderError:
            self._undo([request.token for request in requests])
            raise

    def _undo(self, tokens: Sequence[str]) -> None:
        """As if these had never been asked for.

        :raises Unreachable: some of them may be there still.
        """
        self._kill(tokens, reason="")
        for token in tokens:
            self._records.remove(token)

    def _spawn(self, request: LaunchRequest) -> str:
        """Record the intent, start, record the outcome."""
        record = Record(
            token=request.token,
            name=request.name,
            pool=request.pool.name,
            uid=request.owner.uid,
            cpus=self._pick_cpus(request.pool.cores),
        )
        self._records.write(record)
        pid = self._nodes.start(request, to_json(self._spec(request, record)))
        cgroup.limit(request.token, request.pool.memory_gib, pid)
        provider_id = str(processes.identify(pid) or Process(pid, 0))
        self._records.write(record, provider_id=provider_id)
        _log.info("node %s was started as pid %s", request.name, pid)
        return provider_id

    def _spec(self, request: LaunchRequest, record: Record) -> NodeSpec:
        return NodeSpec(
            name=request.name,
            token=request.token,
            deployment=self._deployment,
            scheduler_address=request.join.scheduler_address,
            tls_dir=str(request.join.tls_dir),
            work_dir=str(request.join.work_dir),
            notice_file=str(self._notice_path(request.token)),
            cpus=record.cpus,
            join_s=request.pool.boot_s,
        )

    def _pick_cpus(self, cores: int) -> tuple[int, ...]:
        """The CPUs that the fewest of our nodes are on; empty, for all, when it has them all."""
        ours = sorted(os.sched_getaffinity(0))
        if not self._pin_cpus or cores >= len(ours):
            return ()
        load = Counter(cpu for r in self._records if not r.ended for cpu in r.cpus)
        return tuple(sorted(sorted(ours, key=lambda cpu: (load[cpu], cpu))[:cores]))

    def _adopt(self, token: str, found: Found) -> Record:
        """The record of a node that is there, made good where we died before writing it."""
        record = self._records.get(token)
        if record is not None and record.provider_id:
            return record
        blank = Record(token=token, name=found.name, pool=found.pool, uid=found.uid)
        return self._records.write(record or blank, provider_id=str(found.main or "gone"))

    def _close_ended(self, found: Mapping[str, Found], now: datetime) -> None:
        for record in self._records:
            if record.provider_id and not record.ended and record.token not in found:
                self._end(record, now, _SPOT if record.is_due(now) else "")

    def _ask_to_end(self, tokens: Sequence[str]) -> None:
        found = self._nodes.found()
        mains = [found[token].main for token in tokens if token in found]
        asked = [main for main in mains if main and processes.send(main, signal.SIGTERM)]
        end = time.monotonic() + _GRACE_S
        while any(map(processes.alive, asked)) and time.monotonic() < end:
            time.sleep(0.02)

    def _kill(self, tokens: Sequence[str], reason: str) -> None:
        for token in tokens:
            record = self._records.get(token)
            if record is not None and not record.ended and (main := main_of(record)):
                processes.send(main, signal.SIGKILL)
            ours = {tags.DEPLOYMENT: self._deployment, tags.NODE_TOKEN: token}
            try:
                processes.kill_tagged(ours, uid=None if record is None else record.uid)
            except TimeoutError as exc:
                raise Unreachable(str(exc)) from exc
            if record is not None and not record.ended:
                self._end(record, datetime.now(UTC), reason)

    def _end(self, record: Record, now: datetime, reason: str) -> None:
        self._notice_path(record.token).unlink(missing_ok=True)
        cgroup.remove(record.token)
        rundir.remove(record.uid, self._deployment, record.name)
        self._records.write(record, ended=now.isoformat(), reason=reason)
        _log.info("node %s ended%s", record.name, f": {reason}" if reason else "")

    def _put_notice(self, record: Record) -> None:
        path = self._notice_path(record.token)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"deadline": record.deadline}), encoding="ascii")
        if record.uid != os.geteuid():
            os.chown(temporary, record.uid, -1)
        temporary.chmod(0o600)
        temporary.replace(path)

    def _notice_path(self, token: str) -> Path:
        return self._notices / f"{token}.json"


def _seen(record: Record, found: Mapping[str, Found]) -> Seen:
    node = found.get(record.token)
    state = NodeState.TERMINATED if record.ended else NodeState.RUNNING
    if node is not None and node.main is None:
        state = NodeState.STOPPING
    return Seen(record.token, record.provider_id, state, record.reason)


def _directory(path: Path, mode: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path
