"""One run of a driver with played nodes and a played project."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scsched.cluster.dask_cluster import DaskCluster
from scsched.scheduler.driver.execution import Execution
from scsched.scheduler.driver.keeper import (
    Finished,
    Inputs,
    Prepared,
)
from scsched.scheduler.driver.members import Members
from scsched.scheduler.driver.project import Project
from scsched.scheduler.driver.storage import ProjectStorage
from scsched.scheduler.protocol import EndReport, NodeOrder, Phase, RunOrder

ENDED_WELL = {"exit_code": 0, "signal": None, "timed_out": False, "oom": False}
FINISHED = Finished(status="finished", error="", outputs=(), summary="16 particles")


class PlayedNodes:
    """Node n1; its program ends when `end` is set, or when it is stopped."""

    def __init__(self) -> None:
        self.end: asyncio.Future[Mapping[str, Any]] = asyncio.get_running_loop().create_future()
        self.answers = True
        self.stopped = 0

    def nodes_up(self) -> dict[str, str]:
        return {"n1": "tls://n1"}

    async def run_on(
        self, nodes: Sequence[str], function: Callable[..., object], *args: object, **_: object
    ) -> dict[str, object]:
        if not self.answers:
            raise TimeoutError
        return {node: {"address": "", "scratch": ""} for node in nodes}

    async def stop(self, nodes: Sequence[str], token: str, **_: object) -> dict[str, object]:
        self.stopped += 1
        if not self.end.done():
            self.end.set_result({**ENDED_WELL, "exit_code": None, "signal": 15})
        return {}

    def submit_attempt(self, node: str, spec: object) -> "asyncio.Future[Mapping[str, Any]]":
        return self.end


class PlayedProject:
    """Each call raises what is set for it, once it is let through."""

    environment: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids = {"1": 2}
        self.raises: dict[str, Exception] = {}
        self.holds: dict[str, asyncio.Event] = {}
        self.called: list[str] = []

    async def wait(self) -> None:
        await self._at("wait")

    async def prepare(self, ref: str, **_: object) -> Prepared:
        await self._at("prepare")
        job = self.path / "Runs" / "000002_X"
        (job / "logs").mkdir(parents=True, exist_ok=True)
        return Prepared(
            argv=("true",), cwd=self.path, stdout=job / "logs" / "o", stderr=job / "logs" / "e",
            job_dir=job, run_db=job / "db", protocol="X", inputs=Inputs(),
        )  # fmt: skip

    async def finish(self, ref: str, **_: object) -> Finished:
        await self._at("finish")
        return FINISHED

    async def fail(self, ref: str, message: str, *, aborted: bool) -> None:
        await self._at("fail")

    def children(self, ref: str) -> Sequence[str]:
        return ()

    async def _at(self, what: str) -> None:
        self.called.append(what)
        if what in self.holds:
            await self.holds[what].wait()
        if what in self.raises:
            raise self.raises[what]


class Scene:
    """One run and all that is around it."""

    def __init__(
        self, folder: Path, *, storage: ProjectStorage | None = None, **order: Any
    ) -> None:
        self.nodes = PlayedNodes()
        self.project = PlayedProject(folder / "p")
        self.order = RunOrder(
            run=7, epoch=1, token="t", attempt=1, ref="1", protocol="X", resume="none",
            ranks=1, threads=1, nodes=(NodeOrder(name="n1", cores=1),), **order,
        )  # fmt: skip
        cluster = cast(DaskCluster, self.nodes)
        self.execution = Execution(
            order=self.order,
            cluster=cluster,
            members=Members(cluster, None),
            project=cast(Project, self.project),
            storage=storage,
            scratch_root=folder / "scratch",
            news=lambda: None,
        )

    async def until(self, done: Callable[[], object], timeout_s: float = 30.0) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end, self.execution.report()
            await asyncio.sleep(0.01)

    async def until_called(self, what: str) -> None:
        await self.until(lambda: what in self.project.called)

    def cancel(self) -> None:
        self.execution.follow(self.order.model_copy(update={"stop": "cancelled"}))

    async def end(self) -> EndReport:
        await self.until(lambda: self.execution.report().phase is Phase.ENDED)
        end = self.execution.report().end
        assert end is not None
        return end
