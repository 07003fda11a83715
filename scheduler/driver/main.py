"""The driver: one process per workflow, as its submitter, in a session of its own.

It holds the workflow's Dask scheduler, runs each protocol on the lead node of its gang, and tells
the broker what is. When the broker is away it goes on and tells it later; when it dies itself, its
nodes end with its Dask scheduler and the next driver resumes from the checkpoints.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from scsched.cluster import processes, storage_watch, tls
from scsched.cluster.dask_cluster import DaskCluster, start_scheduler
from scsched.cluster.enrol import Desk
from scsched.scheduler.client import Client, Cut
from scsched.scheduler.driver.execution import Execution
from scsched.scheduler.driver.members import Members
from scsched.scheduler.driver.project import Project
from scsched.scheduler.driver.storage import ProjectStorage, Wanted
from scsched.scheduler.protocol import Assignment, Beat, DeskReport, NodeReport, Orders
from scsched.steps.errors import BrokerUnreachable, Fenced, ScschedError

log = logging.getLogger("scsched.driver")
BEAT_S = 0.5


class Driver:
    """Reconciles the runs that are with the runs that should be."""

    def __init__(
        self,
        *,
        client: Client,
        assignment: Assignment,
        cluster: DaskCluster,
        project: Project,
        token: str,
        tls_dir: Path,
        desk: Desk | None,
        storage: ProjectStorage | None,
    ) -> None:
        self._client = client
        self._assignment = assignment
        self._cluster = cluster
        self._project = project
        self._token = token
        self._tls_dir = tls_dir
        self._desk = desk
        self._members = Members(cluster, desk)
        self._storage = storage
        self._executions: dict[int, Execution] = {}
        self._notices: dict[str, str] = {}
        self._news = asyncio.Event()
        self._identity = _myself()
        # A storage that hangs takes every thread that waits for it: none of them is this one.
        self._beats = ThreadPoolExecutor(1, "beat")

    async def run(self) -> None:
        """Beat until the broker says that nothing is left to do."""
        self._cluster.on_notice(self._hear_notice)
        if self._storage is not None:
            self._cluster.on_event(storage_watch.TOPIC, self._storage.hear)
        while True:
            orders = await self._beat()
            if orders is not None:
                self._members.renew_leases()
                of_runs = (node for order in orders.runs for node in order.nodes)
                self._members.expect([*orders.nodes, *of_runs])
                await self._reconcile(orders)
                if orders.end and not self._executions:
                    return
            await self._wait_for_news()

    async def stop(self) -> None:
        for execution in self._executions.values():
            execution.abandon()

    async def _wait_for_news(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), BEAT_S)
        self._news.clear()

    async def _beat(self) -> Orders | None:
        """The broker's orders, or None while it does not answer."""
        body = self._report().model_dump(mode="json")
        try:
            answer = await asyncio.get_running_loop().run_in_executor(
                self._beats, self._client.beat, self._assignment.workflow, body
            )
            return Orders.model_validate(_bare(answer))
        except (BrokerUnreachable, Cut) as exc:
            log.debug("broker away: %s", exc)
        except Fenced:
            raise
        except (ScschedError, ValidationError) as exc:
            log.warning("the broker refused a beat: %s", exc)
        return None

    def _report(self) -> Beat:
        up = self._cluster.nodes_up()
        return Beat(
            token=self._token,
            pid=self._identity.pid,
            start_ticks=self._identity.start_ticks,
            address=self._cluster.address,
            tls_dir=str(self._tls_dir),
            project=str(self._project.path) if self._project.ready else None,
            problem=self._project.problem,
            desk=_described(self._desk),
            storage=self._storage.report() if self._storage and self._project.ready else None,
            nodes=tuple(
                NodeReport(name=name, notice_deadline=self._notices.get(name))
                for name in sorted(up)
            ),
            runs=tuple(execution.report() for execution in self._executions.values()),
        )

    async def _reconcile(self, orders: Orders) -> None:
        wanted = {order.run: order for order in orders.runs}
        for run_id, execution in list(self._executions.items()):
            if run_id in wanted:
                execution.follow(wanted[run_id])
            elif execution.done:
                del self._executions[run_id]
            else:
                execution.abandon()
        for run_id, order in wanted.items():
            if run_id not in self._executions:
                self._executions[run_id] = Execution(
                    order=order,
                    cluster=self._cluster,
                    project=self._project,
                    members=self._members,
                    storage=self._storage,
                    scratch_root=self._project.shared_dir / "scratch",
                    news=self._news.set,
                )

    def _hear_notice(self, event: dict[str, object]) -> None:
        node, deadline = str(event.get("node", "")), str(event.get("deadline", ""))
        if self._notices.get(node) != deadline:
            self._notices[node] = deadline
            log.info("node %s will be taken back at %s", node, deadline)
            self._news.set()


