"""What killed nodes left on their machine: `python -I -m scsched.cluster.leftovers WORK_DIR`.

A node that is ended removes its directories itself. One that is killed cannot, and whoever comes
next of the same user on the machine does it: a node that starts, or the script of one that ends.
In each of its directories a node holds a file with a shared lock for as long as its process lives:
where that file is there and nobody holds it, the directory is left over. They are all on the
machine's own disks, where locks can be relied on.
"""

import fcntl
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scsched.cluster import rundir

_PATIENCE_S = 5.0
_PAUSE_S = 0.02
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
MARK = ".held"


def make(deployment: str, node: str) -> Path:
    """The `rundir.make` of a node that starts, held until this process ends."""
    uid = os.geteuid()
    parent = rundir.private(rundir.node_dir(uid, deployment, node).parent)
    with _alone(parent, _PATIENCE_S):
        path = rundir.make(deployment, node)
        hold(path)
        with suppress(FileNotFoundError):
            hold(rundir.shm_dir(uid, deployment, node))
    return path


def hold(directory: Path) -> int:
    """A descriptor: until it is closed, `sweep` leaves this directory alone."""
    descriptor = os.open(directory / MARK, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
    with suppress(OSError):  # a file system without locks, on which nothing is swept either
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def share(directory: Path) -> int:
    """As `hold`, of a directory that is made where missing."""
    with _alone(rundir.private(rundir.root(os.geteuid())), _PATIENCE_S):
        return hold(rundir.private(directory))


def sweep(work_dir: Path | None = None) -> tuple[Path, ...]:
    """Remove what is left over of this user's nodes; returns the directories.

    :param work_dir: of batch nodes, which have a directory each in it.
    """
    uid, gone = os.geteuid(), []
    with suppress(OSError), _alone(rundir.root(uid), 0.0) as alone:
        if not alone:
            return ()
        marked = [path for path in rundir.all_of(uid) if os.path.lexists(path / MARK)]
        for path in (*marked, *_abandoned(work_dir)):
            if _is_left(path, uid):
                shutil.rmtree(path, ignore_errors=True)
                gone.append(path)
    return tuple(gone)


def _abandoned(work_dir: Path | None) -> Iterator[Path]:
    """Those whose script is gone; it makes one some time before the node holds it."""
    for file in work_dir.glob("*/pid") if work_dir else ():
        with suppress(OSError, ValueError):
            pid = int(file.read_text(encoding="ascii"))
            if not Path(f"/proc/{pid}").exists():
                yield file.parent


def _is_left(directory: Path, uid: int) -> bool:
    """Whether it is this user's, and nobody holds it."""
    try:
        status = directory.lstat()
        if status.st_uid != uid or not stat.S_ISDIR(status.st_mode):
            return False
        descriptor = os.open(directory / MARK, os.O_RDWR | _FLAGS)
    except FileNotFoundError:
        return directory.exists()
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


@contextmanager
def _alone(parent: Path, patience_s: float) -> Iterator[bool]:
    """Whether no other process of this user makes or sweeps directories meanwhile.

    One that is suspended in the middle must not keep every node of its user from starting.
    """
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    try:
        yield _locked(descriptor, patience_s)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, patience_s: float) -> bool:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE_S)
        else:
            return True


if __name__ == "__main__":
    sweep(Path(sys.argv[1]) if sys.argv[1:] else None)
