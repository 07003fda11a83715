"""Between the provider and the cloud: what was really sent, and a wire that can go dead."""

import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

_TIMEOUT_S = 20.0


class Recorder:
    """Forwards every call to `endpoint` and keeps its form. Use as a context manager."""

    def __init__(self, endpoint: str) -> None:
        self.forms: list[Mapping[str, str]] = []
        self.dead = threading.Event()
        """While set, calls are read and never answered."""
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, endpoint))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "Recorder":
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def sent(self, action: str) -> list[Mapping[str, str]]:
        """The forms of all calls of that action, in order."""
        return [form for form in self.forms if form.get("Action") == action]

    def wait_for_end(self) -> None:
        self._over.wait(_TIMEOUT_S)


def _handler(recorder: Recorder, endpoint: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorder.forms.append(dict(parse_qsl(body.decode(errors="replace"))))
            if recorder.dead.is_set():
                recorder.wait_for_end()
                return
            status, headers, answer = _forward(endpoint + self.path, body, dict(self.headers))
            self.send_response(status)
            for key, value in headers.items():
                if key.lower() in ("content-type", "x-amzn-query-error"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _forward(
    url: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str], bytes]:
    passed = {key: value for key, value in headers.items() if key.lower() != "content-length"}
    request = urllib.request.Request(  # noqa: S310 - the loopback
        url, data=body, headers=passed, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, dict(exc.headers), exc.read()
