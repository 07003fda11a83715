"""A driver that runs nothing: it speaks the beat protocol and writes down when it would have run.

It has the command line and the tags of `scsched.scheduler.driver.main`, and like it goes on while
the broker is away. Some steps fail once, some are long, and in some the driver kills itself once.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from scsched.scheduler.client import Client, Cut
from scsched.steps.errors import BrokerUnreachable, Fenced, ScschedError
from tests.faults.kill.journal import Journal, Kind
from tests.faults.kill.nodes import Nodes

ROOT = Path(__file__).parents[3]
BEAT_S = 0.2
POLL_S = 0.03
LONGEST_LIFE_S = 1800.0

_START = (
    "import runpy, sys; sys.path.insert(0, {root!r}); "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def program(folder: Path, module: str = "tests.faults.kill.null_driver") -> tuple[str, ...]:
    """The command line that the broker starts drivers with; `folder` is that of the world."""
    start = _START.format(root=str(ROOT), module=module)
    return (sys.executable, "-c", start, "--outside", str(folder))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a step will do; the same for all of its attempts."""

    fails_once: bool
    dies_before: bool
    """Its driver, once, with the work done and nothing written down."""
    dies_after: bool
    """Its driver, once, with the end written down and not reported."""
    long: bool

    @classmethod
    def of(cls, workflow: int, ref: str) -> "Plan":
        drawn = zlib.crc32(f"{workflow}.{ref}".encode()) % 100
        return cls(
            fails_once=drawn < 10,
            dies_before=10 <= drawn < 13,
            dies_after=13 <= drawn < 16,
            long=16 <= drawn < 36,
        )

    @property
    def seconds(self) -> float:
        return 1.2 if self.long else 0.04


class Execution(threading.Thread):
    """Carries out one order."""

    def __init__(self, driver: "Driver", order: Mapping[str, Any]) -> None:
        super().__init__(daemon=True)
        self._driver = driver
        self._order = order
        self._names = {str(node["name"]) for node in order["nodes"]}
        self._stopping = threading.Event()
        self._phase = "waiting"
        self._end: dict[str, object] | None = None
        if order["stop"]:
            self.stop()
        self.start()

    @property
    def done(self) -> bool:
        return self._end is not None

    def report(self) -> dict[str, object]:
        order, end = self._order, self._end
        phase = "ended" if end else self._phase
        return {"run": order["run"], "epoch": order["epoch"], "phase": phase, "end": end}

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        hint = self._carried_out()
        self._end = {"hint": hint, "exit_code": 1 if hint == "failed" else 0}
        self._driver.news.set()

    def _carried_out(self) -> str:
        if not self._nodes_are_up():
            self._driver.tell(Kind.WAITS, self._order)
        while not self._nodes_are_up() or self._stopping.is_set():
            if self._stopping.wait(POLL_S):
                self._driver.tell(Kind.END, self._order, word="stopped")
                return "stopped"
        plan = Plan.of(self._driver.workflow, self._order["ref"])
        if not self._driver.tell(Kind.BEGIN, self._order):
            return "stopped"
        self._phase = "running"
        self._driver.news.set()
        hint = self._worked(plan)
        self._driver.tell(Kind.END, self._order, word=hint)
        if plan.dies_after:
            self._driver.die_once(f"died-{self._order['ref']}")
        return hint

    def _worked(self, plan: Plan) -> str:
        until = time.monotonic() + self._driver.seconds(plan)
        while (left := until - time.monotonic()) > 0:
            if self._stopping.wait(min(POLL_S, left)):
                return "stopped"
            if not self._nodes_are_up():
                return "node-lost"
        if plan.dies_before:
            self._driver.die_once(f"died-{self._order['ref']}")
        if plan.fails_once and self._driver.first_time(f"failed-{self._order['ref']}"):
            return "failed"
        return "completed"

    def _nodes_are_up(self) -> bool:
        return self._names <= self._driver.up()


