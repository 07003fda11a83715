"""Who is alive on a site, looked at several times a second for as long as the site lives.

It keeps two rules by observation rather than by what the scheduler says of itself: RELION never
works for two attempts in one folder at once, and no attempt has more ranks than it was given.
"""

import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process

PAUSE_S = 0.2
_BY_WORD = {
    "scsched.scheduler.driver.main": "driver",
    "scsched.cluster.node": "node",
    "scsched.cluster.launcher": "launcher",
}
_BY_FILE = {"keeper_side.py": "keeper", "pw_protocol_run.py": "scipion"}


@dataclass(frozen=True, slots=True)
class Seen:
    """A live process of ours."""

    process: Process
    role: str
    """rank, mpirun, driver, keeper, node, launcher, scipion; empty for any other."""
    argv: tuple[str, ...]
    tags: Mapping[str, str]

    @property
    def run(self) -> str:
        """The token of its run."""
        return self.tags.get(tags.RUN, "")

    @property
    def node(self) -> str:
        return self.tags.get(tags.NODE, "")

    @property
    def node_token(self) -> str:
        return self.tags.get(tags.NODE_TOKEN, "")

    @property
    def folder(self) -> str:
        """Where RELION writes: the job's folder of the project, from its --o."""
        at = self.argv.index("--o") + 1 if "--o" in self.argv else 0
        cwd = _cwd(self.process.pid)
        return str(Path(cwd) / self.argv[at]).rpartition("/")[0] if at and cwd else ""


class Census(threading.Thread):
    """Looks until it is stopped."""

    def __init__(self, deployment: str) -> None:
        super().__init__(name="census", daemon=True)
        self.problems: list[str] = []
        self.ranks: defaultdict[str, set[Process]] = defaultdict(set)
        """Every process of RELION that was ever seen, by the token of its run."""
        self.folders: dict[str, str] = {}
        """Where the ranks of each run write."""
        self._deployment = deployment
        self._table = processes.Table()
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(PAUSE_S):
            self.look()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def look(self) -> list[Seen]:
        """All live processes of the deployment, oldest first."""
        with self._lock:
            environs = self._table.environs()
            found = [
                _seen(process, environ)
                for process, environ in sorted(environs.items(), key=_age)
                if environ.get(tags.DEPLOYMENT) == self._deployment
            ]
            self._note([one for one in found if one.role == "rank"])
        return found

    def _note(self, ranks: Sequence[Seen]) -> None:
        by_folder: defaultdict[str, set[str]] = defaultdict(set)
        for one in ranks:
            self.ranks[one.run].add(one.process)
            if folder := one.folder:
                by_folder[folder].add(one.run)
                self.folders[one.run] = folder
        for folder, runs in by_folder.items():
            if len(runs) > 1:
                self.problems.append(f"{folder}: {len(runs)} attempts at once: {ranks}")


def _age(item: tuple[Process, Mapping[str, str]]) -> tuple[int, int]:
    return item[0].start_ticks, item[0].pid


def _seen(process: Process, environ: Mapping[str, str]) -> Seen:
    argv = _argv(process.pid)
    kept = {key: value for key, value in environ.items() if key.startswith("SCSCHED_")}
    return Seen(process=process, role=_role(argv), argv=argv, tags=kept)


def _role(argv: Sequence[str]) -> str:
    program = Path(argv[0]).name if argv else ""
    if program.startswith("relion_"):
        return "rank"
    if program == "mpirun":
        return "mpirun"
    if program in ("sh", "bash"):
        return ""
    for word in argv:
        if role := _BY_WORD.get(word) or _BY_FILE.get(Path(word).name):
            return role
    return ""


def _argv(pid: int) -> tuple[str, ...]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(os.fsdecode(word) for word in raw.split(b"\0")[:-1])


def _cwd(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""
