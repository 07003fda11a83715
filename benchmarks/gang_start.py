"""From the launch call to a working gang of four nodes, beside dask-cloudprovider's EC2Cluster.

    python benchmarks/gang_start.py [--nodes 4] [--rounds 3]

Both on the same cloud in a box (tests/cloudbox), by turns, each start in a process of its own; its
imports are left out. EC2Cluster runs as published, with the box's image, subnet and group, since
its defaults do not find any. What it runs in docker runs natively, through a program of that name:
so its image costs nothing here. Its scheduler is one more machine, which boots before any worker is
asked for; ours is in the driver. Hence the line without the scheduler.

A gang works when all workers have answered a call; of ours, also a program has run under MPI over
all hosts: each rank is where it should be, sees the same storage, and talks to the others.
EC2Cluster knows no MPI. Needs root.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import box_gang
from benchmarks.common import Figure, heading, table
from tests.cloudbox.client import Box

PEERS = Path(__file__).with_name("gang_peers.py")
LONGEST_S = 400.0
DOCKER = """#!/bin/sh
# docker run [option]... image command...: runs the command here.
shift
while :; do
  case "$1" in
    -e) export "$2"; shift 2 ;;
    -*) shift ;;
    *) break ;;
  esac
done
shift
PATH={bin}:$PATH
export PATH
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds; see gang_peers.Marks."""

    who: str
    scheduler_s: float
    workers_s: float
    gang_s: float


def main() -> int:
    asked = _options()
    if why := box_gang.missing():
        print(why, file=sys.stderr)
        return 69
    heading(f"Start of a gang of {asked.nodes} nodes, median of {asked.rounds}")
    with tempfile.TemporaryDirectory(prefix="bench-gang-", dir="/tmp") as folder:
        shared, image = Path(folder, "shared"), Path(folder, "image")
        shared.mkdir()
        _write_docker(image)
        with Box(Path(folder, "box"), boot=True, binds=[shared], image=image) as box:
            stock: list[Start] = []
            ours: list[Start] = []
            for _ in range(asked.rounds):
                stock.append(_start("stock", box, shared, asked.nodes))
                ours.append(_start("ours", box, shared, asked.nodes))
    table(_figures(asked.nodes, stock, ours))
    return 0


def _start(peer: str, box: Box, shared: Path, nodes: int) -> Start:
    argv = [sys.executable, str(PEERS), peer, str(box.directory), str(shared), str(nodes)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    consoles = [box.console(one.instance_id)[-1500:] for one in box.instances()]
    box.clear()
    if done.returncode:
        raise RuntimeError(f"{peer}: {done.stderr[-3000:]}\n{''.join(consoles)}")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{peer}: {found}", file=sys.stderr)
    return Start(found["who"], found["scheduler_s"], found["workers_s"], found["gang_s"])


def _figures(nodes: int, stock: Sequence[Start], ours: Sequence[Start]) -> Iterator[Figure]:
    """A gang of theirs works as soon as its workers answer."""
    measures = {
        "a scheduler answers": lambda start: start.scheduler_s,
        f"{nodes} workers answer": lambda start: start.workers_s,
        "of it after the scheduler": lambda start: start.workers_s - start.scheduler_s,
        f"a working gang of {nodes}": lambda start: start.gang_s or start.workers_s,
        "of it after the scheduler, gang": lambda start: (
            (start.gang_s or start.workers_s) - start.scheduler_s
        ),
    }
    for what, of in measures.items():
        for starts in (stock, ours):
            yield Figure(what, starts[0].who, statistics.median(map(of, starts)), "s")


def _write_docker(image: Path) -> None:
    program = image / "usr" / "local" / "bin" / "docker"
    program.parent.mkdir(parents=True)
    program.write_text(DOCKER.format(bin=Path(sys.executable).parent))
    program.chmod(0o755)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
