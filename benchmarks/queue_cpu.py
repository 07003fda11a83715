"""CPU of `scsched queue` with 10, 1,000 and 10,000 live steps, and with 1,000 live workflows.

    python benchmarks/queue_cpu.py [--rounds 7]

The command talks to a real broker process over its socket. The first line is of Python itself,
which starts and does nothing: the ratios are to it. A line of the queue is a workflow
with its current step; to write it the broker looks at all of its steps, hence the last lines.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import null_site
from benchmarks.common import Cost, Figure, cost_of, cpu_of, heading, least, table
from benchmarks.null_site import Site
from scsched.scheduler.client import Client

SCSCHED = str(Path(sys.executable).with_name("scsched"))


@dataclass(frozen=True, slots=True)
class Queue:
    """What is live, and how dear it may be to look at it."""

    workflows: int
    steps: int
    """Of all workflows together."""
    goal_ms: int = 0


QUEUES = (Queue(1, 10, 120), Queue(10, 1000, 120), Queue(10, 10_000, 200), Queue(1000, 1000))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    heading("CPU of `scsched queue`")
    table(_figures(asked.rounds))


def _figures(rounds: int) -> Iterator[Figure]:
    python = f"Python {sys.version.split()[0]}"
    empty = _cheapest([sys.executable, "-I", "-c", ""], os.environ, rounds)
    yield Figure("CPU of the command", f"{python}, empty", empty.cpu_s * 1e3, "ms")
    for queue in QUEUES:
        with null_site.site(nodes=1) as site:
            client = Client(site.socket)
            for _ in range(queue.workflows):
                null_site.submit(client, queue.steps // queue.workflows)
            yield from _of(site, queue, rounds)


def _of(site: Site, queue: Queue, rounds: int) -> Iterator[Figure]:
    env = {
        **os.environ,
        "SCSCHED_SOCKET": str(site.socket),
        "SCSCHED_STATE_DIR": str(site.state_dir),
    }
    said = subprocess.run(
        [SCSCHED, "queue"], env=env, capture_output=True, text=True, check=True, timeout=60.0
    )
    assert len(said.stdout.splitlines()) == queue.workflows + 1, said.stdout[:500]
    who = f"{queue.steps} steps in {queue.workflows} workflows"
    before = cpu_of(site.pid)
    cost = _cheapest([SCSCHED, "queue"], env, rounds)
    answer_ms = (cpu_of(site.pid) - before) / rounds * 1e3
    goal = f"<= {queue.goal_ms}" if queue.goal_ms else ""
    yield Figure("CPU of the command", who, cost.cpu_s * 1e3, "ms", goal)
    yield Figure("broker, for one answer", who, answer_ms, "ms")


def _cheapest(argv: list[str], env: Mapping[str, str], rounds: int) -> Cost:
    quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    return least(
        rounds, lambda: cost_of(argv, env=env, file_actions=quiet), lambda cost: cost.cpu_s
    )


if __name__ == "__main__":
    main()
