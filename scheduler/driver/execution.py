"""One run of one step: from its nodes being up to an end that the broker can judge."""

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster, NodeLost
from scsched.scheduler.driver import watch
from scsched.scheduler.driver.gangcheck import GangCheck
from scsched.scheduler.driver.halt import Halt
from scsched.scheduler.driver.keeper import KeeperError, Prepared
from scsched.scheduler.driver.members import Gathered, Members
from scsched.scheduler.driver.outcome import Outcome, Trace
from scsched.scheduler.driver.project import Project
from scsched.scheduler.driver.storage import ProjectStorage
from scsched.scheduler.driver.storage_gate import StorageGate
from scsched.scheduler.protocol import (
    EndReport,
    Hint,
    Phase,
    RunOrder,
    RunReport,
)

log = logging.getLogger("scsched.driver")
LOOK_S = 1.0
JOIN_POLL_S = 0.05

_HINT_OF_STOP = {"STALLED": Hint.STALLED, "TIMEOUT": Hint.TIMEOUT}


class Execution:
    """Carries out a `RunOrder`; `report` says at any moment how far it is."""

    def __init__(
        self,
        *,
        order: RunOrder,
        cluster: DaskCluster,
        members: Members,
        project: Project,
        storage: ProjectStorage | None,
        scratch_root: Path,
        news: Callable[[], None],
    ) -> None:
        self._order = order
        self._cluster = cluster
        self._members = members
        self._project = project
        self._storage = storage
        self._scratch_root = scratch_root
        self._news = news
        self._phase = Phase.WAITING
        self._trace = Trace()
        self._outcome = Outcome(order, project, self._trace)
        self._halt = Halt(order, cluster, members)
        self._gate = StorageGate(order, cluster, storage)
        self._end: EndReport | None = None
        self._stopping = ""
        self._stop_after = order.stop_after
        self._gone: frozenset[str] = frozenset()
        """Nodes of the gang that are gone as the broker says."""
        self._task = asyncio.ensure_future(self._run())

    @property
    def done(self) -> bool:
        return self._end is not None

    def report(self) -> RunReport:
        return RunReport(
            run=self._order.run,
            epoch=self._order.epoch,
            phase=self._phase,
            object_id=self._project.ids.get(self._order.ref),
            job_dir=str(self._trace.job_dir) if self._trace.job_dir else None,
            progress=self._trace.progress,
            end=self._end,
        )

    def follow(self, order: RunOrder) -> None:
        """Hear what the broker wants of this run now."""
        self._stop_after = order.stop_after
        if order.stop and not self._stopping:
            self._stop(order.stop)
        self._part_with(frozenset(node.name for node in order.nodes if node.gone))

    def abandon(self) -> None:
        """The broker has closed this run: no process of it may go on."""
        if not self._stopping:
            self._stop("fenced")

    @property
    def _scratch(self) -> Path:
        """Of this run alone; removed at its end, also when its node could not do it."""
        return self._scratch_root / f"run{self._order.run}"

    def _own_scratch(self, gathered: Gathered, what: str) -> Path:
        """Where the lead writes what nobody else reads; the lead removes it."""
        if gathered.scratch:
            return Path(gathered.scratch) / f"run{self._order.run}-{what}"
        return self._scratch / what

    @property
    def _names(self) -> list[str]:
        return [node.name for node in self._order.nodes]

    def _stop(self, why: str) -> None:
        self._stopping = why
        log.info("run %d: stop asked: %s", self._order.run, why)
        if self._phase is Phase.WAITING:
            self._task.cancel()
        else:
            self._stop_task = asyncio.ensure_future(self._end_everywhere())

    def _part_with(self, gone: frozenset[str]) -> None:
        """mpirun and Dask notice it too, a quarter of a minute later."""
        if gone <= self._gone:
            return
        self._gone = gone
        log.warning("run %d: the broker says that %s is gone", self._order.run, _names_of(gone))
        self._parting = asyncio.ensure_future(self._go_without(gone))

    async def _go_without(self, gone: frozenset[str]) -> None:
        """A run that has not begun is the broker's to give other nodes."""
        await self._cluster.forget(sorted(gone))
        if self._phase is Phase.RUNNING:
            await self._end_everywhere()

    def _complete(self) -> None:
        self._enter(Phase.COMPLETING)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._news()

    async def _run(self) -> None:
        try:
            end = await self._end_of_it()
        except asyncio.CancelledError:
            await self._end_everywhere()
            end = EndReport(hint=Hint.STOPPED, detail=self._stopping)
        except NodeLost as exc:
            end = await self._after_loss(exc)
        except Exception as exc:  # a bug of ours: the run ends and says so, the driver goes on
            log.exception("run %d", self._order.run)
            end = EndReport(hint=Hint.FAILED, detail=f"{type(exc).__name__}: {exc}")
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        self._end = end
        self._enter(Phase.ENDED)

    async def _end_of_it(self) -> EndReport:
        """:raises NodeLost: it failed where the storage is gone; elsewhere it may do well."""
        try:
            end = await self._carry_out()
        except (KeeperError, OSError) as exc:
            end = EndReport(hint=Hint.FAILED, detail=str(exc))
        if end.hint is Hint.FAILED and not self._stopping:
            await self._gate.blame(end.detail)
        return end

    async def _carry_out(self) -> EndReport:
        await self._project.wait()
        await self._nodes_up()
        if self._order.interactive:
            self._complete()
            return await self._outcome.taken_over()
        prepared = self._trace.prepared = await self._project.prepare(
            self._order.ref,
            attempt=self._order.attempt,
            ranks=self._order.ranks,
            threads=self._order.threads,
            gpu=self._order.gpus > 0,
        )
        await self._gate.wait()
        gathered = await self._members.gather(self._names, self._order.ranks, self._order.token)
        if self._halt.is_dear:
            await self._check_gang(gathered)
        self._enter(Phase.RUNNING)
        watcher = watch.Watcher(prepared, self._order.attempt)
        watching = asyncio.ensure_future(self._watch(watcher))
        try:
            result = await self._cluster.submit_attempt(
                self._names[0], self._spec(prepared, gathered)
            )
        finally:
            watching.cancel()
        # A short program may have come and gone between two looks.
        await self._look(watcher)
        await self._end_everywhere()
        if self._stopping:
            hint = _HINT_OF_STOP.get(self._stopping, Hint.STOPPED)
            return await self._outcome.bad(hint, result, self._stopping)
        if self._gone and result["exit_code"] != 0:
            raise NodeLost(f"{_names_of(self._gone)} is gone")
        return await self._outcome.of(prepared, result, self._complete)

    async def _check_gang(self, gathered: Gathered) -> None:
        """:raises NodeLost: the gang is no good; its nodes are sent away, not tried again."""
        verdict = await GangCheck(
            cluster=self._cluster,
            gang=gathered.gang,
            storage=self._project.path,
            folder=self._scratch / "verdict",
            scratch=self._own_scratch(gathered, "preflight"),
            run_token=self._order.token,
        ).verdict()
        if not verdict.ok:
            log.warning("run %d: preflight: %s", self._order.run, verdict.reason)
            await self._cluster.dismiss(self._names)
            raise NodeLost(f"preflight: {verdict.reason}")
        log.info(
            "run %d: preflight: %d ranks on %s, %.0f MiB/s",
            self._order.run,
            verdict.ranks,
            ", ".join(verdict.nodes),
            verdict.mib_per_s,
        )

    async def _nodes_up(self) -> None:
        """The broker gives the nodes their time; when it is up it takes the run back."""
        while not set(self._names) <= self._cluster.nodes_up().keys():
            await asyncio.sleep(JOIN_POLL_S)

    async def _after_loss(self, loss: NodeLost) -> EndReport:
        await self._end_everywhere()
        return await self._outcome.bad(Hint.NODE_LOST, {}, str(loss))

    async def _end_everywhere(self) -> None:
        grace_s = self._order.stop_grace_s if self._stopping else 0.0
        await self._halt.everywhere(grace_s, self._trace.job_dir)

    async def _look(self, watcher: watch.Watcher) -> bool:
        """Take note of its progress; whether its output has grown."""
        look = await asyncio.to_thread(watcher.look)
        if look.progress is not None and look.progress != self._trace.progress:
            self._trace.progress = look.progress
            self._news()
        return look.grew

    async def _watch(self, watcher: watch.Watcher) -> None:
        """Progress for the queue, and an end for a run whose output has stopped growing."""
        grew_at = started_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            grew = await self._look(watcher)
            if not self._stopping and await self._is_far_enough(watcher):
                self._trace.in_time = True
                self._stop(f"stopped after iteration {self._stop_after}, which is whole")
            now = time.monotonic()
            if grew:
                grew_at = now
            if now - grew_at - self._waited_s(grew_at) > self._order.stall_s and not self._stopping:
                self._stop("STALLED")
            if 0 < self._order.walltime_s < now - started_at and not self._stopping:
                self._stop("TIMEOUT")

    def _waited_s(self, since: float) -> float:
        """Time in which the storage did not answer, so that nothing could grow."""
        return self._storage.stalled_s(since, self._names) if self._storage else 0.0

    async def _is_far_enough(self, watcher: watch.Watcher) -> bool:
        """Whether the iteration is certified, not merely written, that it is to stop after."""
        written = (self._trace.progress or {}).get("checkpoint")
        if self._stop_after is None or written is None or written < self._stop_after:
            return False
        return await asyncio.to_thread(watcher.certified, self._stop_after)

    def _spec(self, prepared: Prepared, gathered: Gathered) -> dict[str, object]:
        order = self._order
        spec = AttemptSpec(
            run_token=order.token,
            argv=prepared.argv,
            cwd=str(prepared.cwd),
            stdout=str(prepared.stdout),
            stderr=str(prepared.stderr),
            scratch_dir=str(self._own_scratch(gathered, "attempt")),
            env={
                **self._project.environment,
                "SCSCHED_ATTEMPT": str(order.attempt),
                "SCSCHED_EXACT": "1" if order.exact else "0",
            },
            gang=gathered.gang,
            walltime_s=order.walltime_s or None,
        )
        return as_json(spec)


def _names_of(nodes: frozenset[str]) -> str:
    return ", ".join(sorted(nodes))
