"""The routes of the real application over its socket: shapes, permissions, refusals."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest

from scsched.cluster.pools import Candidate, Market, Storage
from scsched.scheduler import daemon
from scsched.scheduler.api import make_app
from scsched.scheduler.cli import schema
from scsched.scheduler.cli.misfit import misfit
from scsched.scheduler.config import Settings
from scsched.scheduler.protocol import Hint, Orders
from scsched.steps.state import StepState
from tests.scheduler.served import DOCUMENT, JSON, Api, listening, serving
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
Json = dict[str, Any]
RUNNING = StepState.RUNNING


@pytest.fixture
def api(make_world: MakeWorld) -> Iterator[Api]:
    world = make_world(pool(max_nodes=3), pool("service", service=True))
    with serving(world) as found:
        yield found


@pytest.fixture
def busy(api: Api) -> Api:
    """Workflow 1 runs after a failure; workflow 2 is of somebody else."""
    api.world.submit(step("1", width=2), step("2", "1"), tags={"owner": "bo"}, project="/p")
    api.world.until_state(RUNNING)
    api.world.run_of().progress = {"iteration": 3, "of": 25, "checkpoint": 2, "resolution_a": 9.5}
    api.world.tick(2)
    api.world.finish(hint=Hint.FAILED, exit_code=1, detail="oh", resumed_from=2, iterations_done=1)
    api.world.until(lambda: len(api.world.runs()) == 2)
    api.world.until_state(RUNNING)
    api.world.run_of().progress = {"iteration": 4}
    api.world.submit(uid=1, username="daemon", held=True)
    api.world.tick()
    return api


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/ping", schema.PingAnswer),
        ("/v1/workflows", schema.WorkflowsAnswer),
        ("/v1/workflows?scope=all&live=0&state=RUNNING,HELD&limit=9", schema.WorkflowsAnswer),
        ("/v1/workflows/1", schema.WorkflowAnswer),
        ("/v1/workflows/last", schema.WorkflowAnswer),
        ("/v1/workflows/@bo", schema.WorkflowAnswer),
        ("/v1/workflows/2", schema.WorkflowAnswer),
        ("/v1/steps/1.1", schema.StepAnswer),
        ("/v1/steps/1.2", schema.StepAnswer),
        ("/v1/select?q=all", schema.SelectAnswer),
        ("/v1/events?workflow=1", schema.EventsAnswer),
        ("/v1/events?workflow=1&step=1&after=3", schema.EventsAnswer),
        ("/v1/hist", schema.HistAnswer),
        ("/v1/hist?since=2020-01-01&until=2099-01-01T10:00:00Z&user=0", schema.HistAnswer),
        ("/v1/nodes", schema.NodesAnswer),
        ("/v1/nodes?all=1", schema.NodesAnswer),
        ("/v1/receipt/1", schema.ReceiptAnswer),
        ("/v1/config", schema.ConfigAnswer),
    ],
)
def test_every_answer_has_the_shape_of_v1(busy: Api, path: str, shape: object) -> None:
    assert misfit(busy.get(path), shape) == []


def test_what_runs_is_told_as_it_is(busy: Api) -> None:
    (line,) = busy.get("/v1/workflows")["items"]
    assert (line["state"], line["nodes"], line["now"]["step"]) == ("RUNNING", 2, "1")
    assert line["progress"]["iteration"] == 4
    shown = busy.get("/v1/steps/1.1")
    assert shown["why"]["sentence"] == "is RUNNING"
    assert shown["why"]["detail"] == ["attempt 1: FAILED"]
    assert [run["resumed_from"] for run in shown["runs"]] == [2, None]
    assert busy.get("/v1/steps/1.2")["reason"] == "Dependency"
    pools = {one["pool"]: one for one in busy.get("/v1/nodes")["pools"]}
    assert (pools["cpu"]["up"], pools["cpu"]["idle"]) == (2, 0)
    assert busy.get("/v1/receipt/1")["lines"][0]["end_reason"] == "FAILED"


def test_a_submission_is_planned_taken_and_answered(api: Api) -> None:
    answer = api.submit(tags={"owner": "bo"})
    assert misfit(answer, schema.SubmitAnswer) == []
    assert answer["id"] == 1
    assert [line["nodes"] for line in answer["plan"]] == [1, 2, 1]
    assert api.get("/v1/workflows/1")["steps_total"] == 3
    assert api.get("/v1/select?q=@bo")["items"] == [{"workflow": 1, "step": None}]


def test_where_no_step_can_run_a_submission_is_refused_and_a_dry_run_warned(api: Api) -> None:
    settings = Settings(state_dir=api.socket.parent)
    app = make_app(settings, api.world.store, api.world.services, api.ticker)
    bare = replace(api, socket=api.socket.with_name("bare.sock"))
    with listening(daemon._server_config(app, bare.socket)):
        error = bare.submit(409)["error"]
        planned = bare.submit(dry_run=True)
        assert bare.get("/v1/workflows")["items"] == []
    assert (error["code"], error["exit"]) == ("config", 3)
    assert "scipion.python is not set" in error["message"]
    assert "scsched setup scipion" in error["hint"]
    assert len(planned["plan"]) == 3
    assert "scipion.python is not set" in planned["warnings"][-1]["problem"]


def test_a_dry_run_writes_nothing(api: Api) -> None:
    answer = api.submit(dry_run=True)
    assert misfit(answer, schema.SubmitAnswer) == []
    assert (answer["id"], answer["steps"]) == (None, 3)
    assert api.get("/v1/workflows")["items"] == []


def test_the_plan_and_the_pools_have_the_prices_of_now(make_world: MakeWorld) -> None:
    """A spot pool need not have one of its own; whoever submits is asked where it costs."""
    world = make_world(
        pool(market=Market.SPOT, types=("x",), zones=("a",), usd_per_hour=Decimal(0), max_nodes=3),
        pool("service", service=True, usd_per_hour=Decimal(0)),
    )
    with serving(world) as api:
        assert {
            line["usd_per_hour"] for line in api.submit(market="spot", dry_run=True)["plan"]
        } == {0}
        prices = {Market.SPOT: {Candidate("x", "a"): Decimal("0.25")}}
        world.services.fleet.set_prices("fake", prices)
        plan = api.submit(market="spot", dry_run=True)["plan"]
        costs = [(line["nodes"], line["usd_per_hour"]) for line in plan]
        assert costs == [(1, 0.25), (2, 0.5), (1, 0.0)]
        assert [one["usd_per_hour"] for one in api.get("/v1/nodes")["pools"]] == [0.25, 0]


def test_a_project_that_the_nodes_do_not_see_is_refused(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=3, remote=True, storage=Storage(path="/shared")))
    with serving(world) as api:
        error = api.submit(422, project="/home/bo/p")["error"]
        assert "its nodes see /shared and not /home/bo/p" in error["message"]
        assert api.get("/v1/workflows")["items"] == []
        assert api.submit(project="/shared/bo/p")["id"] == 1


def test_a_key_is_taken_once_and_not_for_something_else(api: Api) -> None:
    assert api.submit(key="k")["id"] == api.submit(key="k")["id"] == 1
    _, answer = api.call(
        "POST", "/v1/workflows", {"document": DOCUMENT, "name": "other", "key": "k"}
    )
    assert answer["error"]["code"] == "usage"
    assert len(api.get("/v1/workflows")["items"]) == 1


def test_only_a_part_can_be_run(api: Api) -> None:
    assert [line["step"] for line in api.submit(until=["3"])["plan"]] == ["2", "3"]
    assert [line["step"] for line in api.submit(only=["3"], project="/p")["plan"]] == ["3"]


def test_two_live_workflows_do_not_work_in_one_project(api: Api) -> None:
    api.submit(project="/p")
    error = api.submit(400, project="/p", key="other")["error"]
    assert "workflow 1 works in this project" in error["message"]
    assert len(api.get("/v1/workflows")["items"]) == 1
    api.post("/v1/actions", {"action": "cancel", "selector": "1"}, 200)
    assert api.submit(project="/p", key="other")["id"] == 2


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"document": "[", "name": "x"}, (422, "workflow", 65)),
        ({"document": "[]", "name": "x"}, (422, "workflow", 65)),
        ({"document": DOCUMENT, "name": ""}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "a/b"}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "a\nb"}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "surprise": 1}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "project": "/p\0"}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "tags": {"k": "a\0b"}}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "priority": 9999}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "play_spot": "soon"}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "play_spot": "9s"}, (400, "usage", 2)),
        ({"document": DOCUMENT, "name": "x", "until": ["77"]}, (None, None, None)),
        ({"name": "x"}, (400, "usage", 2)),
        (b"{", (400, "usage", 2)),
        (b"\xff", (400, "usage", 2)),
    ],
)
def test_a_wrong_submission_is_refused_and_leaves_nothing(
    api: Api, body: object, expected: tuple[int, str, int]
) -> None:
    found = api.refused("POST", "/v1/workflows", body)
    assert expected[0] is None or found == expected
    assert api.get("/v1/workflows")["items"] == []


def test_a_step_that_fits_no_pool_is_refused_by_name(make_world: MakeWorld, api: Api) -> None:
    api.world.services.fleet.pools = (pool("service", service=True),)
    status, answer = api.call("POST", "/v1/workflows", {"document": DOCUMENT, "name": "x"})
    assert (status, answer["error"]["exit"]) == (422, 105)
    assert "step 2 (import)" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/workflows/99", (404, "not_found", 102)),
        ("/v1/workflows/nonsense", (400, "usage", 2)),
        ("/v1/workflows/1,2", (400, "usage", 2)),
        ("/v1/steps/1.99", (404, "not_found", 102)),
        ("/v1/steps/1", (400, "usage", 2)),
        ("/v1/events?workflow=99", (404, "not_found", 102)),
        ("/v1/events?workflow=1&wait_s=nan", (400, "usage", 2)),
        ("/v1/events?workflow=1&after=99999999999999999999", (400, "usage", 2)),
        ("/v1/receipt/99", (404, "not_found", 102)),
        ("/v1/receipt/99999999999999999999999", (400, "usage", 2)),
        ("/v1/receipt/x", (400, "usage", 2)),
        ("/v1/hist?user=nobody-of-that-name", (400, "usage", 2)),
        ("/v1/hist?user=%C2%B2", (400, "usage", 2)),
        ("/v1/hist?since=soon", (400, "usage", 2)),
        ("/v1/hist?limit=0", (400, "usage", 2)),
        ("/v1/select?q=@nothing", (404, "not_found", 102)),
        ("/v1/select?q=5-3", (400, "usage", 2)),
        ("/v1/nothing", (404, "not_found", 102)),
        ("/", (404, "not_found", 102)),
        ("/v1/driver/1/assignment?token=forged", (409, "fenced", 1)),
        ("/v1/driver/99/assignment?token=forged", (409, "fenced", 1)),
    ],
)
def test_a_refusal_is_json_with_code_hint_and_exit(
    busy: Api, path: str, expected: tuple[int, str, int]
) -> None:
    assert busy.refused("GET", path) == expected


def test_a_wrong_method_is_refused_as_json(api: Api) -> None:
    assert api.refused("POST", "/v1/ping", {})[1] == "not_found"


def test_events_are_waited_for(busy: Api) -> None:
    seen = busy.get("/v1/events?workflow=1")
    threading.Timer(0.3, lambda: busy.world.person("hold", "2")).start()
    started = time.monotonic()
    later = busy.get(f"/v1/events?workflow=1&after={seen['last']}&wait_s=20")
    assert time.monotonic() - started < 15
    assert [event["kind"] for event in later["items"]] == ["held"]


def test_waiting_for_events_in_vain_ends_in_time(busy: Api) -> None:
    last = busy.get("/v1/events?workflow=1")["last"]
    answer = busy.get(f"/v1/events?workflow=1&after={last}&wait_s=0.4")
    assert (answer["items"], answer["last"]) == ([], last)


def test_waiting_clients_keep_nobody_else_waiting(busy: Api) -> None:
    last = busy.get("/v1/events?workflow=1")["last"]
    path = f"/v1/events?workflow=1&after={last}&wait_s=30"
    threads = [threading.Thread(target=busy.get, args=(path,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    busy.get("/v1/ping")
    assert all(thread.is_alive() for thread in threads), "they have waited, and so has the ping"
    busy.world.person("hold", "2")
    for thread in threads:
        thread.join(30)


def act(api: Api, action: str, selector: str, **values: object) -> Json:
    body = {"action": action, "selector": selector} | values
    answer = api.post("/v1/actions", body)
    assert misfit(answer, schema.ActionsAnswer) == []
    return answer


def test_actions_say_what_became_of_each_step(busy: Api) -> None:
    found = act(busy, "cancel", "1", by_steps=True, reason="wrong mask")["items"]
    assert [(item["step"], item["was"], item["now"]) for item in found] == [
        ("1", "RUNNING", "STOPPING"),
        ("2", "PENDING", "CANCELLED"),
    ]
    told = [e["text"] for e in busy.get("/v1/events?workflow=1")["items"] if e["kind"] == "reason"]
    assert told == ["cancel: wrong mask"]


def test_a_workflow_named_as_a_whole_is_answered_as_a_whole(api: Api) -> None:
    api.submit()
    found = act(api, "cancel", "1")["items"]
    assert found == [{"workflow": 1, "step": None, "was": "PENDING", "now": "CANCELLED"}]


def test_hold_and_release_of_a_workflow_and_of_a_step(api: Api) -> None:
    api.submit()
    (held,) = act(api, "hold", "1")["items"]
    assert (held["was"], held["now"]) == ("RELEASED", "HELD")
    assert api.get("/v1/workflows/1")["state"] == "HELD"
    assert act(api, "release", "1")["items"][0]["now"] == "RELEASED"
    (step_held,) = act(api, "hold", "1.3")["items"]
    assert (step_held["step"], step_held["now"]) == ("3", "HELD")
    assert api.get("/v1/steps/1.3")["reason"] == "JobHeldUser"


@pytest.mark.parametrize("action", ["explode", ""])
def test_an_unknown_action_is_refused(busy: Api, action: str) -> None:
    body = {"action": action, "selector": "1"}
    assert busy.refused("POST", "/v1/actions", body) == (400, "usage", 2)


def test_an_action_on_a_list_with_one_that_is_missing_does_nothing(busy: Api) -> None:
    body = {"action": "cancel", "selector": "1,99"}
    assert busy.refused("POST", "/v1/actions", body) == (404, "not_found", 102)
    assert busy.get("/v1/workflows/1")["state"] == "RUNNING"


def test_a_driver_says_hello_gets_its_assignment_and_its_orders(api: Api) -> None:
    api.submit()
    api.world.tick()
    driver = api.world.programs.of(1)
    found = api.get(f"/v1/driver/1/assignment?token={driver.token}")
    assert found["children"]["2"]
    assert found["scipion_python"] == "/opt/scipion/bin/python"
    api.ticker.start()
    try:
        answer = api.post("/v1/driver/1/beat", driver.beat({}).model_dump(mode="json"))
    finally:
        api.ticker.stop()
    del answer["schema"]
    orders = Orders.model_validate(answer)
    assert [order.ref for order in orders.runs] == ["2"]
    assert orders.end is False
    assert api.world.cloud.up()


def test_a_driver_that_was_given_up_is_told_to_stop(api: Api) -> None:
    api.submit()
    api.world.tick()
    old = api.world.programs.of(1)
    api.world.programs.kill(1)
    api.world.tick(2)
    body = old.beat({}).model_dump(mode="json")
    assert api.refused("POST", "/v1/driver/1/beat", body) == (409, "fenced", 1)


_AS_OTHER = """
import http.client, json, socket, sys
path, method, url, body, headers = sys.argv[1:]
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
connection.request(method, url, body or None, json.loads(headers))
response = connection.getresponse()
print(json.dumps([response.status, json.loads(response.read())]))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as somebody else")


