"""A look at the gang before an expensive step: `python -I -m scsched.cluster.preflight`, under MPI.

All ranks are up, on the nodes of the gang; the storage is the same for all, and writable; messages
between nodes are fast enough. Rank 0 prints one JSON line, see `Verdict`; the exit code is 0 when
all is well, else 1, or whatever mpirun makes of ranks that did not come up.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from scsched.cluster import gang as gangs
from scsched.cluster import tags
from scsched.cluster.gang import Gang
from scsched.steps.errors import ConfigError

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm

_MESSAGE_MIB = 4
_ROUNDS = 8
_VISIBLE_S = 5.0
"""NFS clients may believe for a few seconds that a new file is not there; see acdirmin, nfs(5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the preflight found; `reason` says what is wrong, on which node."""

    ok: bool
    reason: str = ""
    ranks: int = 0
    nodes: tuple[str, ...] = ()
    mib_per_s: float = 0.0
    """Of the slowest node to and from the lead; 0: there is only one node."""
    seconds: float = 0.0


def argv(
    gang: Gang,
    storage: Path,
    *,
    floor_mib_per_s: float = 0.0,
    timeout_s: float = 60.0,
    python: str = sys.executable,
) -> list[str]:
    """The attempt's command: our mpirun, and this module in every rank."""
    module = [python, "-I", "-m"]
    return [
        *(*module, "scsched.cluster.mpirun", "-np", str(gang.ranks)),
        *(*module, "scsched.cluster.preflight", "--storage", str(storage)),
        *("--floor-mib-per-s", str(floor_mib_per_s), "--timeout-s", str(timeout_s)),
    ]


def parse(stdout: str) -> Verdict:
    """The verdict in what the preflight printed; without one, it did not come so far."""
    for line in reversed(stdout.splitlines()):
        if line.startswith('{"ok"'):
            data = json.loads(line)
            return Verdict(**{**data, "nodes": tuple(data["nodes"])})
    last = stdout.strip().splitlines()[-1:]
    return Verdict(ok=False, reason=f"not all ranks came up: {''.join(last) or 'no output'}")


def main(words: Sequence[str]) -> int:
    """One rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--storage", type=Path, required=True)
    parser.add_argument("--floor-mib-per-s", type=float, default=0.0)
    parser.add_argument("--timeout-s", type=float, default=60.0)
    args = parser.parse_args(words)
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, args.timeout_s)
    start = time.monotonic()
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    names: list[str] = comm.allgather(os.environ.get(tags.NODE, ""))
    # gang.json is the lead's own.
    wrong = comm.bcast(_check_names(names) if comm.rank == 0 else "")
    wrong = wrong or _check_storage(comm, args.storage, names)
    speed = 0.0 if wrong else _slowest(comm, names)
    if not wrong and 0.0 < speed < args.floor_mib_per_s:
        wrong = f"{speed:.0f} MiB/s between nodes; the floor is {args.floor_mib_per_s:g}"
    if comm.rank == 0:
        verdict = Verdict(
            ok=not wrong,
            reason=wrong,
            ranks=comm.size,
            nodes=tuple(dict.fromkeys(names)),
            mib_per_s=round(speed, 1),
            seconds=round(time.monotonic() - start, 3),
        )
        print(json.dumps(asdict(verdict)), flush=True)
    return 1 if wrong else 0


def _check_names(names: Sequence[str]) -> str:
    """Each rank is on the node that gang.json gives it."""
    path = os.environ.get(tags.GANG)
    if not path:
        return ""
    try:
        gang = gangs.read(Path(path))
    except ConfigError as exc:
        return str(exc)
    expected = [member.name for member in gang.members for _ in range(member.slots)]
    if list(names) != expected:
        return f"ranks are on {', '.join(names)}; expected {', '.join(expected)}"
    return ""


def _check_storage(comm: "Intracomm", storage: Path, names: Sequence[str]) -> str:
    """All ranks read what rank 0 wrote, and rank 0 what each of them wrote."""
    token: str = comm.bcast(secrets.token_hex(16))
    base = storage / f".scsched-preflight-{token}"
    problem = _written(base, token) if comm.rank == 0 else ""
    problem = comm.bcast(problem)
    if not problem:
        mine = base.with_name(f"{base.name}-{comm.rank}")
        problem = _read_back(base, token) or _written(mine, f"{token} {comm.rank}")
    problems: list[str] | None = comm.gather(problem)
    if comm.rank == 0 and problems is not None:
        for rank in range(comm.size):
            theirs = base.with_name(f"{base.name}-{rank}")
            problems[rank] = problems[rank] or _read_back(theirs, f"{token} {rank}")
            theirs.unlink(missing_ok=True)
        base.unlink(missing_ok=True)
        problem = next((f"{names[r]}: {text}" for r, text in enumerate(problems) if text), "")
    return str(comm.bcast(problem))


def _written(path: Path, text: str) -> str:
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return f"{path.parent} cannot be written: {exc.strerror}"
    return ""


def _read_back(path: Path, text: str) -> str:
    end = time.monotonic() + _VISIBLE_S
    while True:
        try:
            found = path.read_text(encoding="ascii")
        except OSError as exc:
            found = f"{exc.strerror}"
        if found == text:
            return ""
        if time.monotonic() > end:
            return f"{path.parent} is not the same storage here: {path.name}: {found[:80]}"
        time.sleep(0.1)


def _slowest(comm: "Intracomm", names: Sequence[str]) -> float:
    """MiB/s of a ping-pong between rank 0 and the first rank of each other node; the worst."""
    buffer = bytearray(_MESSAGE_MIB * 2**20)
    firsts = [names.index(name) for name in dict.fromkeys(names) if name != names[0]]
    speeds: list[float] = []
    for other in firsts:
        comm.Barrier()
        start = time.perf_counter()
        for _ in range(_ROUNDS):
            if comm.rank == 0:
                comm.Send(buffer, other)
                comm.Recv(buffer, other)
            elif comm.rank == other:
                comm.Recv(buffer, 0)
                comm.Send(buffer, 0)
        speeds.append(2 * _ROUNDS * _MESSAGE_MIB / (time.perf_counter() - start))
    return float(comm.bcast(min(speeds, default=0.0)))


def _give_up(signum: int, frame: FrameType | None) -> None:
    """A rank that waits for others for ever would keep the gang."""
    if os.environ.get("OMPI_COMM_WORLD_RANK", "0") == "0":
        verdict = Verdict(ok=False, reason="timed out: a rank or the storage does not answer")
        print(json.dumps(asdict(verdict)), flush=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
