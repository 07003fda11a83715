"""One run of one step: from its nodes being up to an end that the broker can judge."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster, NodeLost
from scsched.scheduler.driver import watch
from scsched.scheduler.driver.gangcheck import GangCheck
from scsched.scheduler.driver.halt import Halt
from scsched.scheduler.driver.keeper import KeeperError, KeeperLost, Prepared
from scsched.scheduler.driver.members import Gathered, Members
from scsched.scheduler.driver.outcome import Outcome, Trace, end_of
from scsched.scheduler.driver.project import Project
from scsched.scheduler.driver.storage import ProjectStorage
from scsched.scheduler.driver.storage_gate import StorageGate
from scsched.scheduler.driver.watchdog import Watchdog
from scsched.scheduler.protocol import EndReport, Hint, Phase, RunOrder, RunReport

log = logging.getLogger("scsched.driver")
JOIN_POLL_S = 0.05
SWEEP_S = 10.0
"""So long the end of a run waits for its scratch to be removed: the storage may hang."""

_HINT_OF_STOP = {"STALLED": Hint.STALLED, "TIMEOUT": Hint.TIMEOUT}


class _Stopped(Exception):
    """Before anything of it ran."""


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
        self._scratch_root = scratch_root
        self._news = news
        self._phase = Phase.WAITING
        self._trace = Trace()
        self._outcome = Outcome(order, project, self._trace)
        self._halt = Halt(order, cluster, members)
        self._gate = StorageGate(order, cluster, storage)
        self._watchdog = Watchdog(order, self._trace, storage, news=news, stop=self._stop)
        self._end: EndReport | None = None
        self._may_cancel = False
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
        self._watchdog.stop_after = order.stop_after
        if order.stop:
            self._stop(order.stop)
        self._part_with(frozenset(node.name for node in order.nodes if node.gone))

    def abandon(self) -> None:
        """The broker has closed this run: no process of it may go on."""
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
        """Once; a run that has come to its end without it is let go on to that."""
        if self._trace.stopping:
            return
        self._trace.stopping = why
        log.info("run %d: stop asked: %s", self._order.run, why)
        if self._may_cancel:
            self._task.cancel()
        elif self._phase is not Phase.WAITING:
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
        """Whatever is raised, it has an end: without one it is paid for and cannot be stopped."""
        try:
            end = await self._end_of_it()
        except (Exception, asyncio.CancelledError) as exc:  # a bug of ours: the driver goes on
            end = await self._after_bug(exc)
        await self._sweep()
        self._end = end
        self._enter(Phase.ENDED)

    async def _end_of_it(self) -> EndReport:
        try:
            return await self._carried_out()
        except _Stopped:
            await self._end_everywhere()
            return end_of(Hint.STOPPED, self._trace.stopping)
        except NodeLost as exc:
            await self._end_everywhere()
            return await self._outcome.bad(Hint.NODE_LOST, {}, str(exc))

    async def _after_bug(self, bug: BaseException) -> EndReport:
        """With the hint that costs its step least: that goes on from where it was."""
        log.error("run %d", self._order.run, exc_info=bug)
        try:
            await self._end_everywhere()
        except Exception:  # the end has to be told all the same
            log.exception("run %d: it may not have ended everywhere", self._order.run)
        return end_of(Hint.NODE_LOST, f"{type(bug).__name__}: {bug}")

    async def _sweep(self) -> None:
        removing = asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        await asyncio.wait({asyncio.ensure_future(removing)}, timeout=SWEEP_S)

    async def _carried_out(self) -> EndReport:
        """:raises NodeLost: no fault of the program; elsewhere or later it may do well."""
        try:
            end = await self._carry_out()
        except KeeperLost as exc:  # its program may have done well
            raise NodeLost(str(exc)) from exc
        except (KeeperError, OSError) as exc:
            await self._end_everywhere()
            end = end_of(Hint.FAILED, str(exc))
        if end.hint is Hint.FAILED and not self._trace.stopping:
            await self._gate.blame(end.detail)
        return end

    async def _carry_out(self) -> EndReport:
        ready = await self._ready()
        if ready is None:
            self._complete()
            return await self._outcome.taken_over()
        prepared, gathered = ready
        self._trace.began = True
        self._enter(Phase.RUNNING)
        watcher = watch.Watcher(prepared, self._order.attempt)
        watching = asyncio.ensure_future(self._watchdog.watch(watcher))
        try:
            result = await self._cluster.submit_attempt(
                self._names[0], self._spec(prepared, gathered)
            )
        finally:
            watching.cancel()
        await self._watchdog.last_look(watcher)
        await self._end_everywhere()
        if self._trace.stopping:
            hint = _HINT_OF_STOP.get(self._trace.stopping, Hint.STOPPED)
            return await self._outcome.bad(hint, result, self._trace.stopping)
        if self._gone and result["exit_code"] != 0:
            raise NodeLost(f"{_names_of(self._gone)} is gone")
        return await self._outcome.of(prepared, result, self._complete)

    async def _ready(self) -> tuple[Prepared, Gathered] | None:
        """Here alone a stop is a cancel: nothing of it runs yet, and no end is on its way.

        :raises _Stopped: it came.
        """
        ready = None
        self._may_cancel = True
        try:
            if not self._trace.stopping:
                ready = await self._get_ready()
        except asyncio.CancelledError:
            if not self._trace.stopping:
                raise
        finally:
            self._may_cancel = False
        if self._trace.stopping:  # a cancel may also have been swallowed: wait_for does so
            raise _Stopped
        return ready

    async def _get_ready(self) -> tuple[Prepared, Gathered] | None:
        """None: a person has done its work."""
        await self._project.wait()
        await self._nodes_up()
        if self._order.interactive:
            return None
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
        return prepared, gathered

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
            *(self._order.run, verdict.ranks, ", ".join(verdict.nodes), verdict.mib_per_s),
        )

    async def _nodes_up(self) -> None:
        """The broker gives the nodes their time; when it is up it takes the run back."""
        while not set(self._names) <= self._cluster.nodes_up().keys():
            await asyncio.sleep(JOIN_POLL_S)

    async def _end_everywhere(self) -> None:
        grace_s = self._order.stop_grace_s if self._trace.stopping else 0.0
        await self._halt.everywhere(grace_s, self._trace.job_dir)

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
