"""What a person sees: the commands on a terminal of their own."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer

COMMAND = [sys.executable, "-m", "scsched.scheduler.cli.main"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Seen:
    def __init__(self, raw: str, code: int) -> None:
        self.raw = raw
        self.text = ESCAPE.sub("", raw).replace("\r\n", "\n")
        self.lines = [line.rstrip() for line in self.text.splitlines()]
        self.code = code


def on_terminal(
    argv: list[str], *, columns: int = 140, typed: str = "", env: dict[str, str] | None = None
) -> Seen:
    """Run a command with stdin, stdout and stderr on a terminal of `columns` by 40."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**inherited, "TERM": "xterm-256color", **(env or {})},
        start_new_session=True,
    )
    os.close(theirs)
    try:
        os.write(ours, typed.encode())
        raw = _read_all(ours)
        return Seen(raw, process.wait(20))
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_all(descriptor: int) -> str:
    found = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([descriptor], [], [], 1.0)[0]:
            continue
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # EIO: the last one on the other side has gone
            break
        if not piece:
            break
        found += piece
    return found.decode("utf-8", "replace")


def test_the_queue_is_aligned_and_has_a_footer(broker: Peer) -> None:
    seen = on_terminal(["queue"])
    assert seen.code == 0
    assert seen.lines[0].split()[:4] == ["ID", "WORKFLOW", "USER", "STATE"]
    assert "it 14/25 56%" in seen.text
    assert "$12.34" in seen.text
    assert "1:12:40" in seen.text
    assert "3 workflows, 1 running" in seen.text
    assert "45 waits for you: scsched why 45" in seen.text
    assert max(len(line) for line in seen.lines[:-1]) <= 140


def test_the_state_is_a_word_and_coloured_unless_unwanted(broker: Peer) -> None:
    assert "\x1b[33mRUNNING" in on_terminal(["queue"]).raw
    plain = on_terminal(["queue"], env={"NO_COLOR": "1"})
    assert "\x1b[" not in plain.raw
    assert "RUNNING" in plain.raw


def test_an_empty_queue_says_what_to_do(broker: Peer) -> None:
    broker.answers["GET /v1/workflows"] = {"schema": "scsched/v1", "items": []}
    seen = on_terminal(["queue"])
    assert seen.lines[0].startswith("Nothing of yours is in the queue. Submit: scsched submit")


def test_a_narrow_terminal_keeps_ids_and_states_whole(broker: Peer) -> None:
    seen = on_terminal(["queue"], columns=60)
    assert "42" in seen.text
    assert "ATTENTION" in seen.text


def test_show_on_a_terminal_leaves_out_what_is_empty(broker: Peer) -> None:
    seen = on_terminal(["show", "42.311"])
    assert "label        Refine3D" in seen.text
    assert "\ngate" not in seen.text
    assert "last run ended: PREEMPTED" in seen.text


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 100)])
def test_watch_draws_the_steps_and_ends_with_the_outcome(
    state: str, code: int, broker: Peer
) -> None:
    steps = [answers.STEP, answers.WAITING_STEP, answers.FAILED_STEP]
    running = {**answers.WORKFLOW, "steps": steps}
    broker.answers["GET /v1/workflows/42"] = [running, {**running, "state": state}]
    quiet = {"schema": "scsched/v1", "items": [], "last": 901}
    broker.answers["GET /v1/events"] = [answers.EVENTS, quiet]
    seen = on_terminal(["watch", "42"], columns=120)
    assert seen.code == code
    assert "> " in seen.text
    assert "it 14  3.9 A" in seen.text
    assert "waits for step 311" in seen.text
    assert "will be taken back in 120 s" in seen.text
    assert ("all it printed: scsched logs 42.290 --stderr" in seen.text) is (state == "FAILED")


def test_a_large_workflow_keeps_what_tells_the_most_on_the_screen(broker: Peer) -> None:
    done = [{**answers.STEP, "id": str(i), "state": "COMPLETED"} for i in range(300)]
    steps = [*done, answers.STEP, answers.FAILED_STEP]
    broker.answers["GET /v1/workflows/42"] = {
        **answers.WORKFLOW, "steps": steps, "state": "FAILED",
    }  # fmt: skip
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 1}
    seen = on_terminal(["watch", "42"])
    assert "more steps: scsched show 42" in seen.text
    assert "  311 Refine3D" in seen.text
    assert "x   290 Class3D" in seen.text


@pytest.mark.parametrize(("typed", "code", "sent"), [("y\n", 0, 2), ("n\n", 2, 1)])
def test_submit_shows_the_plan_and_asks_where_it_costs_money(
    typed: str, code: int, sent: int, broker: Peer, tmp_path: Path
) -> None:
    (tmp_path / "w.json").write_text("[]")
    seen = on_terminal(["submit", str(tmp_path / "w.json")], typed=typed)
    assert seen.code == code
    assert "Submit? [Y/n]" in seen.text
    assert "3.220" in seen.text
    assert [request.body["dry_run"] for request in broker.asked] == [True, False][:sent]


def test_submit_does_not_ask_where_nothing_costs_money(broker: Peer, tmp_path: Path) -> None:
    free = {**answers.SUBMITTED, "plan": [{**answers.PLAN_LINE, "usd_per_hour": 0.0}]}
    broker.answers["POST /v1/workflows"] = free
    (tmp_path / "w.json").write_text("[]")
    seen = on_terminal(["submit", str(tmp_path / "w.json")])
    assert seen.code == 0
    assert "submitted as 46; watch it: scsched watch 46" in seen.text


def test_cancelling_several_asks_first(broker: Peer) -> None:
    items = [{"workflow": 42, "step": None}, {"workflow": 43, "step": None}]
    broker.answers["GET /v1/select"] = {"schema": "scsched/v1", "items": items}
    seen = on_terminal(["cancel", "all"], typed="n\n")
    assert "Cancel 2 workflows (42, 43)?" in seen.text
    assert seen.code == 2
    assert all(request.method == "GET" for request in broker.asked)
