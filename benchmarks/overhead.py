"""One RELION step through scsched, by hand, and through Scipion's own `schedule` script.

    python benchmarks/overhead.py [--particles 160] [--rounds 2] [--kinds 2D refine]

Everything is real: Scipion, RELION, Open MPI, `scsched serve` with a driver and nodes on this
machine. A workflow is an import and the step: a 2D classification in one process, or an
auto-refine with three ranks. The command by hand is the one that Scipion has run, taken from its
log, in the same project and with an output folder of its own.

`step` is the wall time of the step alone: in scsched from its run's intent to its recorded end,
checks of the outputs included; in Scipion from the start of its protocol to its end. `workflow` is
from the submission, or from Scipion's `create`, to the end of the last protocol. `CPU` is that of
every process of the workflow, to the last one; for scsched the broker's start and stop, the driver
and the nodes too. RELION's own CPU is most of it, and is the line by hand.
"""

import argparse
import ctypes
import os
import re
import resource
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.common import Figure, heading, table
from scsched.scheduler import scipion_env
from tests.e2e import site as sites
from tests.e2e.workflows import boxes
from tests.relion_data import Particles, make_project
from tests.scheduler import scipion_site

SCHEDULE = ("-m", "pyworkflow.project.scripts.schedule")
SCHEDULE_ONCE = (
    "-c",
    """
import sys
import pyworkflow
from pyworkflow.project import Manager, Project
from pyworkflow.protocol import INITIAL_SLEEP_TIME
project = Project(pyworkflow.Config.getDomain(), Manager().getProjectPath(sys.argv[1]))
project.load()
found = {}
for root in project.getRunsGraph().getRootNodes():
    for child in root.getChildren():
        for protocol, level in project._getSubworkflow(child.run)[0].values():
            found[protocol.getObjId()] = (protocol, level)
for protocol, level in found.values():
    project.scheduleProtocol(protocol, initialSleepTime=level * INITIAL_SLEEP_TIME)
""",
)
"""As `schedule`, which starts a step twice that it reaches from two imports; then one of both
mostly fails."""
MPIRUN = "mpirun --allow-run-as-root --oversubscribe -np %_(JOB_NODES)d %_(COMMAND)s"
LONGEST_S = 900.0
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    protocol: str
    ref: str
    document: Callable[[Path], str]
    """From the folder of the data."""
    schedule: Sequence[str] = SCHEDULE


def _particles(data: Path) -> boxes.Box:
    """With the empty parameters without which Scipion's own `create` fails."""
    return boxes.particles(data) | {"filesPath": "", "filesPattern": ""}


def _two_d(data: Path) -> str:
    return boxes.document(_particles(data), boxes.classes_2d(numberOfMpi=1))


def _refine(data: Path) -> str:
    return boxes.document(_particles(data), boxes.reference(data), boxes.refinement())


