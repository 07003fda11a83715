"""A node's agent starts Open MPI's daemon there, and ends it with whoever asked.

    mpirun on the lead ── plm_rsh_agent ──► client ── Unix socket, or TLS ──► agent of the node
                                                                               └── orted ── ranks

The client takes the place of ssh. On one machine its socket is in a directory of the user's own,
and the kernel says who connects; a node of another machine listens as `far_agent` tells. Either
starts nothing but `orted`. When the client goes (mpirun ended or was killed) the daemon and its
ranks on this node are killed; when orted ends, the client exits with its code. So the daemon is a
child of its node and dies with it.

Run as a program: `python -I -m scsched.cluster.agent NODE COMMAND...`, as mpirun does.
"""

import logging
import os
import shlex
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from scsched.cluster import daemon as daemons
from scsched.cluster import far_agent, rundir, tags, wire
from scsched.cluster import gang as gangs
from scsched.cluster.daemon import Daemons
from scsched.cluster.gang import Gang
from scsched.cluster.wire import Kind
from scsched.steps.errors import ScschedError

_log = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")
_CONNECT_S = 10.0
UNREACHABLE = 255
"""Exit code of the client when the node's agent does not answer; ssh uses the same."""


class Agent:
    """Listens on the node's socket from `start` on, a thread per daemon."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._daemons = Daemons(directory, environ)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def start(self) -> None:
        """Listen, in the background, and leave a program `rsh` for mpirun to call."""
        write_rsh(self._directory)
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
        return self._daemons.children

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
                with self._daemons.start(request, stdout=files[0], stderr=files[1]) as daemon:
                    code = daemons.wait(daemon, {connection.fileno(): lambda: False})
                wire.send_json(connection, Kind.END, {"exit_code": code})
            except (OSError, ValueError, KeyError, TypeError) as exc:
                _log.warning("refused a daemon: %s", exc)
                with suppress(OSError):
                    wire.send_json(connection, Kind.END, {"error": str(exc)})
            finally:
                for file in files:
                    os.close(file)


def where() -> dict[str, str]:
    """Called by the driver: this node's name, where its agent listens, and its own scratch.

    A node of this machine has no address: the lead finds its socket.
    """
    return {"name": os.environ.get(tags.NODE, "")} | far_agent.where()


def admit(run_token: str, key: str) -> bool:
    """Called by the driver: daemons of this run may start here, for who has the key of its gang."""
    return far_agent.admit(run_token, key)


def forget(run_token: str) -> bool:
    """Called by the driver: end what still runs here for this gang, and know its key no more."""
    return far_agent.forget(run_token)


def write_rsh(directory: Path) -> None:
    """Leave a program `rsh` for mpirun: it splits the agent's command at blanks despite quotes."""
    call = shlex.join([sys.executable, "-I", "-m", "scsched.cluster.agent"])
    script = directory / "rsh"
    script.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
    script.chmod(0o700)


def start_daemon(socket_path: Path, command: list[str]) -> int:
    """Have the agent at `socket_path` run `command`; returns its exit code when it ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_CONNECT_S)
        connection.connect(str(socket_path))
        socket.send_fds(connection, [b"\0"], [1, 2])
        wire.send_json(connection, Kind.REQUEST, far_agent.request(command))
        connection.settimeout(None)
        answer = wire.receive_json(connection, Kind.END)
    if "error" in answer:
        raise OSError(str(answer["error"]))
    return int(str(answer["exit_code"]))


def main(argv: list[str]) -> int:
    """The client: argv is NODE COMMAND..., as `plm_rsh_agent` is called."""
    if len(argv) < 2 or tags.DEPLOYMENT not in os.environ:
        print(f"usage: {tags.DEPLOYMENT}=.. agent NODE COMMAND...", file=sys.stderr)
        return 2
    node, *command = argv
    deployment = os.environ[tags.DEPLOYMENT]
    place = str(path := rundir.agent_socket(os.geteuid(), deployment, node))
    try:
        gang = _gang()
        place = gang.address(node) or place
        if gang.address(node):
            keys = rundir.keys_dir(os.geteuid(), deployment, os.environ.get(tags.NODE, ""))
            return far_agent.start_daemon(place, keys, gang.key, command)
        return start_daemon(path, command)
    except (OSError, ValueError, ScschedError) as exc:
        print(f"node {node}: its agent does not answer at {place}: {exc}", file=sys.stderr)
        return UNREACHABLE


def _gang() -> Gang:
    path = os.environ.get(tags.GANG)
    return gangs.read(Path(path)) if path else Gang(())


def _receive(connection: socket.socket, files: list[int]) -> dict[str, object]:
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(peer)[1] != os.geteuid():
        raise ValueError("called by somebody else")
    _, received, _, _ = socket.recv_fds(connection, 1, 2)
    files.extend(received)
    if len(files) != 2:
        raise ValueError("a request brings its stdout and stderr")
    return wire.receive_json(connection, Kind.REQUEST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
