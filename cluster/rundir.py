"""A node's private directories on its own machine: short paths, mode 0700, gone with the node."""

import hashlib
import os
import shutil
import stat
from pathlib import Path

from scsched.steps.errors import ConfigError

_ROOT = Path("/tmp")  # noqa: S108 - a Unix socket's path must be short; `private` checks the owner
_SHM = Path("/dev/shm")  # noqa: S108


def root(uid: int) -> Path:
    """Where all of the user's nodes on this machine have their directories."""
    return _ROOT / f"scsched-{uid}"


def all_of(uid: int) -> tuple[Path, ...]:
    """The directories of all of the user's nodes on this machine, and whatever is named so."""
    return (*root(uid).glob("*"), *_SHM.glob(f"scsched-{uid}-*"))


def node_dir(uid: int, deployment: str, node: str) -> Path:
    """Where the node keeps its agent's socket and what its processes write; fits sockaddr_un."""
    return root(uid) / _short(deployment, node)


def shm_dir(uid: int, deployment: str, node: str) -> Path:
    """Where the node's MPI ranks keep their shared memory."""
    return _SHM / f"scsched-{uid}-{_short(deployment, node)}"


def agent_socket(uid: int, deployment: str, node: str) -> Path:
    """The node's agent listens here."""
    return node_dir(uid, deployment, node) / "agent.sock"


def keys_dir(uid: int, deployment: str, node: str) -> Path:
    """Where a node of another machine keeps the workflow's keys."""
    return node_dir(uid, deployment, node) / "tls"


def private(path: Path) -> Path:
    """`path` as a directory of ours that nobody else can enter, made where missing.

    :raises ConfigError: somebody else has made it first.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(
            f"{path}: is not a directory that only uid {os.geteuid()} can enter",
            hint=f"remove it: rm -r {path}",
        )
    return path


def make(deployment: str, node: str) -> Path:
    """An empty `node_dir` for a node that starts; what an older one of its name left is removed."""
    uid = os.geteuid()
    path = node_dir(uid, deployment, node)
    private(path.parent)
    remove(uid, deployment, node)
    if _SHM.is_dir():
        private(shm_dir(uid, deployment, node))
    return private(path)


def remove(uid: int, deployment: str, node: str) -> None:
    """Remove both directories; never follows a link (`shutil.rmtree.avoids_symlink_attacks`)."""
    shutil.rmtree(node_dir(uid, deployment, node), ignore_errors=True)
    shutil.rmtree(shm_dir(uid, deployment, node), ignore_errors=True)


def _short(deployment: str, node: str) -> str:
    return hashlib.sha256(f"{deployment}\0{node}".encode()).hexdigest()[:16]
