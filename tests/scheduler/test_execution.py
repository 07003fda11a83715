"""A run always comes to an end that the broker hears of, whatever fails around its program."""

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from scsched.cluster.dask_cluster import DaskCluster, NodeLost
from scsched.scheduler.driver import execution as executions
from scsched.scheduler.driver import watch, watchdog
from scsched.scheduler.driver.execution import Execution
from scsched.scheduler.driver.keeper import Finished, Inputs, KeeperError, Prepared
from scsched.scheduler.driver.members import Members
from scsched.scheduler.driver.project import Project
from scsched.scheduler.driver.watch import Look, Watcher
from scsched.scheduler.protocol import EndReport, Hint, NodeOrder, Phase, RunOrder

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

    async def finish(self, ref: str) -> Finished:
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

    def __init__(self, folder: Path, **order: Any) -> None:
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
            storage=None,
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


def test_a_stop_before_anything_runs_ends_it_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.holds["prepare"] = asyncio.Event()
        await scene.until_called("prepare")
        scene.cancel()
        end = await scene.end()
        assert (end.hint, end.detail) == (Hint.STOPPED, "cancelled")
        assert scene.nodes.stopped

    asyncio.run(scenario())


def test_a_stop_ends_the_program(tmp_path: Path) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        await scene.until(lambda: scene.execution.report().phase is Phase.RUNNING)
        scene.cancel()
        assert (await scene.end()).hint is Hint.STOPPED

    asyncio.run(scenario())


def test_a_stop_does_not_take_away_an_end_that_waits_for_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeping, go_on = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        sweeping.set()
        go_on.wait(30.0)

    monkeypatch.setattr(shutil, "rmtree", hang)

    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.raises["prepare"] = KeeperError("no such file")
        await scene.until(sweeping.is_set)
        scene.cancel()
        scene.execution.abandon()
        await asyncio.sleep(0.05)
        go_on.set()
        end = await scene.end()
        assert (end.hint, end.detail) == (Hint.FAILED, "no such file")

    asyncio.run(scenario())


def test_a_scratch_that_cannot_be_removed_does_not_hold_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: go_on.wait(60.0))
    monkeypatch.setattr(executions, "SWEEP_S", 0.05)

    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.raises["prepare"] = KeeperError("no such file")
        try:
            assert (await scene.end()).hint is Hint.FAILED
        finally:
            go_on.set()

    asyncio.run(scenario())


def test_a_stop_while_the_loss_of_a_node_is_dealt_with_leaves_an_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.nodes.answers = False
        held = scene.project.holds["fail"] = asyncio.Event()
        await scene.until_called("fail")
        scene.cancel()
        await asyncio.sleep(0.05)
        held.set()
        assert (await scene.end()).hint is Hint.NODE_LOST

    asyncio.run(scenario())


def test_a_fault_while_the_loss_of_a_node_is_dealt_with_leaves_an_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.raises["fail"] = subprocess.TimeoutExpired("keeper", 10)
        await scene.until(lambda: scene.execution.report().phase is Phase.RUNNING)
        scene.nodes.end.set_exception(NodeLost("node n1 was lost"))
        end = await scene.end()
        assert end.hint is Hint.NODE_LOST
        assert end.detail.startswith("TimeoutExpired: ")
        assert scene.nodes.stopped

    asyncio.run(scenario())
    assert "Traceback" in caplog.text


def test_words_too_long_or_with_zero_bytes_are_no_obstacle(tmp_path: Path) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.raises["prepare"] = ZeroDivisionError(f"{'x' * 9000}\0end")
        end = await scene.end()
        assert end.hint is Hint.NODE_LOST
        assert end.detail.endswith("xend")

    asyncio.run(scenario())


# ---- the watch --------------------------------------------------------------------------------


def unreadable(_: object) -> Look:
    raise OSError(116, "Stale file handle")


def test_a_run_of_which_nothing_can_be_read_is_ended_as_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Watcher, "look", unreadable)
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)

    async def scenario() -> None:
        scene = Scene(tmp_path, stall_s=0.2)
        assert (await scene.end()).hint is Hint.STALLED

    asyncio.run(scenario())
    assert caplog.text.count("Stale file handle") == 1, "not at every look"


def test_a_look_that_failed_once_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notice's order to stop after an iteration is obeyed all the same."""
    looks: list[Callable[[], Look]] = [
        lambda: unreadable(None),
        lambda: Look(grew=True, progress={"checkpoint": 3}),
    ]
    answers: list[Callable[[], bool]] = [lambda: bool(unreadable(None)), lambda: True]
    monkeypatch.setattr(Watcher, "look", lambda _: (looks.pop(0) if looks[1:] else looks[0])())
    monkeypatch.setattr(
        Watcher, "certified", lambda *_: (answers.pop(0) if answers[1:] else answers[0])()
    )
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)

    async def scenario() -> None:
        scene = Scene(tmp_path, stop_after=3)
        end = await scene.end()
        assert (end.hint, end.iterations_lost) == (Hint.STOPPED, 0)
        assert end.detail == "stopped after iteration 3, which is whole"

    asyncio.run(scenario())


def test_a_last_look_that_fails_does_not_spoil_a_run_that_ended_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "look", unreadable)
    monkeypatch.setattr(watch, "output_problem", lambda *_: "")
    monkeypatch.setattr(watch, "iterations", lambda *_: unreadable(None))

    async def scenario() -> None:
        scene = Scene(tmp_path)
        await scene.until(lambda: scene.execution.report().phase is Phase.RUNNING)
        scene.nodes.end.set_result(ENDED_WELL)
        end = await scene.end()
        assert (end.hint, end.detail) == (Hint.COMPLETED, "16 particles")
        assert scene.nodes.stopped

    asyncio.run(scenario())
