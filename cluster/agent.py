"""A node's agent starts Open MPI's daemon there, and ends it with whoever asked.

    mpirun on the lead ── plm_rsh_agent ──► client ── Unix socket ──► agent thread of the node
                                                                        └── orted ── ranks

The client takes the place of ssh. Its socket is in a directory of the user's own, the kernel says
who connects, and the agent starts nothing but `orted`. When the client goes (mpirun ended or was
killed) the daemon and its ranks on this node are killed; when orted ends, the client exits with
its code. So the daemon is a child of its node and dies with it.

Run as a program: `python -I -m scsched.cluster.agent NODE COMMAND...`, as mpirun does.
"""

import json
import logging
import os
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from scsched.cluster import processes, rundir, tags

_log = logging.getLogger(__name__)
_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")
_LONGEST = 8 * 2**20
_GRACE_S = 1.0
_CONNECT_S = 10.0
UNREACHABLE = 255
"""Exit code of the client when the node's agent does not answer; ssh uses the same."""


class Agent:
    """Listens on the node's socket from `start` on, a thread per daemon."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self._directory = directory
        self._environ = environ
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._children: set[int] = set()

    def start(self) -> None:
        """Listen, in the background, and leave a program `rsh` for mpirun to call.

        It is a script, since mpirun splits the agent's command at blanks, whatever quotes say.
        """
        call = shlex.join([sys.executable, "-I", "-m", "scsched.cluster.agent"])
        script = self._directory / "rsh"
        script.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        script.chmod(0o700)
        self._socket.bind(str(self._directory / "agent.sock"))
        self._socket.listen(16)
        threading.Thread(target=self._accept, name="agent", daemon=True).start()

    def close(self) -> None:
        """Stop listening; daemons run on until their clients go."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def children(self) -> frozenset[int]:
        """Pids of the daemons, which the agent waits for itself."""
        return frozenset(self._children)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        files: list[int] = []
        with connection:
            try:
                connection.settimeout(_CONNECT_S)
                request = _receive(connection, files)
                code = self._run(request, files, connection)
                connection.sendall(_framed({"exit_code": code}))
            except (OSError, ValueError, KeyError, TypeError) as exc:
                _log.warning("refused a daemon: %s", exc)
                with suppress(OSError):
                    connection.sendall(_framed({"error": str(exc)}))
            finally:
                for file in files:
                    os.close(file)

    def _run(self, request: dict[str, object], files: list[int], client: socket.socket) -> int:
        argv = _daemon_argv(request["command"])
        environ, cwd = request["environ"], request["cwd"]
        if not isinstance(environ, dict) or not isinstance(cwd, str):
            raise ValueError("a request has a command, an environ and a cwd")
        with tempfile.TemporaryDirectory(
            prefix="mpi-", dir=self._directory, ignore_cleanup_errors=True
        ) as temporary:
            environ = tags.without_mpi(environ) | self._environ | {"TMPDIR": temporary}
            daemon = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=files[0],
                stderr=files[1],
                process_group=0,
            )
            self._children.add(daemon.pid)
            try:
                return _wait(daemon, client)
            finally:
                _end(daemon, environ)
                self._children.discard(daemon.pid)


def start_daemon(socket_path: Path, command: list[str]) -> int:
    """Have the agent at `socket_path` run `command`; returns its exit code when it ended."""
    message: dict[str, object] = {
        "command": command,
        "environ": dict(os.environ),
        "cwd": str(Path.cwd()),
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_S)
        connection.connect(str(socket_path))
        socket.send_fds(connection, [b"\0"], [1, 2])
        connection.sendall(_framed(message))
        connection.settimeout(None)
        answer = _read_frame(connection)
    if "error" in answer:
        raise OSError(str(answer["error"]))
    return int(str(answer["exit_code"]))


def main(argv: list[str]) -> int:
    """The client: argv is NODE COMMAND..., as `plm_rsh_agent` is called."""
    if len(argv) < 2 or tags.DEPLOYMENT not in os.environ:
        print(f"usage: {tags.DEPLOYMENT}=.. agent NODE COMMAND...", file=sys.stderr)
        return 2
    node, *command = argv
    path = rundir.agent_socket(os.geteuid(), os.environ[tags.DEPLOYMENT], node)
    try:
        return start_daemon(path, command)
    except OSError as exc:
        print(f"node {node}: its agent does not answer at {path}: {exc}", file=sys.stderr)
        return UNREACHABLE


def _daemon_argv(command: object) -> list[str]:
    """mpirun passes the line it would give to a remote shell; only orted is accepted."""
    words = command if isinstance(command, list) else [command]
    argv = shlex.split(" ".join(str(word) for word in words))
    if not argv or Path(argv[0]).name != "orted":
        raise ValueError(f"the agent starts orted only, not {argv[:1]}; call mpirun without a path")
    return argv


def _wait(daemon: subprocess.Popen[bytes], client: socket.socket) -> int:
    """Until the daemon ends, or its client goes: then the code is that of a SIGTERM."""
    handle = os.pidfd_open(daemon.pid)
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        poller.register(client, select.POLLIN | select.POLLHUP)
        ready = {file for file, _ in poller.poll()}
    finally:
        os.close(handle)
    return _code(daemon.wait(timeout=_GRACE_S)) if handle in ready else 128 + signal.SIGTERM


def _end(daemon: subprocess.Popen[bytes], environ: dict[str, str]) -> None:
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


def _receive(connection: socket.socket, files: list[int]) -> dict[str, object]:
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(peer)[1] != os.geteuid():
        raise ValueError("called by somebody else")
    _, received, _, _ = socket.recv_fds(connection, 1, 2)
    files.extend(received)
    if len(files) != 2:
        raise ValueError("a request brings its stdout and stderr")
    return _read_frame(connection)


def _framed(message: Mapping[str, object]) -> bytes:
    data = json.dumps(message).encode()
    return _LENGTH.pack(len(data)) + data


def _read_frame(connection: socket.socket) -> dict[str, object]:
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > _LONGEST:
        raise ValueError(f"a message of {length} bytes is too long")
    data = json.loads(_read(connection, length))
    if not isinstance(data, dict):
        raise ValueError("a message is a JSON object")
    return data


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise OSError("the connection was closed")
        data += part
    return data


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
