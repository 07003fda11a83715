"""What the client makes of answers, and of connections that end too early."""

import socket
import threading
import time
from pathlib import Path

import pytest

from scsched.scheduler import client as module
from scsched.scheduler.client import Client
from scsched.steps import errors
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer


@pytest.fixture
def client(broker: Peer, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(module, "_pauses", lambda attempts: [0.0] * attempts)
    return Client(broker.path, timeout_s=5.0)


def test_without_a_broker_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(errors.BrokerUnreachable) as caught:
        Client(tmp_path / "api.sock").ping()
    assert caught.value.hint == "start it with: scsched serve"
    assert caught.value.exit_code == 75


def test_a_socket_that_nobody_listens_to_any_more_is_no_broker(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(errors.BrokerUnreachable, match="refused"):
        Client(path).ping()


@pytest.mark.parametrize(
    "cls",
    [
        errors.WorkflowError,
        errors.UsageError,
        errors.ConfigError,
        errors.StoreBusy,
        errors.StoreFull,
        errors.StoreLost,
        errors.NotFound,
        errors.PermissionDenied,
        errors.Infeasible,
        errors.StaleStep,
    ],
)
def test_an_error_arrives_as_the_class_that_its_code_names(
    cls: type[errors.ScschedError], broker: Peer, client: Client
) -> None:
    said = {"code": cls.code, "message": "$[3]: wrong", "hint": "mend it", "exit": cls.exit_code}
    broker.answers["GET /v1/ping"] = (400, {"schema": "scsched/v1", "error": said})
    with pytest.raises(cls) as caught:
        client.ping()
    assert (str(caught.value), caught.value.hint) == ("$[3]: wrong", "mend it")
    assert caught.value.exit_code == cls.exit_code


def test_the_place_in_a_refused_file_is_kept(broker: Peer, client: Client) -> None:
    said = {"code": "workflow", "message": "$[3].numberOfMpi: 0 ranks", "exit": 65}
    broker.answers["POST /v1/workflows"] = (422, {"schema": "scsched/v1", "error": said})
    with pytest.raises(errors.WorkflowError) as caught:
        client.submit({"key": "k"})
    assert caught.value.where == "$[3].numberOfMpi"
    assert caught.value.problem == "0 ranks"


def test_a_code_of_a_newer_broker_keeps_its_exit_code(broker: Peer, client: Client) -> None:
    said = {"code": "over_budget", "message": "no money left", "hint": "", "exit": 104}
    broker.answers["GET /v1/ping"] = (409, {"schema": "scsched/v1", "error": said})
    with pytest.raises(errors.ScschedError) as caught:
        client.ping()
    assert (caught.value.code, caught.value.exit_code) == ("over_budget", 104)


@pytest.mark.parametrize("body", [{"detail": "Not Found"}, {"schema": "scsched/v2"}])
def test_an_answer_of_another_kind_is_refused(
    body: dict[str, object], broker: Peer, client: Client
) -> None:
    broker.answers["GET /v1/ping"] = (404 if "detail" in body else 200, body)
    with pytest.raises(errors.ScschedError, match=r"Not Found|scsched/v2"):
        client.ping()


def test_a_question_cut_short_is_asked_again(broker: Peer, client: Client) -> None:
    broker.answers["GET /v1/workflows"] = [None, None, answers.WORKFLOWS]
    assert client.workflows()["items"][0]["id"] == 42
    assert len(broker.asked) == 3


def test_a_question_cut_short_every_time_means_no_broker(broker: Peer, client: Client) -> None:
    broker.answers["GET /v1/workflows"] = None
    with pytest.raises(errors.BrokerUnreachable):
        client.workflows()


def test_a_submission_cut_short_is_sent_again_under_the_same_key(
    broker: Peer, client: Client
) -> None:
    broker.answers["POST /v1/workflows"] = [None, (201, answers.SUBMITTED)]
    assert client.submit({"key": "k1"})["id"] == 46
    assert [request.body["key"] for request in broker.asked] == ["k1", "k1"]


def test_a_submission_that_stays_without_an_answer_has_an_unknown_outcome(
    broker: Peer, client: Client
) -> None:
    broker.answers["POST /v1/workflows"] = None
    with pytest.raises(errors.StoreLost) as caught:
        client.submit({"key": "k1"})
    assert "--key k1" in caught.value.hint
    assert caught.value.exit_code == 75


def test_a_broker_that_goes_away_for_good_after_a_cut_has_an_unknown_outcome(
    broker: Peer, client: Client
) -> None:
    def die(_: object) -> None:
        broker.path.unlink(missing_ok=True)

    broker.answers["POST /v1/workflows"] = die
    with pytest.raises(errors.StoreLost):
        client.submit({"key": "k1"})


def test_an_action_cut_short_is_not_repeated(broker: Peer, client: Client) -> None:
    broker.answers["POST /v1/actions"] = None
    with pytest.raises(errors.StoreLost, match="cancel 42 happened is not known"):
        client.act("cancel", "42")
    assert len(broker.asked) == 1


def test_a_broker_that_hangs_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
        deaf.listen()
        began = time.monotonic()
        with pytest.raises(errors.BrokerUnreachable):
            Client(path, timeout_s=0.1, attempts=1).ping()
        assert time.monotonic() - began < 5


def test_half_an_answer_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=_answer_half, args=(server,))
        thread.start()
        with pytest.raises(errors.StoreLost):
            Client(path).act("cancel", "42")
        thread.join(10)


def _answer_half(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")


def test_names_with_odd_characters_reach_the_broker_whole(broker: Peer, client: Client) -> None:
    client.select("@owner=b ö&c=#?/")
    assert broker.asked[-1].query == {"q": "@owner=b ö&c=#?/"}
    with pytest.raises(errors.NotFound):
        client.workflow("../ping?x=1")
    assert broker.asked[-1].path == "/v1/workflows/..%2Fping%3Fx=1"
