"""Drivers as processes of this machine: started as the submitter, found again by their tag.

A driver's log is made by the broker, in a folder that is the broker's own, and given to the
driver's user. Whatever that user does to it, nobody but the broker can put another file there.
"""

import errno
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypedDict

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process
from scsched.db.drivers import DriverRec

PROGRAM = (sys.executable, "-I", "-m", "scsched.scheduler.driver.main")
LAST_WORDS = 300
"""Characters of a driver's last line that are told."""
_TAIL_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Places:
    """Where drivers work and how they reach the broker."""

    state_dir: Path
    socket: Path

    def work_dir(self, workflow_id: int) -> Path:
        return self.state_dir / "wf" / str(workflow_id)

    def log(self, workflow_id: int) -> Path:
        return self.state_dir / "log" / f"driver-{workflow_id}.log"


class LocalDrivers:
    """Starts each driver in a session of its own, so that it outlives the broker."""

    def __init__(
        self, places: Places, deployment: str, *, program: Sequence[str] = PROGRAM
    ) -> None:
        """:param program: the driver's command line, but for its arguments."""
        self._places = places
        self._deployment = deployment
        self._program = tuple(program)
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def work_dir(self, workflow_id: int) -> Path:
        return self._places.work_dir(workflow_id)

    def start(self, record: DriverRec, token: str) -> Process | None:
        try:
            child = self._spawn(record, token)
        except KeyError as exc:
            raise OSError(f"uid {record.uid} has no account here") from exc
        self._children[child.pid] = child
        return processes.identify(child.pid)

    def find(self, record: DriverRec) -> Process | None:
        found = processes.find({tags.DRIVER: record.token or ""}, uid=record.uid)
        return found[0] if found else None

    def alive(self, process: Process) -> bool:
        child = self._children.get(process.pid)
        if child is not None and child.poll() is not None:
            del self._children[process.pid]
        return processes.alive(process)

    def last_words(self, record: DriverRec) -> str:
        """See `Programs.last_words`; nothing of an earlier driver, and nothing unprintable."""
        path = self._places.log(record.workflow_id)
        try:
            with _open_log(path, os.O_RDONLY, record.uid) as log:
                found = os.fstat(log.fileno())
                if record.asked_at and found.st_mtime < record.asked_at.timestamp():
                    return ""
                log.seek(max(0, found.st_size - _TAIL_BYTES))
                return _last_line(log.read(_TAIL_BYTES))
        except OSError:
            return ""

    def end(self, process: Process) -> None:
        processes.send(process, signal.SIGKILL)

    def _spawn(self, record: DriverRec, token: str) -> subprocess.Popen[bytes]:
        work_dir = self._places.work_dir(record.workflow_id)
        _make_dir(work_dir, record.uid)
        argv = [
            *self._program,
            "--socket", str(self._places.socket),
            "--workflow", str(record.workflow_id),
            "--work-dir", str(work_dir),
        ]  # fmt: skip
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with _open_log(self._places.log(record.workflow_id), flags, record.uid) as out:
            _give(out, record.uid)
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=_environment(record, token, self._deployment),
                start_new_session=True,
                umask=0o022,
                **_as_user(record.uid),
            )


class _User(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _as_user(uid: int) -> _User:
    """Popen's arguments to become `uid`, with its own groups and no other; none if we are it."""
    if uid == os.geteuid():
        return {}
    entry = pwd.getpwuid(uid)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return {"user": uid, "group": entry.pw_gid, "extra_groups": groups}


def _environment(record: DriverRec, token: str, deployment: str) -> Mapping[str, str]:
    mine = record.uid == os.geteuid()
    home = os.environ.get("HOME") if mine else None
    return {
        **tags.allowed(),
        "HOME": home or pwd.getpwuid(record.uid).pw_dir,
        "USER": record.username,
        "LOGNAME": record.username,
        tags.DEPLOYMENT: deployment,
        tags.DRIVER: token,
    }


def _make_dir(path: Path, uid: int) -> None:
    """Of the user alone; we never look into it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() == 0 and path.stat().st_uid != uid:
        os.chown(path, uid, group_of(uid))


def _open_log(path: Path, flags: int, uid: int) -> BinaryIO:
    """A driver's log. No link is followed, and no lease of its owner's waited for (fcntl(2)).

    :raises OSError: it is no plain file of ours or of `uid`, or cannot be opened now.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    log = os.fdopen(os.open(path, flags, 0o600), "rb" if flags & os.O_ACCMODE == 0 else "ab")
    found = os.fstat(log.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in (os.geteuid(), uid):
        log.close()
        raise OSError(errno.EPERM, "is no log of this driver", str(path))
    return log


def _give(log: BinaryIO, uid: int) -> None:
    """To the driver's user and to nobody else."""
    os.fchmod(log.fileno(), 0o600)
    if os.geteuid() == 0:
        os.fchown(log.fileno(), uid, group_of(uid))
    os.set_blocking(log.fileno(), True)


def _last_line(tail: bytes) -> str:
    lines = tail.decode("utf-8", "replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(char if char.isprintable() else " " for char in last)[:LAST_WORDS]


def group_of(uid: int) -> int:
    """The group that a user's processes start with."""
    return os.getegid() if uid == os.geteuid() else pwd.getpwuid(uid).pw_gid