def as_uid(
    api: Api, uid: int, method: str, url: str, body: object = None, **headers: str
) -> tuple[int, Json]:
    sent = "" if body is None else json.dumps(body)
    argv = [sys.executable, "-I", "-c", _AS_OTHER]
    argv += [str(api.socket), method, url, sent, json.dumps(JSON | headers)]
    done = subprocess.run(
        argv, user=uid, group=uid, extra_groups=[], capture_output=True, check=True, timeout=60,
        cwd="/",
    )  # fmt: skip
    status, answer = json.loads(done.stdout)
    return status, answer


@needs_root
@pytest.mark.parametrize(
    ("method", "url", "body"),
    [
        ("GET", "/v1/workflows/1", None),
        ("GET", "/v1/steps/1.1", None),
        ("GET", "/v1/events?workflow=1", None),
        ("GET", "/v1/receipt/1", None),
        ("POST", "/v1/actions", {"action": "cancel", "selector": "1"}),
        ("POST", "/v1/actions", {"action": "cancel", "selector": "2,1"}),
        ("POST", "/v1/actions", {"action": "hold", "selector": "1.2"}),
    ],
)
def test_the_workflow_of_another_user_is_not_for_you(
    busy: Api, method: str, url: str, body: object
) -> None:
    spoofed = {"X-Remote-User": "root", "X-Forwarded-For": "127.0.0.1", "X-Uid": "0"}
    status, answer = as_uid(busy, 1, method, url, body, **spoofed)
    assert (status, answer["error"]["code"], answer["error"]["exit"]) == (403, "permission", 107)
    assert "belongs to root" in answer["error"]["message"]
    assert busy.get("/v1/workflows/1")["state"] == "RUNNING"
    assert busy.get("/v1/workflows/2")["state"] == "HELD"


