"""The processes of local nodes: started with tags in their environment, found again by them."""

import os
import pwd
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from scsched.cluster import processes, tags
from scsched.cluster.node import MODULE
from scsched.cluster.processes import Process
from scsched.cluster.provider import BadRequest, LaunchRequest, NoCapacity
from scsched.cluster.records import Record, Records

_POOL = "SCSCHED_POOL"


@dataclass(frozen=True, slots=True)
class Found:
    """A node's live processes: its main one, None when only others are left, and its tags."""

    main: Process | None
    name: str
    pool: str
    uid: int


class Nodes:
    """Of one deployment."""

    def __init__(self, deployment: str, python: str, records: Records) -> None:
        self._deployment = deployment
        self._python = python
        self._records = records
        self._table = processes.Table()

    def found(self) -> dict[str, Found]:
        """Our nodes' live processes by token; other people's with our tags do not count."""
        nodes: dict[str, Found] = {}
        for process, environ in sorted(self._table.environs().items(), key=lambda item: item[0]):
            token = environ.get(tags.NODE_TOKEN, "")
            if environ.get(tags.DEPLOYMENT) != self._deployment or not token:
                continue
            uid = processes.owner(process.pid)
            before, record = nodes.get(token), self._records.get(token)
            if uid is None or (record is not None and record.uid != uid):
                continue
            main = before.main if before is not None else None
            if main is None and processes.runs(process.pid, MODULE):
                main = process
            nodes[token] = Found(main, environ.get(tags.NODE, ""), environ.get(_POOL, ""), uid)
        for record in self._records:
            main = None if record.ended or record.token in nodes else main_of(record)
            if main is not None:
                nodes[record.token] = Found(main, record.name, record.pool, record.uid)
        return nodes

    def start(self, request: LaunchRequest, spec: str) -> int:
        """The pid of the node's main process.

        :raises ProviderError: none was started.
        """
        owner = request.owner
        other = owner.uid != os.geteuid()
        with self._records.log(request.token).open("ab") as log, _translated(self._python):
            process = subprocess.Popen(
                [self._python, "-I", "-m", MODULE, "--spec", spec],
                cwd="/",
                env=self._environ(request),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=owner.uid if other else None,
                group=owner.gid if other else None,
                extra_groups=os.getgrouplist(owner.username, owner.gid) if other else None,
            )
        # Collects the exit status, else an ended node would stay as a zombie.
        threading.Thread(target=process.wait, name=f"reap {request.name}", daemon=True).start()
        return process.pid

    def _environ(self, request: LaunchRequest) -> Mapping[str, str]:
        return tags.allowed() | {
            "HOME": _home(request.owner.uid),
            "USER": request.owner.username,
            "LOGNAME": request.owner.username,
            tags.DEPLOYMENT: self._deployment,
            tags.NODE: request.name,
            tags.NODE_TOKEN: request.token,
            _POOL: request.pool.name,
        }


def main_of(record: Record) -> Process | None:
    """The live main process of a node that is on record.

    One that was started a moment ago has no environment to be read yet.
    """
    try:
        process = processes.parse(record.provider_id)
    except ValueError:
        return None
    return process if processes.alive(process) else None


@contextmanager
def _translated(python: str) -> Iterator[None]:
    """A process that could not be started is no node."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as exc:
        raise BadRequest(f"{python}: cannot be started as a node: {exc.strerror}") from exc
    except (OSError, subprocess.SubprocessError) as exc:
        raise NoCapacity(f"this machine starts no more processes: {exc}") from exc


def _home(uid: int) -> str:
    if uid == os.geteuid() and "HOME" in os.environ:
        return os.environ["HOME"]
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return "/"
