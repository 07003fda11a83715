"""`scsched run`, in a process of its own where signals matter."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scsched.scheduler.cli import schema
from scsched.scheduler.cli.main import main
from scsched.scheduler.cli.misfit import misfit
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer, Request

COMMAND = [sys.executable, "-m", "scsched.scheduler.cli.main"]
SUBMITTED = {**answers.SUBMITTED, "id": 42}
QUIET: dict[str, object] = {"schema": "scsched/v1", "items": [], "last": 1}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "w.json"
    path.write_text("[]")
    return path


def wait_until(true: Callable[[], bool], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def slowly_quiet(_: Request) -> dict[str, object]:
    """A long poll in which nothing happens."""
    time.sleep(0.05)
    return QUIET


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 100)])
def test_run_on_a_broker_that_answers_prints_events_and_receipt(
    state: str,
    code: int,
    broker: Peer,
    document: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broker.answers["POST /v1/workflows"] = SUBMITTED
    broker.answers["GET /v1/workflows/42"] = {**answers.WORKFLOW, "state": state}
    broker.answers["GET /v1/events"] = [answers.EVENTS, QUIET]
    assert main(["run", str(document), "--spot", "--play-spot", "90s:kill"]) == code
    out = capsys.readouterr().out
    assert "node.notice" in out
    assert "PREEMPTED" in out
    assert out.endswith("total cost\t4.17\n")
    sent = next(request.body for request in broker.asked if request.method == "POST")
    assert sent["play_spot"] == "90s:kill"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_run_cancels_and_says_how_to_go_on(
    sent: signal.Signals, broker: Peer, document: Path
) -> None:
    broker.answers["POST /v1/workflows"] = SUBMITTED
    broker.answers["GET /v1/events"] = slowly_quiet

    def cancel(_: object) -> dict[str, object]:
        broker.answers["GET /v1/workflows/42"] = {**answers.WORKFLOW, "state": "CANCELLED"}
        return answers.ACTIONS

    broker.answers["POST /v1/actions"] = cancel
    process = subprocess.Popen(
        [*COMMAND, "run", str(document)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: any(r.path == "/v1/events" for r in broker.asked))
        process.send_signal(sent)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "scsched resubmit 42" in err
    assert "Traceback" not in err
    assert [r.body["action"] for r in broker.asked if r.path == "/v1/actions"] == ["cancel"]


def test_ctrl_c_in_watch_leaves_the_workflow_alone(broker: Peer) -> None:
    broker.answers["GET /v1/events"] = slowly_quiet
    process = subprocess.Popen(
        [*COMMAND, "watch", "42"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: any(r.path == "/v1/events" for r in broker.asked))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "42 goes on without you" in err
    assert {request.method for request in broker.asked} == {"GET"}


def test_a_broker_that_cannot_start_is_told_with_its_own_words(
    state_dir: Path, document: Path
) -> None:
    config = state_dir / "c.toml"
    config.write_text('default_market = "cheap"\n')
    done = subprocess.run(
        [*COMMAND, "run", str(document)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SCSCHED_CONFIG": str(config)},
        check=False,
    )
    assert done.returncode == 75
    assert "the broker ended at once" in done.stderr
    assert "broker.log" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(broker: Peer) -> None:
    many = [{**answers.RUNNING, "id": i} for i in range(3000)]
    broker.answers["GET /v1/workflows"] = {**answers.WORKFLOWS, "items": many}
    line = f"{sys.executable} -m scsched.scheduler.cli.main queue | head -n 1"
    done = subprocess.run(  # noqa: S602
        line, shell=True, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("id\t")
    assert done.stderr == ""


def test_run_starts_a_broker_of_its_own_and_stops_it(
    state_dir: Path, document: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real broker; a dry run, so that nothing needs Scipion."""
    step = {"object.className": "ProtImportParticles", "object.id": "2", "object.label": "In"}
    document.write_text(json.dumps([step]))
    done = subprocess.run(
        [*COMMAND, "run", str(document), "--dry-run", "--json"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert misfit(json.loads(done.stdout), schema.SubmitAnswer) == []
    assert main(["queue"]) == 75


def test_run_holds_on_to_nothing_of_a_refused_file(state_dir: Path, document: Path) -> None:
    document.write_text("{")
    done = subprocess.run(
        [*COMMAND, "run", str(document)], capture_output=True, text=True, timeout=90, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (65, 1)
    assert main(["queue"]) == 75
