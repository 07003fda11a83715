"""Open MPI's daemon on a node, started for mpirun on another; it ends with whoever asked for it."""

import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from scsched.cluster import leftovers, processes, rundir, tags
from scsched.steps.errors import ConfigError

_GRACE_S = 1.0


class Daemons:
    """The daemons of one node; `environ` are the node's own tags, which no caller can change."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._environ = dict(environ)
        self._children: set[int] = set()

    @property
    def children(self) -> frozenset[int]:
        """Pids of the daemons, which are waited for here."""
        return frozenset(self._children)

    @contextmanager
    def start(
        self, request: Mapping[str, object], *, stdout: int, stderr: int
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """The daemon that the request asks for; nothing of it is left on the way out.

        :raises ValueError: the request is for something else.
        """
        argv = _with_own_rsh(daemon_argv(request.get("command")), self._directory / "rsh")
        environ, cwd = request.get("environ"), request.get("cwd")
        if not isinstance(environ, dict) or not isinstance(cwd, str):
            raise ValueError("a request has a command, an environ and a cwd")
        with (
            tempfile.TemporaryDirectory(
                prefix="mpi-", dir=self._directory, ignore_cleanup_errors=True
            ) as temporary,
            self._shared_memory(environ),
        ):
            environ = (
                tags.without_gpus(tags.without_mpi(environ)) | self._environ | {"TMPDIR": temporary}
            )
            daemon = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                process_group=0,
            )
            self._children.add(daemon.pid)
            try:
                yield daemon
            finally:
                _end(daemon, environ)
                self._children.discard(daemon.pid)

    @contextmanager
    def _shared_memory(self, environ: Mapping[str, str]) -> Iterator[None]:
        """The directory of the lead's name: Open MPI takes one for all nodes; see `mpirun`."""
        lead = environ.get(tags.NODE, "")
        deployment = self._environ.get(tags.DEPLOYMENT, "")
        if not lead or lead == self._environ.get(tags.NODE):
            yield
            return
        path = rundir.shm_dir(os.geteuid(), deployment, lead)
        # A node of this very machine has its own; then ranks do not use shared memory.
        mine = path.parent.is_dir() and not path.exists()
        held = None
        with suppress(OSError, ConfigError):
            held = leftovers.share(path)
        try:
            yield
        finally:
            if mine:
                shutil.rmtree(path, ignore_errors=True)
            if held is not None:
                os.close(held)


def daemon_argv(command: object) -> list[str]:
    """mpirun passes the line it would give to a remote shell; only its `orted` is accepted.

    For a user whose shell is sh it is `( test ! -r ./.profile || . ./.profile; orted ... )`.
    """
    words = command if isinstance(command, list) else [command]
    argv = shlex.split(" ".join(str(word) for word in words))
    start = 0
    if argv[:2] == ["(", "test"]:
        start = next((k for k, word in enumerate(argv) if Path(word).name == "orted"), 0)
        argv = argv[:-1] if argv[-1] == ")" else argv
    argv = argv[start:]
    if not argv or Path(argv[0]).name != "orted":
        raise ValueError(f"the agent starts orted only, not {argv[:1]}; call mpirun without a path")
    return argv


def _with_own_rsh(argv: list[str], rsh: Path) -> list[str]:
    """orted looks for the lead's `rsh` too, though it has no use for it, and ends without one."""
    places = [place + 1 for place, word in enumerate(argv[:-1]) if word == "plm_rsh_agent"]
    return [str(rsh) if place in places else word for place, word in enumerate(argv)]


def wait(daemon: "subprocess.Popen[bytes]", serve: Mapping[int, Callable[[], bool | None]]) -> int:
    """Until the daemon ends; meanwhile calls `serve[file]()` whenever that file can be read.

    False: its asker is gone; then the code is that of a SIGTERM. None: the file has ended.
    """
    handle = os.pidfd_open(daemon.pid)
    try:
        poller = select.poll()
        for file in (handle, *serve):
            poller.register(file, select.POLLIN)
        while True:
            ready = {file for file, _ in poller.poll()}
            if handle in ready:
                return _code(daemon.wait(timeout=_GRACE_S))
            for file in ready:
                there = serve[file]()
                if there is None:
                    poller.unregister(file)
                elif not there:
                    return 128 + signal.SIGTERM
    finally:
        os.close(handle)


def _end(daemon: "subprocess.Popen[bytes]", environ: Mapping[str, str]) -> None:
    """Nothing of this call of mpirun stays on this node."""
    if daemon.poll() is None:
        daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(timeout=_GRACE_S)
    mine = {key: environ[key] for key in (tags.MPI, tags.NODE_TOKEN) if key in environ}
    with suppress(TimeoutError):
        if len(mine) == 2:
            processes.kill_tagged(mine, uid=os.geteuid())
    if daemon.poll() is None:
        daemon.kill()
    daemon.wait()


def _code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode
