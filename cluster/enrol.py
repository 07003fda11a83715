"""How a node of another machine gets the keys of its workflow: once, with its ticket.

    node ── TLS, desk known by its fingerprint ──► {"name", "ticket"}
         ◄── "keys": ca.pem, worker.pem, worker-key.pem        the first time
         ◄── "unknown": ask again, the order has not arrived   the driver may hear of the node late
         ◄── "refused": the node ends itself                   used before, or wrong

User data can be read by whoever may read the machine's description, so a ticket in it is worth one
fetch: if anybody else was first, the node itself is refused, which is seen.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from scsched.cluster import provider, tls
from scsched.steps.errors import ScschedError

_log = logging.getLogger(__name__)
_LONGEST_REQUEST = 4096
_LONGEST_ANSWER = 65_536
_REQUEST_S = 10.0
_MOST_CONNECTIONS = 512
_PAUSE_S = 1.0
_NOISE = (
    OSError,
    ValueError,
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    RecursionError,  # of a deep JSON
)
"""What a peer that is no node can make of a request."""


class EnrolError(ScschedError):
    """The node got no keys, and will not get any."""

    code = "enrol"


class Desk:
    """Hands out the keys of the workflow in `tls_dir`; belongs to the event loop's thread.

    async with Desk(tls_dir, host=address) as desk:
        desk.expect({"n17": ticket})
    """

    def __init__(
        self,
        tls_dir: Path,
        *,
        host: str = "127.0.0.1",
        on_refused: Callable[[str, str], None] | None = None,
    ) -> None:
        """:param on_refused: called with the node's name and the peer's address; a ticket was
        shown twice, or a wrong one: somebody has read what only the node should have.
        """
        self._tls_dir = tls_dir
        self._host = host
        self._on_refused = on_refused
        self._expected: dict[str, str] = {}
        self._used: set[str] = set()
        self._server: asyncio.Server | None = None
        self._connections = 0
        self._fingerprint = ""

    async def __aenter__(self) -> Self:
        context, self._fingerprint = _identity()
        self._server = await asyncio.start_server(
            self._serve,
            self._host,
            0,
            ssl=context,
            limit=_LONGEST_REQUEST,
            ssl_handshake_timeout=_REQUEST_S,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    @property
    def address(self) -> str:
        """host:port."""
        if self._server is None:
            raise ScschedError("the desk is not open")
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    @property
    def fingerprint(self) -> str:
        """By which nodes know this desk; see `provider.Desk`."""
        return self._fingerprint

    def expect(self, tickets: Mapping[str, str]) -> None:
        """Give the keys to the first who shows the ticket of one of these nodes, by name.

        All that are still to come: whoever is not named any more gets nothing.
        """
        self._expected = dict(tickets)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= _MOST_CONNECTIONS:
                await asyncio.wait_for(self._answer(reader, writer), _REQUEST_S)
        except _NOISE as exc:
            _log.info("a peer at the desk said nothing of use: %s", exc)
        finally:
            self._connections -= 1
            writer.close()
            with suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readuntil(b"\n"))
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        name, ticket = str(request.get("name", "")), str(request.get("ticket", ""))
        answer = self._judge(name, ticket, str(writer.get_extra_info("peername", ("?",))[0]))
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()

    def _judge(self, name: str, ticket: str, peer: str) -> dict[str, object]:
        used, expected = ticket in self._used, self._expected.get(name)
        if expected is None and not used:
            return {"answer": "unknown"}
        if used or expected is None or not hmac.compare_digest(expected.encode(), ticket.encode()):
            why = "was used before" if used else "is wrong"
            _log.error(
                "refused keys to %s, which says that it is %s: its ticket %s", peer, name, why
            )
            if self._on_refused is not None:
                self._on_refused(name, peer)
            return {"answer": "refused", "why": f"its ticket {why}"}
        files = {file: (self._tls_dir / file).read_text() for file in tls.NODE_FILES}
        self._used.add(ticket)  # before the answer goes: nobody can tell whether it arrives
        _log.info("gave the keys to node %s at %s", name, peer)
        return {"answer": "keys", "files": files}


def fetch(
    desk: provider.Desk,
    name: str,
    ticket: str,
    into: Path,
    *,
    timeout_s: float,
    connect_timeout_s: float = 10.0,
) -> None:
    """Leave the workflow's keys in `into`, a private directory that `tls.security` takes.

    Asks again for `timeout_s` while the desk does not answer or does not know the node yet.

    :raises EnrolError: it refused, is another desk, or the time is up.
    """
    end = time.monotonic() + timeout_s
    while True:
        try:
            files = _ask(desk, name, ticket, timeout_s=connect_timeout_s)
            said = "it does not expect this node"
        except (OSError, ValueError) as exc:
            files, said = None, str(exc)
        if files is not None:
            tls.store(into, files)
            return
        if time.monotonic() + _PAUSE_S > end:
            raise EnrolError(f"node {name}: no keys from the desk at {desk.address}: {said}")
        time.sleep(_PAUSE_S)


def _ask(desk: provider.Desk, name: str, ticket: str, *, timeout_s: float) -> dict[str, str] | None:
    """The files; None: it does not know the node yet.

    :raises EnrolError: it refused, or is another desk.
    :raises OSError: it does not answer; whatever else it says is a ValueError.
    """
    host, _, port = desk.address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # known by its fingerprint instead, before we say a word
    with (
        socket.create_connection((host, int(port)), timeout_s) as plain,
        context.wrap_socket(plain) as connection,
    ):
        shown = hashlib.sha256(connection.getpeercert(binary_form=True) or b"").hexdigest()
        if not hmac.compare_digest(shown, desk.fingerprint):
            raise EnrolError(
                f"node {name}: who answers at {desk.address} is not its desk: "
                f"its fingerprint is {shown}, not {desk.fingerprint}"
            )
        connection.sendall(json.dumps({"name": name, "ticket": ticket}).encode() + b"\n")
        answer = _line(connection)
    match answer:
        case {"answer": "keys", "files": dict(files)}:
            return {file: str(files[file]) for file in tls.NODE_FILES}
        case {"answer": "refused"}:
            raise EnrolError(f"node {name}: the desk refuses it: {answer.get('why', '')}")
    return None


def _line(connection: ssl.SSLSocket) -> dict[str, object]:
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(_LONGEST_ANSWER)
        data += part
        if not part or len(data) > _LONGEST_ANSWER:
            raise ValueError("the desk's answer is cut off")
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ValueError("the desk's answer is no object")
    return answer


def _identity() -> tuple[ssl.SSLContext, str]:
    """The desk's side of TLS, with a certificate that nobody signed, and its fingerprint."""
    certificate, key, fingerprint = tls.self_signed(now=datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.TemporaryDirectory(prefix="scsched-desk-") as folder:
        # Python's ssl takes keys from files alone; the directory is ours (0700), for a moment.
        path = Path(folder, "desk.pem")
        path.touch(mode=0o600)
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context, fingerprint