@needs_root
def test_a_user_sees_and_steers_the_own_workflows(busy: Api) -> None:
    status, answer = as_uid(busy, 1, "GET", "/v1/workflows")
    assert (status, [item["id"] for item in answer["items"]]) == (200, [2])
    status, answer = as_uid(busy, 1, "GET", "/v1/select?q=all")
    assert answer["items"] == [{"workflow": 2, "step": None}]
    _, answer = as_uid(busy, 1, "POST", "/v1/actions", {"action": "cancel", "selector": "last"})
    assert answer["items"][0]["workflow"] == 2
    status, answer = as_uid(busy, 1, "GET", "/v1/workflows?scope=all")
    assert len(answer["items"]) == 1


@needs_root
def test_the_driver_of_a_workflow_has_to_be_its_owner(busy: Api) -> None:
    token = busy.world.programs.of(1).token
    status, answer = as_uid(busy, 1, "GET", f"/v1/driver/1/assignment?token={quote(token)}")
    assert (status, answer["error"]["code"]) == (403, "permission")


@needs_root
def test_the_submitter_is_who_the_kernel_says(api: Api) -> None:
    body = {"document": DOCUMENT, "name": "mine"}
    status, _ = as_uid(api, 1, "POST", "/v1/workflows", body, **{"X-Uid": "0"})
    assert status == 201
    assert api.get("/v1/workflows/1")["uid"] == 1


