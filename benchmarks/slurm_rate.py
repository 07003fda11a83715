"""Small jobs a second: Slurm with its own commands beside scsched, on two slots each.

    python benchmarks/slurm_rate.py [--jobs 1000] [--submissions 200] [--rounds 1]

Slurm is a real one of two nodes with one CPU each, started for the run (tests/slurm), its
scheduler set to start jobs at once. Its job is /bin/true, so it starts processes; scsched's step
is done as soon as it is ordered (null_site.py), so what is compared is the cost of taking a job,
deciding and writing it down. sbatch is started once a job, as from a shell; an array shows Slurm
without that. Needs root, Slurm and munge; nothing of the machine's own Slurm is touched.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import noop_steps, null_site
from benchmarks.common import Figure, cpu_of, heading, least, table
from scsched.scheduler.client import Client
from tests.slurm.box import Box, missing, running, wait_until

SLOTS = 2
LONGEST_S = 1800.0
TRUE = "#!/bin/sh\nexec /bin/true\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one way to do it."""

    who: str
    wall_s: float
    cpu_s: float
    """Of the controller or broker process alone."""


def main() -> int:
    asked = _options()
    if why := missing():
        print(why, file=sys.stderr)
        return 69
    heading("Small jobs: Slurm and scsched")
    with running(cpus=SLOTS // 2) as box:
        name = f"Slurm {box.run('sbatch', '--version').split()[-1]}"
        ways: list[Callable[[], Outcome]] = [
            partial(jobs, box, f"{name}, sbatch each", asked.jobs, array=False),
            partial(jobs, box, f"{name}, one array", asked.jobs, array=True),
        ]
        slurm = [_least(asked.rounds, way) for way in ways]
        taken = [
            _least(asked.rounds, partial(submissions, box, f"{name}, sbatch", asked.submissions))
        ]
    taken.append(_least(asked.rounds, partial(workflows, asked.submissions)))
    taken.append(_least(asked.rounds, partial(one_workflow, asked.jobs)))
    ours = _least(asked.rounds, partial(steps, asked.jobs))
    table(_rates("submitted", taken, [asked.submissions, asked.submissions, asked.jobs], cpu=False))
    print()
    table(_rates(f"{asked.jobs} jobs done", [*slurm, ours], [asked.jobs] * 3, cpu=True))
    return 0


def submissions(box: Box, who: str, count: int) -> Outcome:
    """Held jobs, one sbatch after the other."""
    cpu_s, began = cpu_of(box.controller), time.perf_counter()
    for _ in range(count):
        _sbatch(box, "--hold")
    outcome = Outcome(who, time.perf_counter() - began, cpu_of(box.controller) - cpu_s)
    box.cancel_all()
    return outcome


def jobs(box: Box, who: str, count: int, *, array: bool) -> Outcome:
    """From the first submission until none is left in the queue."""
    cpu_s, began = cpu_of(box.controller), time.perf_counter()
    for _ in range(1 if array else count):
        _sbatch(box, *([f"--array=1-{count}"] if array else []))
    wait_until(
        lambda: not box.run("squeue", "--noheader", "--format=%i"), LONGEST_S, "all are done"
    )
    return Outcome(who, time.perf_counter() - began, cpu_of(box.controller) - cpu_s)


def steps(count: int) -> Outcome:
    """One workflow, from its submission until every step is done and written down."""
    found = noop_steps.ours(count, SLOTS)
    return Outcome(found.who, found.wall_s, found.cpu_s)


def workflows(count: int) -> Outcome:
    """Held workflows of one step each, one call after the other."""
    return _submitted(f"scsched {version('scsched')}, a step each", [1] * count)


def one_workflow(count: int) -> Outcome:
    """All steps in one call."""
    return _submitted(f"scsched {version('scsched')}, one workflow", [count])


def _submitted(who: str, sizes: list[int]) -> Outcome:
    with null_site.site(SLOTS) as site:
        client = Client(site.socket)
        cpu_s, began = cpu_of(site.pid), time.perf_counter()
        for size in sizes:
            null_site.submit(client, size)
        wall_s = time.perf_counter() - began
        cpu_s = cpu_of(site.pid) - cpu_s
        client.act("cancel", "all")
    return Outcome(who, wall_s, cpu_s)


def _sbatch(box: Box, *more: str) -> None:
    argv = ["sbatch", "--parsable", "--output=/dev/null", "--partition=normal", *more]
    subprocess.run(
        argv, input=TRUE, text=True, env=box.environ, capture_output=True, check=True, timeout=60.0
    )


def _rates(what: str, rows: list[Outcome], counts: list[int], *, cpu: bool) -> Iterator[Figure]:
    for row, count in zip(rows, counts, strict=True):
        yield Figure(f"{what}, rate", row.who, count / row.wall_s, "/s")
    for row, count in zip(rows, counts, strict=True) if cpu else ():
        yield Figure(f"{what}, CPU of the server each", row.who, row.cpu_s / count * 1e3, "ms")


def _least(rounds: int, measure: Callable[[], Outcome]) -> Outcome:
    return least(rounds, measure, lambda outcome: outcome.wall_s)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="/bin/true each")
    parser.add_argument("--submissions", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
