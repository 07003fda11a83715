"""The one address of a test cloud: passes calls to its services, and makes their faults.

SDK ──► front ──► /identity /compute /image /network, each a `Service`
          └─ a `Fault` answers instead, drops the answer, or changes it
"""

import json
import re
import socketserver
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, its path without the service's part."""

    method: str
    path: str
    target: str
    """Path and query as sent."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""
    body: bytes = b""

    @property
    def query(self) -> Mapping[str, str]:
        return {name: found[-1] for name, found in parse_qs(urlsplit(self.target).query).items()}

    # Any: JSON as a client sent it.
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    # Any: JSON as a server says it.
    def json(self) -> Any:
        return json.loads(self.body or b"{}")


def say(status: int, body: object, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    told = {"Content-Type": "application/json", **(headers or {})}
    return Answer(status, json.dumps(body).encode(), told)


class Service(Protocol):
    def answer(self, call: Call) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A service that another process serves on a port of this machine."""

    port: int

    def answer(self, call: Call) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {k: v for k, v in call.headers.items() if k not in _HOP}
            connection.request(call.method, call.target, call.body, headers)
            got = connection.getresponse()
            kept = {k: v for k, v in got.getheaders() if k.lower() not in _HOP}
            return Answer(got.status, got.read(), kept)
        finally:
            connection.close()


Change = Callable[[Answer], Answer]


@dataclass
class Fault:
    """What happens to the next `times` calls with that method and path."""

    method: str
    path: re.Pattern[str]
    times: int
    instead: Answer | None = None
    """Said in place of the service, which never hears of the call."""
    lost: bool = False
    """The service does it, the caller hears nothing: its connection breaks."""
    hangs: bool = False
    """Nothing is done, and nothing is said until the front stops."""
    change: Change | None = None

    def fits(self, call: Call) -> bool:
        return self.times > 0 and self.method == call.method and bool(self.path.search(call.path))


class Front:
    """Serves on 127.0.0.1 between `start` and `stop`. `calls` is what came in, in order."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.calls: list[Call] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(self)
        self.port: int = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        said: str = "no",
        *,
        times: int = 1,
        **headers: str,
    ) -> None:
        """Answer with an error as the services spell it, without doing anything."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = say(status, {"error": {"code": status, "message": said}}, named)
        self._add(Fault(method, re.compile(path), times, instead=answer))

    def lose_replies(self, method: str, path: str, *, times: int = 1) -> None:
        """Do it, and break the connection."""
        self._add(Fault(method, re.compile(path), times, lost=True))

    def hang(self, method: str, path: str, *, times: int = 1) -> None:
        """Take the call, do nothing, say nothing."""
        self._add(Fault(method, re.compile(path), times, hangs=True))

    def hide_servers(self, *, times: int) -> None:
        """Listings of servers lack all of them."""

        def emptied(answer: Answer) -> Answer:
            return say(200, {**answer.json(), "servers": []})

        self._add(Fault("GET", re.compile("/servers/detail"), times, change=emptied))

    def mend(self) -> None:
        """Forget faults that are still to come, and the calls so far."""
        with self._lock:
            self._faults.clear()
            self.calls.clear()

    def count(self, method: str, path: str) -> int:
        """How many such calls came in since the start or `mend`."""
        with self._lock:
            return sum(
                one.method == method and bool(re.search(path, one.path)) for one in self.calls
            )

    def handle(self, name: str, call: Call) -> Answer | None:
        """None: break the connection."""
        fault = self._fault(call)
        if fault is not None and fault.hangs:
            self._stopped.wait(30.0)
            return None
        if fault is not None and fault.instead is not None:
            return fault.instead
        service = self.services.get(name)
        answer = say(404, {}) if service is None else service.answer(call)
        if fault is not None and fault.change is not None:
            return fault.change(answer)
        return None if fault is not None and fault.lost else answer

    def _fault(self, call: Call) -> Fault | None:
        with self._lock:
            self.calls.append(call)
            for fault in self._faults:
                if fault.fits(call):
                    fault.times -= 1
                    return fault
        return None

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, front: Front) -> None:
        self.front = front
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """The test says what matters."""

    def _serve(self) -> None:
        name, _, rest = self.path.removeprefix("/").partition("/")
        call = Call(
            method=self.command,
            path=urlsplit("/" + rest).path,
            target="/" + rest,
            headers={key.lower(): value for key, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        answer = self.server.front.handle(name, call)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            if key.lower() not in ("date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
