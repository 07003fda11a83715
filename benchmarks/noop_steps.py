"""Steps that do nothing: how many a second, and the broker's CPU for each, beside two peers.

    python benchmarks/noop_steps.py [--steps 1000 10000] [--nodes 2 16] [--rounds 3] [--no-peers]

scsched runs as a real broker process (see null_site.py): HTTP on its Unix socket, SQLite that
waits for the disk, every step durable and with its events. Dask and HyperQueue keep theirs in
memory. All take two steps at a time; with more nodes more steps share a commit, hence the other
lines. The clock includes the submission. It leaves out the start of the drivers, once a workflow,
as it leaves out the start of the peers' workers. CPU is that of the broker process alone, of
Dask's scheduler and client, of HyperQueue's server, client and worker.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import null_site
from benchmarks.common import Figure, cpu_of, heading, least, table
from benchmarks.null_site import Site, Times
from scsched.scheduler.client import Client

PEERS = Path(__file__).with_name("noop_peers.py")
A_WORKFLOW = 5000
"""Steps; the most that a workflow may have."""
LONGEST_S = 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    who: str
    wall_s: float
    cpu_s: float
    submitted_s: float = 0.0
    """Of the broker's CPU, what taking the workflows cost."""


def main() -> None:
    asked = _options()
    heading("Steps that do nothing")
    with _hyperqueue(wanted=not asked.no_peers) as hq_python:
        for steps in asked.steps:
            rows: list[Outcome] = []
            if not asked.no_peers:
                rows.append(_least(asked.rounds, partial(_peer, sys.executable, "dask", steps)))
            if hq_python is not None:
                rows.append(_least(asked.rounds, partial(_peer, hq_python, "hyperqueue", steps)))
            for nodes in asked.nodes:
                rows.append(_least(asked.rounds, partial(ours, steps, nodes)))
            table(_figures(rows, steps))
            print(flush=True)


def ours(steps: int, nodes: int) -> Outcome:
    """All of the steps through a broker that starts with an empty database."""
    with null_site.site(nodes) as site:
        client = Client(site.socket)
        sizes = [min(A_WORKFLOW, steps - done) for done in range(0, steps, A_WORKFLOW)]
        before, began = cpu_of(site.pid), time.perf_counter()
        workflows = [null_site.submit(client, size) for size in sizes]
        submit_s, submitted_s = time.perf_counter() - began, cpu_of(site.pid) - before
        client.act("release", "all")
        times = [_wait(site, workflow) for workflow in workflows]
        cpu_s = cpu_of(site.pid) - before
        _check(client, workflows)
    wall_s = submit_s + max(t.ended for t in times) - min(t.began for t in times)
    who = f"scsched {version('scsched')}, {nodes} nodes"
    return Outcome(who, wall_s, cpu_s, submitted_s)


def _wait(site: Site, workflow: int) -> Times:
    """Look at a file, not at the broker: a question would cost it CPU."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if (times := site.times(workflow)) is not None:
            return times
        time.sleep(0.05)
    raise RuntimeError((site.state_dir / "broker.log").read_text()[-4000:])


def _check(client: Client, workflows: list[int]) -> None:
    for workflow in workflows:
        found = client.workflow(workflow)
        assert found["state"] == "COMPLETED", found["state"]
        assert {step["attempts"] for step in found["steps"]} == {1}


def _least(rounds: int, measure: Callable[[], Outcome]) -> Outcome:
    return least(rounds, measure, lambda outcome: outcome.cpu_s)


def _peer(python: str, peer: str, steps: int) -> Outcome:
    done = subprocess.run(
        [python, str(PEERS), peer, str(steps)],
        capture_output=True,
        text=True,
        check=True,
        timeout=LONGEST_S,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return Outcome(found["who"], found["wall_s"], found["cpu_s"])


def _figures(rows: list[Outcome], steps: int) -> Iterator[Figure]:
    ours = "scsched"
    for row in rows:
        goal = ">= 300" if row.who.startswith(ours) else ""
        yield Figure(f"{steps} steps, rate", row.who, steps / row.wall_s, "steps/s", goal)
    for row in rows:
        goal = "<= 1" if row.who.startswith(ours) else ""
        yield Figure(f"{steps} steps, CPU a step", row.who, row.cpu_s / steps * 1e3, "ms", goal)
    for row in rows:
        if row.submitted_s:
            each_ms = row.submitted_s / steps * 1e3
            yield Figure(f"{steps} steps, of it to submit", row.who, each_ms, "ms")


@contextmanager
def _hyperqueue(*, wanted: bool) -> Iterator[str | None]:
    """A Python with HyperQueue in an environment of its own, gone at the end; None without."""
    with tempfile.TemporaryDirectory(prefix="bench-hq-") as folder:
        if not wanted:
            yield None
            return
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        got = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "hyperqueue"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300.0,
        )
        if got.returncode:
            print(f"HyperQueue left out, pip cannot have it: {got.stderr.strip()[-300:]}")
        yield python if got.returncode == 0 else None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--nodes", type=int, nargs="+", default=[2, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
