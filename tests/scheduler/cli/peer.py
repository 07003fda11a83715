"""A peer for the client: answers from a table on a Unix socket, remembers what it was asked."""

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
Answer = Json | tuple[int, Json] | Callable[["Request"], Any] | None
"""A body, a status with a body, or a function of the request; None cuts the connection."""


class Request:
    def __init__(self, method: str, path: str, body: Json) -> None:
        self.method = method
        split = urlsplit(path)
        self.path = split.path
        self.query = {key: values[0] for key, values in parse_qs(split.query).items()}
        self.body = body


class Peer:
    """`answers` by `METHOD /path`; a list is used up from its front, its last one stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[Request] = []

    def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        found = self.answers.get(f"{request.method} {request.path}", _MISSING)
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found(request) if callable(found) else found


_MISSING: Answer = (
    404,
    {"schema": "scsched/v1", "error": {"code": "not_found", "message": "no such", "exit": 102}},
)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    peer: Peer

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("peer", 0)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._respond({})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._respond(json.loads(raw))

    def _respond(self, body: Json) -> None:
        answer = self.server.peer.answer(Request(self.command, self.path, body))
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, said = answer if isinstance(answer, tuple) else (200, answer)
        raw = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def peer(path: Path) -> Iterator[Peer]:
    found = Peer(path)
    with _Server(str(path), _Handler) as server:
        server.peer = found
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join(10)
