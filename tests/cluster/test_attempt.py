"""An attempt ends, is stopped or runs out of time, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from scsched.cluster import attempt, processes, tags
from scsched.cluster.abort import ABORT_FILE
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.gang import spread
from scsched.steps.errors import ConfigError

MakeSpec = Callable[..., AttemptSpec]


@pytest.fixture
def make_spec(weird_dir: Path) -> MakeSpec:
    def make(*argv: str, **changes: Any) -> AttemptSpec:
        fields = {
            "run_token": uuid4().hex,
            "argv": argv,
            "cwd": str(weird_dir),
            "stdout": str(weird_dir / "out.txt"),
            "stderr": str(weird_dir / "err.txt"),
            "scratch_dir": str(weird_dir / "scratch" / "run 1"),
        }
        return AttemptSpec(**{**fields, **changes})

    return make


def run(spec: AttemptSpec) -> dict[str, Any]:
    return attempt.run_attempt(as_json(spec))


def wait_until(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def stopped_after(ready: Path, spec: AttemptSpec, **how: Any) -> dict[str, Any]:
    """Run `spec`; stop it once the file `ready` is there; its end."""
    ends: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: ends.append(run(spec)))
    thread.start()
    wait_until(ready.exists)
    asyncio.run(attempt.stop_attempt(spec.run_token, **how))
    thread.join(timeout=10)
    return ends[0]


def test_the_exit_code_is_told(make_spec: MakeSpec) -> None:
    end = run(make_spec("sh", "-c", "exit 3"))
    assert (end["exit_code"], end["signal"], end["oom"], end["timed_out"]) == (
        3,
        None,
        False,
        False,
    )


def test_a_signal_is_told(make_spec: MakeSpec) -> None:
    end = run(make_spec("sh", "-c", "kill -9 $$"))
    assert (end["exit_code"], end["signal"]) == (None, signal.SIGKILL)
    assert not end["oom"]


def test_arguments_arrive_as_data(make_spec: MakeSpec, weird_dir: Path) -> None:
    word = "a 'b' \"c\" $(touch evil)\n;&"
    run(make_spec(sys.executable, "-c", "import sys; print(sys.argv[1:])", word))
    assert (weird_dir / "out.txt").read_text() == f"{[word]}\n"
    assert not (weird_dir / "evil").exists()


def test_scratch_and_gang_are_there_and_gone_after(make_spec: MakeSpec, weird_dir: Path) -> None:
    look = 'stat -c %a "$SCSCHED_SCRATCH" "$TMPDIR"; cat "$SCSCHED_GANG"; touch "$TMPDIR/litter"'
    spec = make_spec("sh", "-c", look, gang=spread(["n1", "n2"], 3))
    assert run(spec)["exit_code"] == 0
    text = (weird_dir / "out.txt").read_text()
    assert text.startswith("700\n700\n")
    assert '{"name": "n1", "slots": 2}' in text
    assert not Path(spec.scratch_dir).exists()


def test_what_it_leaves_running_is_killed_and_counted(make_spec: MakeSpec) -> None:
    spec = make_spec("sh", "-c", "setsid sleep 67 & setsid sleep 68 & exit 0")
    assert run(spec)["leftovers"] == 2
    assert processes.find({tags.RUN: spec.run_token}) == []


def test_cpu_and_memory_are_measured(make_spec: MakeSpec) -> None:
    code = "b = bytearray(300 * 2**20)\nfor _ in range(10**6): pass"
    end = run(make_spec(sys.executable, "-c", code))
    assert end["max_rss_mib"] > 300
    assert 0 < end["cpu_s"] <= end["wall_s"] * (os.cpu_count() or 1)


def test_wall_time_ends_it(make_spec: MakeSpec) -> None:
    end = run(make_spec("sleep", "60", walltime_s=0.2))
    assert end["timed_out"]
    assert end["signal"] == signal.SIGTERM
    assert not end["stopped"]


def test_a_stopped_attempt_gets_time_to_end(make_spec: MakeSpec, weird_dir: Path) -> None:
    line = "trap 'exit 7' TERM; touch ready; while :; do sleep 0.05; done"
    end = stopped_after(weird_dir / "ready", make_spec("sh", "-c", line), grace_s=5.0)
    assert (end["exit_code"], end["stopped"]) == (7, True)


def test_an_attempt_that_will_not_end_is_killed(make_spec: MakeSpec, weird_dir: Path) -> None:
    line = "trap '' TERM; touch ready; while :; do sleep 0.05; done"
    end = stopped_after(weird_dir / "ready", make_spec("sh", "-c", line), grace_s=0.3)
    assert (end["signal"], end["stopped"]) == (signal.SIGKILL, True)


def test_relion_is_asked_first(make_spec: MakeSpec, weird_dir: Path) -> None:
    (weird_dir / "job" / "extra").mkdir(parents=True)
    both = " ] && [ ".join(f"-e job/{name}" for name in (ABORT_FILE, f"extra/{ABORT_FILE}"))
    line = f"trap '' TERM; touch ready; until [ {both} ]; do sleep 0.02; done; exit 2"
    spec = make_spec("sh", "-c", line)
    end = stopped_after(weird_dir / "ready", spec, grace_s=8.0, job_dir=str(weird_dir / "job"))
    assert (end["exit_code"], end["stopped"]) == (2, True)
    assert end["wall_s"] < 4


def test_storage_that_stalls_does_not_keep_an_attempt_from_being_killed(
    make_spec: MakeSpec, weird_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_dir = weird_dir / "job"
    job_dir.mkdir()
    answers, touch = threading.Event(), Path.touch

    def late(path: Path) -> None:
        answers.wait(60)
        touch(path)

    monkeypatch.setattr(Path, "touch", late)
    spec = make_spec("sh", "-c", "trap '' TERM; echo > ready; while :; do sleep 0.05; done")
    began = time.monotonic()
    end = stopped_after(weird_dir / "ready", spec, grace_s=0.5, job_dir=str(job_dir))
    assert (end["signal"], end["stopped"]) == (signal.SIGKILL, True)
    assert time.monotonic() - began < 40
    assert not list(job_dir.iterdir())
    answers.set()
    wait_until(lambda: all(one.name != "relion-abort" for one in threading.enumerate()))
    assert not list(job_dir.iterdir()), "it would end the next attempt"


def test_an_attempt_that_waits_for_its_logs_is_stopped(
    make_spec: MakeSpec, weird_dir: Path
) -> None:
    log = weird_dir / "log"
    os.mkfifo(log)  # whoever opens it waits, as on storage that stalls
    spec = make_spec("touch", "started", stdout=str(log))
    ends: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: ends.append(run(spec)), daemon=True)
    thread.start()
    wait_until(Path(spec.scratch_dir, "tmp").exists)
    stopper = threading.Thread(
        target=lambda: asyncio.run(attempt.stop_attempt(spec.run_token, 0.2)), daemon=True
    )
    stopper.start()
    stopper.join(timeout=5)
    assert not stopper.is_alive(), "stopping it hangs"
    log.read_bytes()
    thread.join(timeout=10)
    assert (ends[0]["stopped"], ends[0]["exit_code"]) == (True, None)
    assert not (weird_dir / "started").exists()


def test_an_attempt_that_was_stopped_before_it_started_does_not_start(
    make_spec: MakeSpec, weird_dir: Path
) -> None:
    spec = make_spec("touch", "started")
    asyncio.run(attempt.stop_attempt(spec.run_token, 0.1))
    end = run(spec)
    assert (end["stopped"], end["exit_code"]) == (True, None)
    assert not (weird_dir / "started").exists()


def test_stopping_what_is_not_there_is_harmless() -> None:
    answer = asyncio.run(attempt.stop_attempt(uuid4().hex, 5.0, "/no/such/job"))
    assert (answer["terminated"], answer["killed"]) == (0, 0)


@pytest.mark.parametrize(
    "changes", [{"argv": []}, {"argv": "sh"}, {"surprise": 1}, {"gang": {"nodes": []}}]
)
def test_a_wrong_spec_is_refused(make_spec: MakeSpec, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        attempt.run_attempt({**as_json(make_spec("true")), **changes})


def test_a_program_that_is_not_there_is_named(make_spec: MakeSpec) -> None:
    spec = make_spec("/no/such/program")
    with pytest.raises(ConfigError, match="/no/such/program"):
        run(spec)
    assert not Path(spec.scratch_dir).exists()
