"""Each way in which a node hears that it will be taken back."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scsched.cluster.node_spec import NodeSpec
from scsched.cluster.notice import ImdsNotice, NoNotice, SignalNotice, Source, source
from scsched.cluster.remote import NoticeSource

ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
WHEN = "2026-11-22T06:52:08Z"


class Imds(HTTPServer):
    """EC2's service, version 2: without a token that it gave it says 401."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, str] = {}
        self.tokens: set[str] = set()
        self.given = 0

    def server_bind(self) -> None:
        """HTTPServer's own asks for this machine's name, which may take seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Imds

    def do_PUT(self) -> None:
        asked = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not asked.isdecimal():
            self._say(400, "")
            return
        self.server.given += 1
        token = f"token{self.server.given}"
        self.server.tokens.add(token)
        self._say(200, token)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            self._say(401, "")
        elif self.path in self.server.answers:
            self._say(200, self.server.answers[self.path])
        else:
            self._say(404, "")

    def log_message(self, *args: object) -> None:
        pass

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def imds() -> Iterator[Imds]:
    server = Imds()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_ec2_tells_the_time_of_its_interruption(imds: Imds) -> None:
    notice = ImdsNotice(imds.host)
    assert notice.every_s == 5.0
    assert notice.deadline() is None
    imds.answers[ACTION] = json.dumps({"action": "terminate", "time": WHEN})
    assert notice.deadline() == WHEN
    assert imds.given == 1


def test_an_expired_token_is_replaced(imds: Imds) -> None:
    notice = ImdsNotice(imds.host)
    notice.deadline()
    imds.tokens.clear()
    imds.answers[ACTION] = json.dumps({"action": "stop", "time": WHEN})
    assert notice.deadline() == WHEN
    assert imds.given == 2


def test_a_recommendation_to_rebalance_is_no_notice(
    imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    imds.answers[REBALANCE] = json.dumps({"noticeTime": WHEN})
    notice = ImdsNotice(imds.host)
    with caplog.at_level("INFO"):
        assert notice.deadline() is None
        assert notice.deadline() is None
    assert caplog.text.count("at an elevated risk") == 1


@pytest.mark.parametrize("answer", ["", "[]", '{"action": "terminate"}'])
def test_a_service_that_talks_nonsense_is_no_notice(imds: Imds, answer: str) -> None:
    imds.answers[ACTION] = answer
    assert ImdsNotice(imds.host).deadline() is None


def test_a_service_that_is_away_is_no_notice() -> None:
    start = time.monotonic()
    assert ImdsNotice("127.0.0.1:9").deadline() is None
    assert time.monotonic() - start < 30


def test_the_first_signal_is_the_notice_and_the_second_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []
    notice = SignalNotice(30.0, lambda: ends.append(1))
    clock = 100.0
    monkeypatch.setattr("scsched.cluster.notice.time.monotonic", lambda: clock)
    assert notice.deadline() is None
    notice.hear()
    told = datetime.fromisoformat(notice.deadline() or "")
    assert abs(told - datetime.now(UTC) - timedelta(seconds=30)) < timedelta(seconds=5)
    notice.hear()  # the same one, by another way
    assert ends == []
    clock += 3
    notice.hear()
    assert ends == [1]
    assert datetime.fromisoformat(notice.deadline() or "") == told


def test_the_spec_chooses_the_source(tmp_path: Path) -> None:
    signals = SignalNotice(1.0, lambda: None)

    def of(kind: NoticeSource) -> Source:
        spec = NodeSpec(
            name="n1",
            token="t-1",
            deployment="d",
            scheduler_address="tls://127.0.0.1:1",
            work_dir="/w",
            notice=kind,
            notice_file=str(tmp_path / "notice"),
        )
        return source(spec, signals)

    assert of(NoticeSource.SIGNAL) is signals
    assert isinstance(of(NoticeSource.NONE), NoNotice)
    assert isinstance(of(NoticeSource.IMDS), ImdsNotice)
    (tmp_path / "notice").write_text(json.dumps({"deadline": WHEN}))
    found = of(NoticeSource.FILE)
    assert found.deadline() == WHEN