class Driver:
    """Reconciles the executions that are with those that should be."""

    def __init__(self, *, socket: Path, workflow: int, work_dir: Path, outside: Path) -> None:
        """:param outside: the folder of the world."""
        self.workflow = workflow
        self.news = threading.Event()
        self._client = Client(socket, timeout_s=10.0)
        self._work_dir = work_dir
        self._tls_dir = work_dir
        self._desk = {"address": "127.0.0.1:1", "fingerprint": "00" * 32}
        self._nodes = Nodes(outside)
        self._journal = Journal.of(outside)
        self._token = os.environ["SCSCHED_DRIVER"]
        self._address = f"null://{os.getpid()}-{self._token[:12]}"
        self._executions: dict[int, Execution] = {}
        self._telling = threading.Lock()
        self._over = False

    def run(self) -> None:
        """Until nothing is left to do, or this driver was given up."""
        self._journal.write(Kind.DRIVER, workflow=self.workflow)
        until = time.monotonic() + LONGEST_LIFE_S
        while time.monotonic() < until and self._nodes.path.exists():
            orders = self._beat()
            if orders is not None:
                self._reconcile(orders)
                if orders["end"] and not self._executions:
                    return
            self.news.wait(BEAT_S)
            self.news.clear()

    def seconds(self, plan: Plan) -> float:
        """How long a step takes."""
        return plan.seconds

    def up(self) -> set[str]:
        """Names of the nodes that have joined this driver."""
        return self._nodes.up(self._address)

    def tell(self, kind: Kind, order: Mapping[str, Any], word: str = "") -> bool:
        """Write it down, unless this driver was given up: then it must not begin anything."""
        with self._telling:
            if self._over and kind is Kind.BEGIN:
                return False
            self._journal.write(
                kind,
                workflow=self.workflow,
                step=order["ref"],
                run=order["run"],
                epoch=order["epoch"],
                word=word,
            )
            return True

    def first_time(self, name: str) -> bool:
        with contextlib.suppress(FileExistsError):
            (self._work_dir / name).touch(exist_ok=False)
            return True
        return False

    def die_once(self, name: str) -> None:
        """Without a word to anybody; nothing is written after this line."""
        if not self.first_time(name):
            return
        with self._telling:
            self._journal.write(Kind.DIES, workflow=self.workflow)
            os.kill(os.getpid(), signal.SIGKILL)

    def give_up(self) -> None:
        """Fenced: end everything and say so."""
        with self._telling:
            self._over = True
            self._journal.write(Kind.FENCED, workflow=self.workflow)
        for execution in self._executions.values():
            execution.stop()
        for execution in self._executions.values():
            execution.join()

    def _beat(self) -> Mapping[str, Any] | None:
        try:
            return self._client.beat(self.workflow, self._report())
        except (BrokerUnreachable, Cut):
            return None
        except Fenced:
            raise
        except ScschedError as exc:
            print(f"the broker refused a beat: {exc}", file=sys.stderr, flush=True)
            return None

    def _report(self) -> dict[str, object]:
        stat = Path("/proc/self/stat").read_text()
        return {
            "token": self._token,
            "pid": os.getpid(),
            "start_ticks": int(stat[stat.rindex(")") + 2 :].split()[19]),
            "address": self._address,
            "tls_dir": str(self._tls_dir),
            "desk": self._desk,
            "nodes": [{"name": name} for name in sorted(self.up())],
            "runs": [execution.report() for execution in self._executions.values()],
        }

    def _reconcile(self, orders: Mapping[str, Any]) -> None:
        wanted = {order["run"]: order for order in orders["runs"]}
        for run_id, execution in list(self._executions.items()):
            if run_id not in wanted and execution.done:
                del self._executions[run_id]
            elif run_id not in wanted or wanted[run_id]["stop"]:
                execution.stop()
        for run_id, order in wanted.items():
            if run_id not in self._executions:
                self._executions[run_id] = Execution(self, order)


def main(argv: Sequence[str] | None = None, make: type[Driver] = Driver) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--outside", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--workflow", type=int, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    args = parser.parse_args(argv)
    lock = _only_one(args.work_dir / "driver.lock")
    if lock is None:
        return 0
    with lock:
        driver = make(
            socket=args.socket,
            workflow=args.workflow,
            work_dir=args.work_dir,
            outside=args.outside,
        )
        try:
            driver.run()
        except Fenced:
            driver.give_up()
    return 0


def _only_one(path: Path) -> IO[str] | None:
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


if __name__ == "__main__":
    raise SystemExit(main())
