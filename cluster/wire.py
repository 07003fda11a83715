"""Messages between an agent and its client, and connections that notice a peer that vanished.

A message is its length, a kind of one byte, and its content.
"""

import json
import socket
import ssl
import struct
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

_HEAD = struct.Struct("!IB")
LONGEST = 8 * 2**20
# A peer that vanished without a word is noticed in about 10 s, idle or with data on the way:
# tcp(7), TCP_USER_TIMEOUT rules both once it is set.
_IDLE_S, _BETWEEN_S, _PROBES = 4, 2, 3
_USER_TIMEOUT_MS = 10_000


class Kind(IntEnum):
    """What a message holds."""

    REQUEST = 1
    STDOUT = 2
    STDERR = 3
    END = 4
    """{"exit_code"} or {"error"}; the last one."""


def send(connection: socket.socket, kind: Kind, data: bytes) -> None:
    """:raises OSError: the peer is gone."""
    connection.sendall(_HEAD.pack(len(data), kind) + data)


def send_json(connection: socket.socket, kind: Kind, message: Mapping[str, object]) -> None:
    """As `send`."""
    send(connection, kind, json.dumps(message).encode())


def receive(connection: socket.socket) -> tuple[Kind, bytes]:
    """:raises OSError: the peer is gone.
    :raises ValueError: it sends something else.
    """
    length, kind = _HEAD.unpack(_read(connection, _HEAD.size))
    if length > LONGEST:
        raise ValueError(f"a message of {length} bytes is too long")
    return Kind(kind), _read(connection, length)


def receive_json(connection: socket.socket, expected: Kind) -> dict[str, object]:
    """As `receive`, for a message that must be of this kind."""
    kind, data = receive(connection)
    message = json.loads(data)
    if kind is not expected or not isinstance(message, dict):
        raise ValueError(f"expected a message of kind {expected.name}")
    return message


def context(directory: Path, *, server: bool) -> ssl.SSLContext:
    """For a connection between nodes of one workflow: each side shows the worker's certificate.

    Names do not count, the authority does: it signs for one workflow alone.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(directory / "ca.pem")
    made.load_cert_chain(directory / "worker.pem", directory / "worker-key.pem")
    return made


def dial(address: str, context: ssl.SSLContext, *, timeout_s: float) -> ssl.SSLSocket:
    """A TLS connection to host:port that ends when the peer vanishes.

    :raises OSError: nobody answers, or somebody else does.
    """
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout_s)
    try:
        keep_alive(plain)
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel end the connection when the peer has vanished."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _IDLE_S),
        (socket.TCP_KEEPINTVL, _BETWEEN_S),
        (socket.TCP_KEEPCNT, _PROBES),
        (socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS),
        (socket.TCP_NODELAY, 1),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _read(connection: socket.socket, length: int) -> bytes:
    parts = []
    while length:
        part = connection.recv(min(length, 2**16))
        if not part:
            raise OSError("the connection was closed")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
