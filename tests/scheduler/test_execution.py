"""A run always comes to an end that the broker hears of, whatever fails around its program."""

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from scsched.cluster.dask_cluster import NodeLost
from scsched.scheduler.driver import execution as executions
from scsched.scheduler.driver import watch, watchdog
from scsched.scheduler.driver.keeper import (
    KeeperError,
    KeeperLost,
)
from scsched.scheduler.driver.watch import Look, Watcher
from scsched.scheduler.protocol import Hint, Phase
from tests.scheduler.played_run import ENDED_WELL, Scene


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


def test_a_program_that_nobody_hears_of_any_more_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        await scene.until(lambda: scene.execution.report().phase is Phase.RUNNING)
        scene.nodes.end.set_exception(OSError("connection closed"))
        end = await scene.end()
        assert (end.hint, end.detail) == (Hint.FAILED, "connection closed")
        assert scene.nodes.stopped

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


def test_a_look_that_hangs_does_not_hold_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def hang(_: object) -> Look:
        looking.set()
        go_on.wait(60.0)
        return Look(grew=False, progress=None)

    monkeypatch.setattr(Watcher, "look", hang)
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "LAST_LOOK_S", 0.05)

    async def scenario() -> None:
        scene = Scene(tmp_path)
        try:
            await scene.until(looking.is_set)
            scene.cancel()
            assert (await scene.end()).hint is Hint.STOPPED
        finally:
            go_on.set()

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


# ---- the keeper -------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["prepare", "finish"])
def test_a_lost_keeper_is_no_failure_of_the_program(tmp_path: Path, call: str) -> None:
    async def scenario() -> None:
        scene = Scene(tmp_path)
        scene.project.raises[call] = KeeperLost("no answer in time")
        if call == "finish":
            await scene.until(lambda: scene.execution.report().phase is Phase.RUNNING)
            scene.nodes.end.set_result(ENDED_WELL)
        end = await scene.end()
        assert (end.hint, end.detail) == (Hint.NODE_LOST, "no answer in time")

    asyncio.run(scenario())
