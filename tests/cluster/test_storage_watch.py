"""A watch tells a stall without waiting for it; nodes announce it and live on."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scsched.cluster import storage_watch
from scsched.cluster.storage_look import Word
from scsched.cluster.storage_watch import Outcome, StorageWatch, probe_of
from tests.cluster.bench import Bench, OnBench, until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers a probe when it is told to, with what it is told."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answers: list[Outcome] = []
        self._ready = threading.Semaphore(0)

    def probe(self) -> Outcome:
        self.asked.release()
        assert self._ready.acquire(timeout=20)
        return self.answers.pop(0)

    def answer(self, found: Outcome) -> None:
        self.answers.append(found)
        self._ready.release()


@contextmanager
def watched(server: Server, clock: Clock, **more: Any) -> Any:
    watch = StorageWatch(server.probe, period_s=0.0, stall_s=10.0, clock=clock, **more)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
        server.answer(Outcome())


def test_no_answer_for_long_is_a_stall_and_an_answer_ends_it() -> None:
    server, clock = Server(), Clock()
    with watched(server, clock) as watch:
        assert server.asked.acquire(timeout=5)
        clock.now += 9.0
        assert watch.state().word is Word.OK
        clock.now += 31.0
        stalled = watch.state()
        assert (stalled.word, stalled.for_s) == (Word.STALLED, 40.0)
        assert watch.state().since == stalled.since
        server.answer(Outcome(free=5))
        assert server.asked.acquire(timeout=5)
        state = watch.state()
        assert (state.word, state.free) == (Word.OK, 5)
        assert state.for_s == 0.0, "it is well since the stall's end, not since before"


def test_what_a_probe_finds_is_the_state_until_the_next() -> None:
    server, clock = Server(), Clock()
    with watched(server, clock) as watch:
        for word in (Word.FULL, Word.READ_ONLY, Word.STALE, Word.BROKEN, Word.OK):
            assert server.asked.acquire(timeout=5)
            server.answer(Outcome(word=word, detail="why"))
            assert server.asked.acquire(timeout=5)
            server.asked.release()
            clock.now += 1.0
            assert (watch.state().word, watch.state().for_s) == (word, 1.0)


def test_spare_work_between_probes_may_take_longer_than_a_probe() -> None:
    server, clock = Server(), Clock()
    at_it, over = threading.Event(), threading.Event()

    def spare(seconds: float) -> None:
        at_it.set()
        assert over.wait(20)

    with watched(server, clock, spare=spare) as watch:
        server.answer(Outcome())
        assert at_it.wait(5)
        clock.now += 30.0
        assert watch.state().word is Word.OK
        clock.now += 60.0
        assert watch.state().word is Word.STALLED
        over.set()


def test_a_probe_writes_one_hidden_file(tmp_path: Path) -> None:
    probe = probe_of(tmp_path, "n1")
    for _ in range(3):
        found = probe()
        assert (found.word, found.detail) == (Word.OK, "")
    assert found.free
    assert [path.name for path in tmp_path.iterdir()] == [".watch-n1"]


def test_a_probe_says_what_is_wrong(tmp_path: Path) -> None:
    found = probe_of(tmp_path / "gone", "n1")()
    assert found.word is Word.BROKEN
    assert found.detail == f"{tmp_path / 'gone'}: No such file or directory"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_probe_that_finds_no_space_says_full(tmp_path: Path) -> None:
    (tmp_path / ".watch-n1.part").symlink_to("/dev/full")
    found = probe_of(tmp_path, "n1")()
    assert found.word is Word.FULL
    assert found.free, "how much is free was seen before"


def test_a_node_whose_storage_stalls_says_so_and_lives(on_bench: OnBench) -> None:
    async def scenario(bench: Bench) -> None:
        folder = bench.folder / "beside"
        folder.mkdir()
        part = folder / ".watch-n1.part"
        os.mkfifo(part)  # opening it waits, as an NFS server that is gone lets one wait
        heard: list[dict[str, object]] = []
        bench.cluster.on_event(storage_watch.TOPIC, heard.append)
        begin: Callable[..., object] = storage_watch.watch
        assert await bench.cluster.run_on(["n1"], begin, str(folder), 0.2, 0.5) == {"n1": True}
        assert await bench.cluster.run_on(["n1"], begin, str(folder), 0.2, 0.5) == {"n1": False}
        await until(lambda: heard)
        assert (heard[0]["node"], heard[0]["word"]) == ("n1", "stalled")
        assert heard[0]["folder"] == str(folder)
        end = await bench.cluster.submit_attempt("n1", bench.spec("true"))
        assert end["exit_code"] == 0, "the node itself is well"
        reader = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
        part.unlink()
        await until(lambda: heard[-1]["word"] == "ok")
        os.close(reader)
        assert list(bench.cluster.nodes_up()) == ["n1"]
        await bench.cluster.run_on(["n1"], storage_watch.unwatch, str(folder))

    on_bench(scenario, 1)


def test_a_watch_ends_and_may_begin_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        assert await storage_watch.watch(str(tmp_path), 0.01)
        await storage_watch.unwatch(str(tmp_path))
        await storage_watch.unwatch(str(tmp_path))
        assert await storage_watch.watch(str(tmp_path), 0.01)
        await storage_watch.unwatch(str(tmp_path))

    asyncio.run(scenario())
