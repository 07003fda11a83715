"""RELION's auto-refine over two hosts of one core each, against one host with two cores.

    python benchmarks/two_hosts.py [--particles 80] [--rounds 2]

Both are machines of the cloud in a box (tests/cloudbox), launched by our provider and started by
our bootstrap; relion_refine_mpi runs through our mpirun with three ranks and one seed each time. On
the one host it is a plain local mpirun over shared memory; over two hosts mpirun starts its daemon
through our agents, under mutual TLS, and ranks talk over TCP. So the ratio is what going over hosts
costs, on a network without latency: the box's hosts share this machine. Each host is bound to
processors of its own, two in all. By turns, the quickest round counts. Needs root, RELION and
Open MPI, and two processors.
"""

import argparse
import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import box_gang
from benchmarks.box_gang import Workflow
from benchmarks.common import Figure, heading, table
from tests.cloudbox.client import Box
from tests.relion_data import AUTO_REFINE, Particles, make_project

RANKS = 3
LAYOUTS = {"one host": (1, "t2.medium"), "two hosts": (2, "t2.small")}
"""Number of machines and their type: two cores, or one core each."""
MPIRUN = (sys.executable, "-I", "-m", "scsched.cluster.mpirun", "-np", str(RANKS))
MEMORY_ONLY = ("--dont_combine_weights_via_disc", "--j", "1")


@dataclass(frozen=True, slots=True)
class Refined:
    """Wall seconds of the attempt on its nodes, and the hash of the final map."""

    wall_s: float
    sha256: str


def main() -> int:
    asked = _options()
    if why := _missing():
        print(why, file=sys.stderr)
        return 69
    heading(f"Auto-refine of {asked.particles} particles of 32 px with {RANKS} ranks")
    with tempfile.TemporaryDirectory(prefix="bench-hosts-", dir="/tmp") as folder:
        shared = make_project(Path(folder, "shared"), Particles(n=asked.particles))
        with (
            Box(Path(folder, "box"), boot=True, binds=[shared]) as box,
            box_gang.in_the_box(box),
        ):
            found = asyncio.run(_compare(box, Path(folder), shared, asked.rounds))
    table(_figures(found))
    maps = {one.sha256 for refined in found.values() for one in refined}
    print(f"\nfinal maps: {'all the same, bit by bit' if len(maps) == 1 else 'they differ'}")
    return 0


async def _compare(box: Box, folder: Path, shared: Path, rounds: int) -> dict[str, list[Refined]]:
    """The machines of both are there all the time, so that both meet the same."""
    found: dict[str, list[Refined]] = {name: [] for name in LAYOUTS}
    async with box_gang.workflow(box, folder / "tls", shared, python=sys.executable) as mine:
        names = {
            layout: await mine.launch(count, kind) for layout, (count, kind) in LAYOUTS.items()
        }
        for layout in LAYOUTS:
            _pin(box, mine, names[layout])
        for number in range(rounds):
            for layout in LAYOUTS:
                run = f"{layout.replace(' ', '_')}_{number}"
                found[layout].append(await _refine(mine, shared, names[layout], run))
                print(f"{run}: {found[layout][-1].wall_s:.1f} s", file=sys.stderr)
        for some in names.values():
            await mine.end(some)
    return found


async def _refine(mine: Workflow, shared: Path, names: Sequence[str], run: str) -> Refined:
    (shared / run).mkdir()
    argv = [*MPIRUN, "relion_refine_mpi", "--i", "particles.star", "--o", f"{run}/run"]
    gathered = await mine.gang(names, RANKS, run)
    assert len(gathered.gang.members) == len(names)
    wall_s = await mine.work(gathered, run, [*argv, *AUTO_REFINE, *MEMORY_ONLY], shared)
    await mine.part(names, run)
    volume = (shared / run / "run_class001.mrc").read_bytes()
    return Refined(wall_s, hashlib.sha256(volume[1024:]).hexdigest())


def _pin(box: Box, mine: Workflow, names: Sequence[str]) -> None:
    """Two processors for all hosts of a layout, in equal parts."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    for place, name in enumerate(names):
        own = set(cpus if len(names) == 1 else [cpus[place]])
        box_gang.pin(box.instance(mine.instances[name]), own)


def _figures(found: dict[str, list[Refined]]) -> Iterator[Figure]:
    for layout, refined in found.items():
        yield Figure("wall of the auto-refine", layout, min(one.wall_s for one in refined), "s")


def _missing() -> str:
    lacking = [name for name in ("mpirun", "relion_refine_mpi") if shutil.which(name) is None]
    if lacking:
        return f"{lacking[0]} is not installed"
    if len(os.sched_getaffinity(0)) < 2:
        return "two processors are needed"
    return box_gang.missing()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
