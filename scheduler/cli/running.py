"""`scsched run`: submit and follow to the end, with a broker of its own where none answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from scsched.scheduler import paths, state_folder
from scsched.scheduler.cli import cards, submission, targets, watching
from scsched.scheduler.cli.events import Following, Patience
from scsched.scheduler.cli.submission import Asked
from scsched.scheduler.client import Client
from scsched.scheduler.render import clean, put, put_json, talk
from scsched.steps.errors import BrokerUnreachable, ScschedError

INTERRUPTED = 130
START_S = 60.0
"""A new broker answers within a second or two; migrations and a slow disk may take longer."""
STOP_S = 30.0
CANCEL_S = 120.0
"""RELION is asked to stop, then told to; nodes are given back after that."""


def run(asked: Asked, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    """`scsched run`; returns the exit code, which is the workflow's outcome."""
    if asked.play_spot:
        from scsched.scheduler import play

        play.parse(asked.play_spot)
    submission.request(asked)  # refuse a wrong command line before a broker is started for it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    client = targets.client()
    with OwnBroker(client) as broker:
        answer = submission.send(client, asked, dry_run=dry_run, yes=yes, as_json=as_json)
        if answer["id"] is None:
            return submission.show_plan(answer, as_json=as_json)
        steps = f"{answer['steps']} step{'' if answer['steps'] == 1 else 's'}"
        talk(f"workflow {answer['id']} {clean(answer['name'])}: {steps}; Ctrl-C cancels it")
        patience = Patience(give_up=broker.require_alive)
        following = Following(client, answer["id"], patience=patience)
        return _followed(following, as_json=as_json)


def _followed(following: Following, *, as_json: bool) -> int:
    try:
        if as_json:
            for _ in following.batches():
                pass
        else:
            watching.follow(following)
        _print_receipt(following, as_json=as_json)
        return watching.conclude(following)
    except KeyboardInterrupt:
        _cancel(following)
        return INTERRUPTED


def _print_receipt(following: Following, *, as_json: bool) -> None:
    receipt = following.client.receipt(following.target.workflow)
    if as_json:
        put_json({**receipt, "state": following.state})
        return
    put("")
    cards.receipt(receipt)


def _cancel(following: Following) -> None:
    """Cancel and wait until nothing of it runs; a second Ctrl-C does not wait."""
    workflow = following.target.workflow
    talk("", f"cancelling {workflow}; its finished iterations are kept (Ctrl-C again: do not wait)")
    try:
        following.client.act("cancel", str(workflow), reason="Ctrl-C in scsched run")
        following.deadline = time.monotonic() + CANCEL_S
        for _ in following.batches():
            pass
    except KeyboardInterrupt:
        talk("not waiting any longer")
    except ScschedError as exc:
        talk(f"scsched: cancelling {workflow}: {exc}")
    talk(f"go on from where it stopped: scsched resubmit {workflow}   (with scsched serve running)")


class OwnBroker:
    """The broker of this deployment: one that answers, or else a child for as long as this lasts.

    The child has a session of its own: Ctrl-C reaches only the command, which cancels first, and a
    terminal that is closed (SIGHUP) ends only the command and leaves the workflow running.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.log = paths.find_state_dir() / "broker.log"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OwnBroker:
        try:
            self.client.ping()
        except BrokerUnreachable:
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._say_what_waits()
            _stop(self._child)

    def require_alive(self) -> None:
        """:raises BrokerUnreachable: the child has ended."""
        if self._child is not None and (code := self._child.poll()) is not None:
            raise BrokerUnreachable(
                f"the broker ended with code {code}: {_last_line(self.log)}",
                hint=f"RELION runs on; go on with: scsched serve   (its log: {self.log})",
            )

    def _start(self) -> None:
        state_folder.make(self.log.parent)
        with state_folder.ours(self.log):
            log = self.log.open("ab")
        with log:
            self._child = _serve(log)
        try:
            self._wait_until_it_answers()
        except BaseException:
            _stop(self._child)
            raise

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_S
        while self._child is not None:
            try:
                answer = self.client.ping()
            except BrokerUnreachable as exc:
                self._require_started(exc, late=time.monotonic() > deadline)
                time.sleep(0.1)
                continue
            if answer["pid"] != self._child.pid:  # somebody else's was first
                _stop(self._child)
                self._child = None
            return

    def _require_started(self, exc: BrokerUnreachable, *, late: bool) -> None:
        ended = self._child is not None and self._child.poll() is not None
        if ended or late:
            what = "ended at once" if ended else f"does not answer after {START_S:.0f} s"
            raise BrokerUnreachable(
                f"the broker {what}: {_last_line(self.log)}",
                hint=f"see {self.log}, or run scsched doctor",
            ) from exc

    def _say_what_waits(self) -> None:
        try:
            left = self.client.workflows()["items"]
        except ScschedError:
            return
        if left:
            ids = ", ".join(str(item["id"]) for item in left)
            talk(f"still in the queue: {ids}; they go on with scsched serve")


def _serve(log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "scsched.scheduler.cli.main", "serve"],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let it end gracefully; it has its journal, so a kill after that loses nothing."""
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        talk(f"scsched: the broker did not stop within {STOP_S:.0f} s and was killed")
        child.kill()
        child.wait()


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").split("\n")
    except OSError:
        return "it wrote no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log")