@needs_root
def test_who_has_no_account_can_submit_nothing(api: Api) -> None:
    body = {"document": DOCUMENT, "name": "mine"}
    status, answer = as_uid(api, 54321, "POST", "/v1/workflows", body)
    assert (status, answer["error"]["exit"]) == (403, 107)


@needs_root
def test_an_unmapped_uid_is_nobody(busy: Api) -> None:
    status, answer = as_uid(busy, 65534, "GET", "/v1/workflows")
    assert (status, answer["error"]["code"]) == (403, "permission")


def test_over_tcp_nobody_is_anybody(api: Api) -> None:
    settings = Settings(state_dir=api.socket.parent)
    app = make_app(settings, api.world.store, api.world.services, api.ticker)
    config = daemon._server_config(app, api.socket)
    config.uds, config.host, config.port = None, "127.0.0.1", 0
    with listening(config) as server:
        port = server.servers[0].sockets[0].getsockname()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/v1/workflows", headers={"X-Uid": "0"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
    assert (response.status, answer["error"]["exit"]) == (403, 107)


def test_the_queues_own_selectors(busy: Api) -> None:
    def selected(text: str) -> list[tuple[int, str | None]]:
        items = busy.get(f"/v1/select?q={quote(text)}")["items"]
        return [(item["workflow"], item["step"]) for item in items]

    assert selected("1") == [(1, None)]
    assert selected("1.2, 1") == [(1, "2"), (1, None)]
    assert selected("last") == [(1, None)]
    assert selected("last.2") == [(1, "2")]
    assert selected("1-7") == [(1, None), (2, None)]
    assert selected("@owner=bo") == [(1, None)]