def _described(desk: Desk | None) -> DeskReport | None:
    return DeskReport(address=desk.address, fingerprint=desk.fingerprint) if desk else None


def _myself() -> processes.Process:
    found = processes.identify(os.getpid())
    if found is None:
        raise OSError("/proc does not show this process")
    return found


def _bare(answer: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in answer.items() if key != "schema"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scsched-driver")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--workflow", type=int, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=os.environ.get("SCSCHED_LOG", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    lock = _only_one(args.work_dir / "driver.lock")
    if lock is None:
        log.warning("another driver of workflow %d is alive", args.workflow)
        return 0
    with lock:
        return asyncio.run(_serve_and_leave(args.socket, args.workflow, args.work_dir))


async def _serve_and_leave(socket: Path, workflow: int, work_dir: Path) -> NoReturn:
    """Ends the process itself: asyncio would wait for threads that a storage may hold for ever."""
    code = await _serve(socket, workflow, work_dir)
    logging.shutdown()
    os._exit(code)


async def _serve(socket: Path, workflow: int, work_dir: Path) -> int:
    token = os.environ["SCSCHED_DRIVER"]
    client = Client(socket)
    assignment = await _assignment(client, workflow, token)
    tls_dir = work_dir / "tls"
    tls.make(tls_dir, now=datetime.now(UTC))
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(start_scheduler(tls_dir, host=assignment.listen))
        desk = None
        if assignment.remote:
            desk = await stack.enter_async_context(Desk(tls_dir, host=assignment.listen))
        project = Project(assignment, work_dir)
        storage = _storage(assignment, project, cluster)
        if storage is not None:
            stack.callback(storage.close)
        driver = Driver(
            client=client,
            assignment=assignment,
            cluster=cluster,
            project=project,
            token=token,
            tls_dir=tls_dir,
            desk=desk,
            storage=storage,
        )
        beating = asyncio.ensure_future(driver.run())
        making = asyncio.ensure_future(project.make())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, beating.cancel)
        try:
            await beating
        except asyncio.CancelledError:
            log.info("told to stop")
        except Fenced as exc:
            log.warning("%s; stopping", exc)
        finally:
            making.cancel()
            await driver.stop()
            await project.close()
    return 0


def _storage(
    assignment: Assignment, project: Project, cluster: DaskCluster
) -> ProjectStorage | None:
    """What is asked of the project's storage, where nodes of other machines may come."""
    if not assignment.remote:
        return None
    wanted = Wanted(
        mounts=assignment.storages,
        min_free_gib=assignment.storage_min_free_gib,
        floor_mib_per_s=assignment.storage_floor_mib_per_s,
    )
    return ProjectStorage(project.path, project.shared_dir, wanted, cluster)


async def _assignment(client: Client, workflow: int, token: str) -> Assignment:
    """Asks until the broker answers: it may be restarting."""
    while True:
        try:
            answer = await asyncio.to_thread(client.assignment, workflow, token)
            return Assignment.model_validate(_bare(answer))
        except (BrokerUnreachable, Cut):
            await asyncio.sleep(BEAT_S)


def _only_one(path: Path) -> contextlib.AbstractContextManager[object] | None:
    """The lock of this workflow's driver, or None if another one holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


if __name__ == "__main__":
    raise SystemExit(main())
