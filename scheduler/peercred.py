"""Who calls, as the kernel says: SO_PEERCRED of the Unix socket, put into every request's scope.

The credentials are those of connect(): a process that connected as root and then changed its uid
is still root. They are per connection, so never behind a pooling proxy.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from scsched.steps.errors import PermissionDenied

OVERFLOW_UID = 65534
"""What the kernel shows for a uid that this user namespace does not map."""


@dataclass(frozen=True, slots=True)
class Peer:
    pid: int
    uid: int
    gid: int


class PeerCredProtocol(H11Protocol):
    """uvicorn's HTTP protocol with the peer in `scope["extensions"]["peercred"]`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer, app = _peer_of(transport), self.app

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})["peercred"] = peer
            await app(scope, receive, send)

        self.app = with_peer


def caller(request: Request) -> Peer:
    """The peer of this request.

    :raises PermissionDenied: it did not come over the Unix socket, or its uid is not mapped.
    """
    peer = request.scope.get("extensions", {}).get("peercred")
    if not isinstance(peer, Peer) or peer.uid in (-1, OVERFLOW_UID):
        raise PermissionDenied("the kernel does not say who you are; call over the Unix socket")
    return peer


def _peer_of(transport: asyncio.Transport) -> Peer | None:
    """None for anything but a Unix socket: an identity is never invented."""
    found = transport.get_extra_info("socket")
    if found is None or found.family != socket.AF_UNIX:
        return None
    size = struct.calcsize("3i")
    return Peer(*struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))
