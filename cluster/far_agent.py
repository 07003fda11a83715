"""The agent of a node on another machine: TLS with the workflow's keys, and a key per gang.

Both sides show the worker's certificate of the workflow; that says "one of its nodes". The gang's
key says "the lead of the gang that this node is in now": it is made by the driver, admitted on
each member before the run, and forgotten after it. A client that goes, in good order or silently,
takes its daemon with it: see `wire.keep_alive`.
"""

import hmac
import json
import logging
import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from scsched.cluster import daemon as daemons
from scsched.cluster import wire
from scsched.cluster.daemon import Daemons
from scsched.cluster.wire import Kind

_log = logging.getLogger(__name__)
_CONNECT_S = 10.0
_MOST_CONNECTIONS = 64
_KEY_HEX = 64
"""256 bits."""


class FarAgent:
    """Listens at `host` from `start` on, a thread per connection."""

    def __init__(
        self, directory: Path, environ: Mapping[str, str], *, host: str, keys: Path, scratch: str
    ) -> None:
        self.scratch = scratch
        self._daemons = Daemons(directory, environ)
        self._context = wire.context(keys, server=True)
        self._socket = socket.create_server((host, 0), backlog=16)
        self.address = f"{host}:{self._socket.getsockname()[1]}"
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._keys: dict[str, str] = {}
        self._connections: dict[str, set[socket.socket]] = {}

    def start(self) -> None:
        """Listen, in the background; from now on the functions of this module are about it."""
        _mine[:] = [self]
        threading.Thread(target=self._accept, name="agent", daemon=True).start()

    def close(self) -> None:
        """Stop listening, and end all daemons."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for run_token in tuple(self._keys):
            self.forget(run_token)

    @property
    def children(self) -> frozenset[int]:
        """Pids of the daemons, which the agent waits for itself."""
        return self._daemons.children

    def admit(self, run_token: str, key: str) -> None:
        """:raises ValueError: it is too short to be a key."""
        if len(key) < _KEY_HEX:
            raise ValueError(f"run {run_token}: the key of its gang has {len(key)} letters")
        with self._lock:
            self._keys[run_token] = key

    def forget(self, run_token: str) -> bool:
        with self._lock:
            known = self._keys.pop(run_token, None) is not None
            left = tuple(self._connections.get(run_token, ()))
        for connection in left:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        return known

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                _log.warning("turned %s away: %d connections", peer[0], _MOST_CONNECTIONS)
                connection.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection, str(peer[0])), daemon=True
            ).start()

    def _serve(self, plain: socket.socket, peer: str) -> None:
        try:
            with plain:
                wire.keep_alive(plain)
                plain.settimeout(_CONNECT_S)
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self._converse(connection, peer)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            _log.warning("a connection from %s ended: %s", peer, exc)
        finally:
            self._free.release()

    def _converse(self, connection: ssl.SSLSocket, peer: str) -> None:
        try:
            request = wire.receive_json(connection, Kind.REQUEST)
            run_token = self._enter(str(request.get("key", "")), connection)
            try:
                code = self._run(request, connection)
            finally:
                with self._lock:
                    self._connections[run_token].discard(connection)
            wire.send_json(connection, Kind.END, {"exit_code": code})
        except (ValueError, KeyError, TypeError, FileNotFoundError) as exc:
            _log.warning("refused a daemon to %s: %s", peer, exc)
            wire.send_json(connection, Kind.END, {"error": str(exc)})

    def _enter(self, shown: str, connection: socket.socket) -> str:
        """The run whose gang has this key; its end ends the connection."""
        with self._lock:
            for run_token, key in self._keys.items():
                if hmac.compare_digest(key.encode(), shown.encode()):
                    self._connections.setdefault(run_token, set()).add(connection)
                    return run_token
        raise ValueError("the key is of no gang that this node is in")

    def _run(self, request: Mapping[str, object], connection: ssl.SSLSocket) -> int:
        with ExitStack() as stack:
            relays: dict[int, Callable[[], bool | None]] = {}
            ends = []
            for kind in (Kind.STDOUT, Kind.STDERR):
                read, write = os.pipe()
                stack.callback(os.close, read)
                ends.append(write)
                os.set_blocking(read, False)
                relays[read] = _relay(read, kind, connection)
            try:
                started = self._daemons.start(request, stdout=ends[0], stderr=ends[1])
                daemon = stack.enter_context(started)
            finally:
                for write in ends:
                    os.close(write)
            code = daemons.wait(daemon, {**relays, connection.fileno(): lambda: _there(connection)})
            for relay in relays.values():
                relay()  # its last words
        return code


def where() -> dict[str, str]:
    """See `agent.where`."""
    for agent in _mine:
        return {"address": agent.address, "scratch": agent.scratch}
    return {"address": "", "scratch": ""}


def admit(run_token: str, key: str) -> bool:
    """See `agent.admit`; False: this node needs no key."""
    for agent in _mine:
        agent.admit(run_token, key)
    return bool(_mine)


def forget(run_token: str) -> bool:
    """See `agent.forget`; False: there was none."""
    return any(tuple(agent.forget(run_token) for agent in _mine))


def request(command: list[str]) -> dict[str, object]:
    """What a client asks for, on behalf of the mpirun that has started it."""
    return {"command": command, "environ": dict(os.environ), "cwd": str(Path.cwd())}


def start_daemon(address: str, keys: Path, key: str, command: list[str]) -> int:
    """Have the agent at `address` run `command`, as `agent.start_daemon`.

    :raises OSError: it does not answer, refuses, or has vanished.
    """
    context = wire.context(keys, server=False)
    with wire.dial(address, context, timeout_s=_CONNECT_S) as connection:
        wire.send_json(connection, Kind.REQUEST, {**request(command), "key": key})
        connection.settimeout(None)
        while True:
            kind, data = wire.receive(connection)
            if kind is Kind.END:
                break
            stream = sys.stdout if kind is Kind.STDOUT else sys.stderr
            os.write(stream.fileno(), data)
    return _exit_code(data)


def _relay(file: int, kind: Kind, connection: ssl.SSLSocket) -> Callable[[], bool | None]:
    """Pass on what can be read; None: there will be no more of it, False: nobody takes it."""

    def relay() -> bool | None:
        try:
            while data := os.read(file, 2**16):
                wire.send(connection, kind, data)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return None

    return relay


def _there(connection: ssl.SSLSocket) -> bool:
    """Whether the client is: it has nothing more to say, so anything but silence is its end."""
    connection.settimeout(0.0)
    try:
        connection.recv(1)
    except ssl.SSLWantReadError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(_CONNECT_S)
    return False


def _exit_code(data: bytes) -> int:
    answer = json.loads(data)
    if "error" in answer:
        raise OSError(str(answer["error"]))
    return int(answer["exit_code"])


_mine: list[FarAgent] = []
"""The agent of the node of this process, where it is on another machine than its driver."""