KINDS = (
    Kind("2D", "ProtRelionClassify2D", "20", _two_d),
    Kind("refine", "ProtRelionRefine3D", "3", _refine, SCHEDULE_ONCE),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Wall seconds of the step and of its workflow, CPU seconds of all."""

    step_s: float
    workflow_s: float
    cpu_s: float


def main() -> None:
    asked = _options()
    sites.skip_unless_all_is_here()
    _adopt_orphans()
    heading(f"Overhead of one RELION step, {asked.particles} particles of 32 px")
    for kind in (kind for kind in KINDS if kind.name in asked.kinds):
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
            data = make_project(Path(folder) / "data", Particles(n=asked.particles))
            table(_figures(kind, data, Path(folder), asked.rounds))
            print(flush=True)


def _figures(kind: Kind, data: Path, folder: Path, rounds: int) -> Iterator[Figure]:
    """By turns, so that all of them meet the same machine."""
    hand: list[Outcome] = []
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    for number in range(rounds):
        project, outcome = through_scipion(kind, data, folder / f"scipion{number}")
        theirs.append(outcome)
        hand.append(by_hand(kind, data, project))
        ours.append(through_scsched(kind, data, folder / f"project {number}"))
    by_who = {
        "RELION by hand": hand,
        f"scsched {version('scsched')}": ours,
        "Scipion schedule": theirs,
    }
    for what, of in _MEASURES.items():
        for who, outcomes in by_who.items():
            yield Figure(f"{kind.name}: {what}", who, min(map(of, outcomes)), "s")


_MEASURES: Mapping[str, Callable[[Outcome], float]] = {
    "wall of the step": lambda outcome: outcome.step_s,
    "wall of the workflow": lambda outcome: outcome.workflow_s,
    "CPU of all": lambda outcome: outcome.cpu_s,
}


def through_scsched(kind: Kind, data: Path, project: Path) -> Outcome:
    """A site of its own; CPU is counted when all of its processes have ended."""
    before = _cpu_s()
    with sites.running() as site:
        began = time.monotonic()
        number = site.submit(kind.document(data), project=project, exact="off")
        while (found := site.client.workflow(number))["state"] not in ("COMPLETED", "FAILED"):
            assert time.monotonic() - began < LONGEST_S, found["state"]
            time.sleep(1.0)
        assert found["state"] == "COMPLETED", [one["last_end"] for one in found["steps"]]
        (step,) = [one for one in found["steps"] if one["id"] == kind.ref]
        workflow_s = found["run_s"]
    _collect()
    return Outcome(step["run_s"], workflow_s, _cpu_s() - before)


def through_scipion(kind: Kind, data: Path, folder: Path) -> tuple[Path, Outcome]:
    """The project, and what it took."""
    env = _scipion_env(folder)
    document = folder / "workflow.json"
    document.write_text(kind.document(data))
    before, began = _cpu_s(), time.monotonic()
    create = ("-m", "pyworkflow.project.scripts.create", "bench", str(document))
    for script in (create, (*kind.schedule, "bench")):
        subprocess.run(
            [str(scipion_site.scipion_python()), *script],
            env=env, check=True, capture_output=True, timeout=LONGEST_S,
        )  # fmt: skip
    project = folder / "data" / "projects" / "bench"
    while not (states := _states(project)) or any(one not in _OVER for one in states.values()):
        assert time.monotonic() - began < LONGEST_S, states
        time.sleep(0.2)
    workflow_s = time.monotonic() - began
    assert set(states.values()) == {"finished"}, states
    _collect()
    return project, Outcome(_lasted(project, kind), workflow_s, _cpu_s() - before)


def by_hand(kind: Kind, data: Path, project: Path) -> Outcome:
    log = next((project / "Runs").glob(f"*_{kind.protocol}/logs/run.stdout")).read_text()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", log).splitlines()
    line = next(line for line in lines if "relion_refine" in line and " --o " in line)
    command = shlex.split(line[line.index("mpirun") if "mpirun" in line else _program(line) :])
    command[command.index("--o") + 1] = "by_hand/run"
    if "--ref" in command:  # Scipion has removed its copy
        command[command.index("--ref") + 1] = str(data / "phantom_ref.mrc")
    (project / "by_hand").mkdir()
    before, began = _cpu_s(), time.monotonic()
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=LONGEST_S)
    wall_s = time.monotonic() - began
    return Outcome(wall_s, wall_s, _cpu_s() - before)


_OVER = ("finished", "failed", "aborted")


def _program(line: str) -> int:
    """Where the word that ends in relion_refine begins."""
    return line.rindex(" ", 0, line.index("relion_refine")) + 1


def _states(project: Path) -> Mapping[str, str]:
    """Of the protocols, by folder."""
    found = {}
    for run in (project / "Runs").glob("*"):
        found[run.name] = _kept(run, "status")
    return found


def _lasted(project: Path, kind: Kind) -> float:
    """Between the two times that Scipion keeps of a protocol."""
    run = next((project / "Runs").glob(f"*_{kind.protocol}"))
    began, ended = (datetime.fromisoformat(_kept(run, name)) for name in ("initTime", "endTime"))
    return (ended - began).total_seconds()


def _kept(run: Path, name: str) -> str:
    """A value of the protocol in the folder `run`; empty while there is none."""
    database = f"file:{run / 'logs' / 'run.db'}?mode=ro"
    key = f"{int(run.name.partition('_')[0])}.{name}"
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, uri=True)) as db:
        found = db.execute("SELECT value FROM Objects WHERE name = ?", (key,)).fetchone()
        return str(found[0]) if found else ""
    return ""


def _scipion_env(folder: Path) -> dict[str, str]:
    """As ours, but for the two seams that lead to us: plain mpirun, and no launcher."""
    folder.mkdir()
    ours = scipion_env.prepare(
        folder / "home",
        scipion_python=scipion_site.scipion_python(),
        relion_bin=scipion_site.relion_bin(),
    )
    (folder / "home" / "hosts.conf").write_text(scipion_env.hosts_conf(MPIRUN))
    (folder / "data" / "projects").mkdir(parents=True)
    return {
        **os.environ,
        **ours,
        "RELION_PREPEND": "",
        "RELION_PREPEND_CPU": "",
        "SCIPION_USER_DATA": str(folder / "data"),
    }


# ---- CPU of processes that outlive their parents ----


def _adopt_orphans() -> None:
    """Drivers and nodes have sessions of their own: when their parent ends they become ours."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _collect() -> None:
    """Wait for every process left, so that its CPU counts."""
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.1)
        except ChildProcessError:
            return
    raise RuntimeError("a process of the benchmark does not end")


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=2)
    names = [kind.name for kind in KINDS]
    parser.add_argument("--kinds", nargs="+", default=names, choices=names)
    return parser.parse_args()


if __name__ == "__main__":
    main()
