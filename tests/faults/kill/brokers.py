"""Starts brokers one after the other, and kills them."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO

from scsched.cluster import processes
from scsched.cluster.processes import Process
from tests.faults.kill.broker import Site
from tests.faults.kill.journal import Kind

ROOT = Path(__file__).parents[3]


class Brokers:
    """Starts one broker after the other."""

    def __init__(self, place: Site, nursery: "subprocess.Popen[bytes]") -> None:
        self._place = place
        self._nursery = nursery
        self._journal = place.journal
        self._cold: list[subprocess.Popen[bytes]] = []
        self.current: Process | None = None

    def start(self, *, cold: bool = False) -> int:
        pid = self._start_cold() if cold else self._start_forked()
        self.current = processes.identify(pid)
        self._journal.write(Kind.STARTED, pid=pid, word="cold" if cold else "forked")
        return pid

    def kill(self, moment: str) -> bool:
        """SIGKILL, and wait until it is gone. False: it had ended by itself."""
        broker = self.current
        killed = broker is not None and processes.send(broker, SIGKILL)
        if broker is not None and killed:
            self._gone(broker)
            self._journal.write(Kind.KILLED, pid=broker.pid, word=moment)
        return killed

    def alive(self) -> bool:
        return self.current is not None and processes.alive(self.current)

    def stop(self) -> None:
        """As a person would. One that does not end counts as crashed."""
        broker = self.current
        if broker is None:
            return
        if not processes.send(broker, SIGTERM):
            self._journal.write(Kind.CRASHED, pid=broker.pid, word="while nobody killed it")
            return
        if not wait_until(lambda: not processes.alive(broker), within_s=20.0):
            self._journal.write(Kind.CRASHED, pid=broker.pid, word="does not stop on SIGTERM")
            processes.send(broker, SIGKILL)

    def close(self) -> None:
        """Kill what is left, and collect all."""
        if self.current is not None:
            processes.send(self.current, SIGKILL)
        for cold in self._cold:
            cold.wait(timeout=20.0)
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.close()
        self._nursery.wait(timeout=20.0)
        self._nursery.stdout.close()

    def _start_forked(self) -> int:
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(b"\n")
        self._nursery.stdin.flush()
        return int(self._nursery.stdout.readline())

    def _start_cold(self) -> int:
        with (self._place.state_dir / "log" / "broker.log").open("ab") as out:
            self._cold.append(_program(self._place, out=out))
        return self._cold[-1].pid

    def _gone(self, broker: Process) -> None:
        dead = lambda: not processes.alive(broker)  # noqa: E731
        if not wait_until(dead, within_s=20.0, pause_s=0.001):
            raise RuntimeError(f"process {broker} outlives SIGKILL")


@contextmanager
def brokers_of(place: Site) -> Iterator[Brokers]:
    """For the length of the block; at its end all are gone."""
    with (place.state_dir / "log" / "broker.log").open("ab") as out:
        nursery = _program(place, "--nursery", out=out)
    brokers = Brokers(place, nursery)
    try:
        yield brokers
    finally:
        brokers.close()


def wait_until(true: Callable[[], bool], *, within_s: float, pause_s: float = 0.1) -> bool:
    """Whether it came true within that time."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
    return True


def _program(place: Site, *more: str, out: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.kill.broker", *place.arguments, *more],
        stdin=subprocess.PIPE if more else subprocess.DEVNULL,
        stdout=subprocess.PIPE if more else out,
        stderr=out,
        cwd=ROOT,
    )
