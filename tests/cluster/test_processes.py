"""Processes are found by tag, and killed until none is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from scsched.cluster import processes

TAG = "SCSCHED_RUN"


@pytest.fixture
def token() -> Iterator[str]:
    value = uuid4().hex
    yield value
    processes.kill_tagged({TAG: value})


def start(*argv: str, **tags: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(argv, env={**os.environ, **tags}, stdin=subprocess.DEVNULL)


def wait_until(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_process_is_found_by_all_of_its_tags(token: str) -> None:
    with start("sleep", "60", SCSCHED_RUN=token, SCSCHED_NODE="n1") as child:
        found = processes.find({TAG: token, "SCSCHED_NODE": "n1"}, uid=os.getuid())
        assert [process.pid for process in found] == [child.pid]
        assert processes.find({TAG: token, "SCSCHED_NODE": "n2"}) == []
        assert processes.find({TAG: token}, uid=os.getuid() + 1) == []
        assert processes.parse(str(found[0])) == found[0]
        child.kill()


def test_grandchildren_in_other_sessions_are_killed_too(token: str) -> None:
    line = "setsid sleep 61 & setsid setsid sleep 62 & sleep 63"
    with start("sh", "-c", line, SCSCHED_RUN=token) as child:
        wait_until(lambda: len(processes.find({TAG: token})) == 4)
        assert processes.kill_tagged({TAG: token}, uid=os.getuid()) == 4
        assert processes.find({TAG: token}) == []
        assert child.wait(timeout=5) == -signal.SIGKILL


def test_a_process_that_keeps_forking_is_outrun(token: str) -> None:
    # It ends by itself, should nobody be left to end it.
    forker = (
        "import os, time\nend = time.monotonic() + 60\n"
        "while time.monotonic() < end:\n if os.fork(): time.sleep(0.002); os._exit(0)\n"
    )
    with start(sys.executable, "-c", forker, SCSCHED_RUN=token) as child:
        child.wait(timeout=10)
        processes.kill_tagged({TAG: token})
        assert processes.find({TAG: token}) == []


def test_what_is_spared_lives_on(token: str) -> None:
    with start("sleep", "60", SCSCHED_RUN=token) as kept:
        with start("sleep", "60", SCSCHED_RUN=token):
            assert processes.kill_tagged({TAG: token}, spare=frozenset({kept.pid})) == 1
        assert kept.poll() is None
        kept.kill()


def test_a_zombie_is_dead(token: str) -> None:
    child = start("sleep", "60", SCSCHED_RUN=token)
    found = processes.identify(child.pid)
    assert found is not None
    assert processes.alive(found)
    child.kill()
    wait_until(lambda: not processes.alive(found))
    assert processes.find({TAG: token}) == []
    assert not processes.send(found, signal.SIGKILL)
    child.wait(timeout=5)


def test_a_pid_used_again_is_another_process(token: str) -> None:
    with start("sleep", "60", SCSCHED_RUN=token) as child:
        found = processes.identify(child.pid)
        assert found is not None
        other = processes.Process(found.pid, found.start_ticks - 1)
        assert not processes.alive(other)
        assert not processes.send(other, signal.SIGKILL)
        assert child.poll() is None
        child.kill()


def test_an_exec_is_seen_through_the_cache(token: str) -> None:
    table = processes.Table()
    with subprocess.Popen(
        ["sh", "-c", f"read _; {TAG}={token} exec sleep 60"], stdin=subprocess.PIPE
    ) as child:
        assert table.find({TAG: token}) == []
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        wait_until(lambda: len(table.find({TAG: token})) == 1)
        child.kill()


def test_an_environment_is_read_once(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = processes.Table()
    read: list[int] = []
    honest = processes._environ

    def reading(pid: int) -> dict[str, str]:
        read.append(pid)
        return honest(pid)

    monkeypatch.setattr(processes, "_environ", reading)
    with start("sleep", "60", SCSCHED_RUN=token) as child:
        wait_until(lambda: len(table.find({TAG: token})) == 1)
        before = read.count(child.pid)
        assert before >= 1
        assert len(table.find({TAG: token})) == 1
        assert read.count(child.pid) == before
        child.kill()


def test_descendants_are_found_without_tags() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 64 & sleep 65"], env={}) as child:
        wait_until(lambda: len(processes.descendants(child.pid)) == 2)
        for process in processes.descendants(child.pid):
            processes.send(process, signal.SIGKILL)
        child.wait(timeout=5)
