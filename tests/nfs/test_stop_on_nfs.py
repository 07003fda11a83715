"""An attempt is stopped in time though its project's storage answers nobody."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scsched.cluster import processes, tags
from scsched.cluster.abort import ABORT_FILE
from tests.nfs import places
from tests.nfs.conftest import Shared
from tests.nfs.export import missing, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no NFS in user space: {missing()}"),
]
PROGRAM = Path(__file__).with_name("stop_on_host.py")
LAUNCHER = """
import sys
from pathlib import Path
from scsched.cluster.child import Child
print(Child(Path(sys.argv[1])).run(["sh", "-c", "sleep 60 & echo up; wait"]), flush=True)
"""
IN_TIME_S = 30.0
"""1 s of grace, 2 s and 2 s for what storage may be asked, and a busy machine. Or for ever."""


class Attempt:
    """At work on host a, in `folder` of the storage."""

    def __init__(self, shared: Shared, folder: Path, scratch: Path) -> None:
        argv = [sys.executable, "-I", str(PROGRAM), str(folder), str(scratch)]
        self.out = scratch.with_suffix(".said")
        self.token = str(scratch)
        self.log = scratch.with_suffix(".out")
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(
                shared.a.argv(*argv), stdin=subprocess.PIPE, stdout=out, stderr=out
            )

    def stop(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(ValueError):  # it has been told before
            self.process.stdin.write(b"\n")
            self.process.stdin.close()

    def said(self) -> list[str]:
        return self.out.read_text().splitlines()

    def answer(self) -> dict[str, Any]:
        until(lambda: len(self.said()) > 1, "stopping it hangs:", self.out)
        found: dict[str, Any] = json.loads(self.said()[1])
        return found


@contextlib.contextmanager
def paused(shared: Shared, attempt: Attempt) -> Iterator[None]:
    """When the server answers again the attempt comes to its end, and nothing of it goes on."""
    shared.export.pause()
    try:
        yield
    finally:
        shared.export.resume()
        attempt.stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            attempt.process.wait(places.TIMEOUT_S)
        places.end(attempt.process)
    assert attempt.process.returncode == 0
    assert not processes.find({tags.RUN: attempt.token})


@pytest.fixture
def folder(shared: Shared, request: pytest.FixtureRequest) -> Path:
    """Unknown to host a so far, so that it must ask the server."""
    (shared.disk / str(request.node.name)).mkdir()
    return shared.path / str(request.node.name)


def test_an_attempt_at_work_is_killed_while_storage_stalls(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    attempt = Attempt(shared, folder, tmp_path / "scratch")
    until(lambda: attempt.log.exists() and attempt.log.read_text() == "up\n", "no start")
    with paused(shared, attempt):
        attempt.stop()
        answer = attempt.answer()
    assert answer["alive"] == 0
    assert answer["terminated"] > 0
    assert answer["s"] < IN_TIME_S


def test_a_start_that_storage_holds_up_does_not_hold_up_the_node(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        shared.export.pause()
        attempt = Attempt(shared, folder, tmp_path / "scratch")
        stack.enter_context(paused(shared, attempt))
        until(lambda: attempt.said() == ["started"], "the node stands still:", attempt.out)
        attempt.stop()
        answer = attempt.answer()
    assert answer["alive"] == 0
    assert answer["s"] < IN_TIME_S


def test_a_launcher_s_command_ends_while_storage_stalls(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "said"
    argv = (sys.executable, "-c", LAUNCHER, str(folder / ABORT_FILE))
    launcher = shared.a.start(*argv, out=out)
    until(lambda: out.read_text() == "up\n", "no start:", out)
    command = psutil.Process(launcher.pid).children(recursive=True)
    assert len(command) == 2
    shared.export.pause()
    try:
        began = time.monotonic()
        launcher.send_signal(signal.SIGTERM)
        until(lambda: not any(one.is_running() for one in command), "the command goes on")
        assert time.monotonic() - began < IN_TIME_S
        until(lambda: out.read_text() == "up\n143\n", "the launcher hangs:", out)
    finally:
        shared.export.resume()
    assert launcher.wait(places.TIMEOUT_S) == 0
