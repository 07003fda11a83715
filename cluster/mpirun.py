"""mpirun over the gang: `python -I -m scsched.cluster.mpirun -np N COMMAND...`.

Scipion's PARALLEL_COMMAND names this module. It reads the gang from $SCSCHED_GANG, adds the
options that a run over nodes needs and becomes the real mpirun (Open MPI 4.1), taken from PATH.
Without a gang, or with a gang of one node, that is a plain local mpirun.

Node names resolve nowhere. Open MPI is told not to try, and reaches each node's daemon through
the node's agent; the lead is `localhost`, so its ranks are children of mpirun itself. Over several
machines its sockets are on the smallest network that has all of them, and on no other.
"""

import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from scsched.cluster import gang as gangs
from scsched.cluster import rundir, tags
from scsched.cluster.gang import Gang
from scsched.steps.errors import ConfigError, ScschedError, UsageError

# Open MPI's defaults wait 8 minutes for a host that vanished; these make it about 10 s.
KEEPALIVE = (
    ("oob_tcp_keepalive_time", "5"),
    ("oob_tcp_keepalive_intvl", "2"),
    ("oob_tcp_keepalive_probes", "3"),
)
# RELION's leader only hands out work, and polls for answers: without yielding it takes a core away
# from the workers. Open MPI yields by itself only where it believes that slots are too few.
YIELD = ("mpi_yield_when_idle", "1")
# ob1: the generic transport, without a search for fabrics.
_COMMON = (*KEEPALIVE, YIELD, ("pml", "ob1"))
_SPANNING = (("plm", "rsh"), ("plm_rsh_no_tree_spawn", "1"), ("if_base_do_not_resolve", "1"))
_LOCAL = (("plm", "isolated"), ("btl", "self,vader"), ("oob_tcp_if_include", "lo"))


def build(
    ranks: int, command: Sequence[str], *, gang: Gang | None, environ: Mapping[str, str], uid: int
) -> list[str]:
    """The real mpirun's argv.

    :raises ConfigError: the gang has several nodes and we are on none of them.
    """
    options = ["--oversubscribe", "--bind-to", "none", "-np", str(ranks)]
    if uid == 0:
        options.append("--allow-run-as-root")
    if gang is None or len(gang.members) == 1:
        mca = (*_COMMON, *_LOCAL, *_backing(environ, uid))
        hosts = f"localhost:{ranks}"
    else:
        # Daemons stay attached: the agent's client lives as long as they do.
        options.append("--leave-session-attached")
        agent = ("plm_rsh_agent", str(_rsh(environ)))
        mca = (*_COMMON, *_SPANNING, *_transport(gang, environ, uid), agent)
        others = (f"{member.name}:{member.slots}" for member in gang.members[1:])
        hosts = ",".join((f"localhost:{gang.lead.slots}", *others))
    flat = [word for key, value in mca for word in ("--mca", key, value)]
    return ["mpirun", *options, "--host", hosts, *flat, *command]


def _transport(gang: Gang, environ: Mapping[str, str], uid: int) -> tuple[tuple[str, str], ...]:
    """Over what ranks talk to each other.

    Nodes of one machine share /dev/shm, and ranks of the same place on two nodes would use the same
    segment (vader_segment.<host>.<uid>.<job>.<local rank>): so no shared memory between those.
    """
    network = gangs.network(gang) if gang.apart else "lo"
    sockets = (("oob_tcp_if_include", network), ("btl_tcp_if_include", network))
    if gang.apart and len({member.host for member in gang.members}) == len(gang.members):
        return (*sockets, ("btl", "self,vader,tcp"), *_backing(environ, uid))
    return (*sockets, ("btl", "self,tcp"))


def _backing(environ: Mapping[str, str], uid: int) -> tuple[tuple[str, str], ...]:
    """Where shared memory is: the other nodes' agents make a directory of this name too."""
    shm = _shm(environ, uid)
    return (("btl_vader_backing_directory", str(shm)),) if shm else ()


def parse(argv: Sequence[str]) -> tuple[int, list[str]]:
    """Ranks and command from `-np N COMMAND...`.

    :raises UsageError: it reads otherwise.
    """
    match argv:
        case ["-np" | "-n" | "--np", count, command, *rest] if count.isdecimal() and int(count) > 0:
            return int(count), [command, *rest]
    raise UsageError(f"mpirun: write -np N COMMAND..., not {shlex.join(argv)}")


def main(argv: Sequence[str]) -> int:
    """Becomes mpirun; returns only when it cannot."""
    try:
        ranks, command = parse(argv)
        environ = tags.without_mpi(os.environ) | {tags.MPI: secrets.token_hex(8)}
        gang = _gang(environ, ranks)
        line = build(ranks, command, gang=gang, environ=environ, uid=os.geteuid())
        os.execvpe(line[0], line, environ)  # noqa: S606 - no shell, on purpose
    except ScschedError as exc:
        print(f"scsched mpirun: {exc}", file=sys.stderr)
        return exc.exit_code
    except OSError as exc:
        print(f"scsched mpirun: cannot start mpirun: {exc}", file=sys.stderr)
        return 127


def _gang(environ: Mapping[str, str], ranks: int) -> Gang | None:
    """The gang with as many slots as there are ranks: Scipion has the last word on their number."""
    path = environ.get(tags.GANG)
    if not path:
        return None
    gang = gangs.read(Path(path))
    return gang if gang.ranks == ranks else gang.with_ranks(ranks)


def _shm(environ: Mapping[str, str], uid: int) -> Path | None:
    if tags.DEPLOYMENT not in environ or tags.NODE not in environ:
        return None
    path = rundir.shm_dir(uid, environ[tags.DEPLOYMENT], environ[tags.NODE])
    return path if path.is_dir() else None


def _rsh(environ: Mapping[str, str]) -> Path:
    """The program with which this node's agent lets mpirun call the other nodes' agents.

    :raises ConfigError: we are not on a node.
    """
    if tags.DEPLOYMENT not in environ or tags.NODE not in environ:
        raise ConfigError("a gang of several nodes starts from one of them; this is no node")
    path = rundir.node_dir(os.geteuid(), environ[tags.DEPLOYMENT], environ[tags.NODE]) / "rsh"
    if not path.is_file():
        raise ConfigError(f"node {environ[tags.NODE]} has no agent: {path} is missing")
    return path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
