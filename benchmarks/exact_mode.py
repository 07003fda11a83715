"""What exact mode costs: the same classification in one process and in one process per iteration.

    python benchmarks/exact_mode.py [--particles 500] [--iterations 10] [--rounds 3]

Prints CPU and wall seconds of both and their ratios, by turns in one run. Wants an idle machine.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.relion_data import Particles, make_project

COMMON = (
    "--ctf --particle_diameter 190 --flatten_solvent --zero_mask --norm --scale"
    " --offset_range 3 --offset_step 2 --random_seed 42 --pool 3"
)
KINDS = {
    "2D": f"--K 3 --tau2_fudge 2 --oversampling 1 --psi_step 12 {COMMON}",
    "3D": "--ref phantom_ref.mrc --ini_high 50 --ctf_corrected_ref --K 2 --tau2_fudge 4"
    f" --oversampling 1 --healpix_order 1 --sym C1 --pad 1 {COMMON}",
}
Cost = tuple[float, float]
"""CPU and wall seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=500)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    asked = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f}; {asked.particles} particles of 32 px")
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder) / "project", Particles(n=asked.particles))
        for kind in asked.kinds:
            compare(kind, project, iterations=asked.iterations, rounds=asked.rounds)
    print(f"load after: {os.getloadavg()[0]:.1f}")


def compare(kind: str, project: Path, *, iterations: int, rounds: int) -> None:
    plain: list[Cost] = []
    exact: list[Cost] = []
    for number in range(rounds):
        for costs, mode in ((plain, "0"), (exact, "1")):
            base = f"{kind}_{mode}_{number}/extra/relion"
            costs.append(_cost(kind, project, base, iterations=iterations, mode=mode))
    for what, at in (("CPU", 0), ("wall", 1)):
        one = statistics.median(cost[at] for cost in plain)
        many = statistics.median(cost[at] for cost in exact)
        print(
            f"{kind} {what}: plain {one:.2f} s, exact {many:.2f} s, ratio {many / one:.3f},"
            f" {(many - one) / iterations * 1000:.0f} ms more per iteration",
            flush=True,
        )


def _cost(kind: str, project: Path, base: str, *, iterations: int, mode: str) -> Cost:
    (project / base).parent.mkdir(parents=True)
    argv = [sys.executable, "-I", "-m", "scsched.cluster.launcher", "relion_refine"]
    argv += ["--i", "particles.star", "--o", base, "--iter", str(iterations), *KINDS[kind].split()]
    before, started = _cpu_s(), time.monotonic()
    subprocess.run(
        argv,
        cwd=project,
        env={**os.environ, "SCSCHED_EXACT": mode},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=3600,
    )
    return _cpu_s() - before, time.monotonic() - started


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
