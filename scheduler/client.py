"""The broker's HTTP API, over its Unix socket, with nothing but the standard library.

Every request has a connection of its own. What a lost connection means depends on the request: a
question is asked again; a submission is sent again under its key, which the broker takes once; of
an action nobody can tell whether it happened, and the error says so.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from scsched.steps.errors import (
    BrokerUnreachable,
    PermissionDenied,
    ScschedError,
    StoreLost,
    WorkflowError,
)

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

SCHEMA = "scsched/v1"
START = "start it with: scsched serve"
ATTEMPTS = 5
"""Of a request that may be sent again, over about six seconds."""

Query = Mapping[str, str | int | float | None]
Answer = dict[str, Any]


class Cut(Exception):
    """The connection ended between the request and the whole of its answer."""


class Client:
    """One broker, by its socket.

    `timeout_s` is for each wait on the socket, `attempts` for requests that may be sent again.
    """

    def __init__(self, path: Path, *, timeout_s: float = 60.0, attempts: int = ATTEMPTS) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.attempts = attempts

    def ping(self) -> schema.PingAnswer:
        return cast("schema.PingAnswer", self._get("/v1/ping"))

    def submit(self, body: Mapping[str, object]) -> schema.SubmitAnswer:
        """Submit; `body["key"]` makes a repeat safe, here and in a later process.

        :raises StoreLost: the broker went away and did not come back in time to tell.
        """
        try:
            answer = self._again("POST", "/v1/workflows", body)
        except Cut as exc:
            raise StoreLost(
                "the broker went away while it took the workflow: it may have been submitted",
                hint=f"look with `scsched queue`, or submit again with --key {body['key']}: "
                "a key is taken only once",
            ) from exc
        return cast("schema.SubmitAnswer", answer)

    def workflows(
        self, *, scope: str = "mine", live: bool = True, state: str = "", limit: int | None = None
    ) -> schema.WorkflowsAnswer:
        query: Query = {
            "scope": scope,
            "live": int(live),
            "state": state or None,
            "limit": limit,
        }
        return cast("schema.WorkflowsAnswer", self._get("/v1/workflows", query))

    def workflow(self, selector: str | int) -> schema.WorkflowAnswer:
        return cast("schema.WorkflowAnswer", self._get(f"/v1/workflows/{_part(selector)}"))

    def step(self, workflow: int, step: str) -> schema.StepAnswer:
        path = f"/v1/steps/{_part(f'{workflow}.{step}')}"
        return cast("schema.StepAnswer", self._get(path))

    def select(self, selector: str) -> schema.SelectAnswer:
        return cast("schema.SelectAnswer", self._get("/v1/select", {"q": selector}))

    def events(
        self, *, workflow: int, step: str | None = None, after: int = 0, wait_s: float = 0.0
    ) -> schema.EventsAnswer:
        """Events after `after`, oldest first; waits up to `wait_s` for the first one."""
        query: Query = {"workflow": workflow, "step": step, "after": after, "wait_s": wait_s}
        return cast("schema.EventsAnswer", self._get("/v1/events", query))

    def act(
        self, action: str, selector: str, *, reason: str = "", by_steps: bool = False
    ) -> schema.ActionsAnswer:
        """cancel, hold, release, requeue or resubmit what `selector` names.

        :raises StoreLost: the broker went away before it answered.
        """
        body = {"action": action, "selector": selector, "reason": reason, "by_steps": by_steps}
        try:
            answer = self._once("POST", "/v1/actions", body)
        except Cut as exc:
            raise StoreLost(
                f"the broker went away before it answered: whether {action} {selector} "
                "happened is not known",
                hint=f"look with `scsched show {selector}`; to repeat it does no harm",
            ) from exc
        return cast("schema.ActionsAnswer", answer)

    def hist(
        self,
        *,
        since: str | None = None,
        until: str | None = None,
        user: str | None = None,
        limit: int | None = None,
    ) -> schema.HistAnswer:
        query = {"since": since, "until": until, "user": user, "limit": limit}
        return cast("schema.HistAnswer", self._get("/v1/hist", query))

    def nodes(self, *, ended: bool = False) -> schema.NodesAnswer:
        return cast("schema.NodesAnswer", self._get("/v1/nodes", {"all": int(ended)}))

    def audit(self, *, fix: bool = False) -> schema.AuditAnswer:
        """The records against the providers' own lists; asks the providers, so it may take long."""
        try:
            answer = self._once("POST", "/v1/audit", {"fix": fix})
        except Cut as exc:
            raise self._unreachable("it ends the connection before it answers") from exc
        return cast("schema.AuditAnswer", answer)

    def receipt(self, workflow: int) -> schema.ReceiptAnswer:
        return cast("schema.ReceiptAnswer", self._get(f"/v1/receipt/{workflow}"))

    def config(self) -> schema.ConfigAnswer:
        return cast("schema.ConfigAnswer", self._get("/v1/config"))

    def assignment(self, workflow: int, token: str) -> Answer:
        """What the workflow's driver has to know at its start."""
        return self._once("GET", f"/v1/driver/{workflow}/assignment?{urlencode({'token': token})}")

    def beat(self, workflow: int, report: Mapping[str, object]) -> Answer:
        """A driver's report; gives its orders. The next beat repeats what a lost one said.

        :raises Fenced: the driver was given up.
        :raises BrokerUnreachable: nobody listens; go on and try again.
        """
        return self._once("POST", f"/v1/driver/{workflow}/beat", report)

    def _get(self, path: str, query: Query | None = None) -> Answer:
        given = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            return self._again("GET", f"{path}?{urlencode(given)}" if given else path)
        except Cut as exc:
            raise self._unreachable("it ends the connection before it answers") from exc

    def _again(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        """Send, and again after a cut; once cut, a broker that is away may be restarting."""
        cut: Cut | None = None
        for pause_s in _pauses(self.attempts):
            time.sleep(pause_s)
            try:
                return self._once(method, path, body)
            except Cut as exc:
                cut = exc
            except BrokerUnreachable:
                if cut is None:
                    raise
        raise cut or Cut(path)

    def _once(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        connection = self._connected()
        try:
            status, raw = _exchange(connection, method, path, body)
        except TimeoutError as exc:
            raise Cut(f"no answer within {self.timeout_s:.0f} s") from exc
        except (http.client.HTTPException, OSError) as exc:
            raise Cut(str(exc)) from exc
        finally:
            connection.close()
        return _parsed(status, raw)

    def _connected(self) -> http.client.HTTPConnection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout_s)
        try:
            sock.connect(os.fsencode(self.path))
        except PermissionError as exc:
            sock.close()
            raise PermissionDenied(
                f"{self.path}: this socket is not open to you",
                hint="ask whoever runs the broker, or run your own: scsched serve",
            ) from exc
        except OSError as exc:
            sock.close()
            raise self._unreachable(exc.strerror or str(exc)) from exc
        connection = http.client.HTTPConnection("localhost", timeout=self.timeout_s)
        connection.sock = sock
        return connection

    def _unreachable(self, why: str) -> BrokerUnreachable:
        return BrokerUnreachable(f"no broker answers at {self.path} ({why})", hint=START)


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Mapping[str, object] | None,
) -> tuple[int, bytes]:
    sent = None if body is None else json.dumps(body).encode()
    headers = {} if sent is None else {"Content-Type": "application/json"}
    connection.request(method, path, sent, headers)
    response = connection.getresponse()
    return response.status, response.read()


def _parsed(status: int, raw: bytes) -> Answer:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ScschedError(f"the broker answered {status} without JSON", hint="see its log")
    if "error" in answer:
        raise _error(answer["error"])
    if status >= 400:
        raise ScschedError(f"the broker answered {status}: {json.dumps(answer)[:300]}")
    if (found := answer.get("schema")) != SCHEMA:
        raise ScschedError(
            f"the broker speaks {found}, this command {SCHEMA}",
            hint="install the same version of scsched for both, and restart the broker",
        )
    return answer


def _error(error: Mapping[str, Any]) -> ScschedError:
    """The error as the class that its code names, as if it had been raised here."""
    cls = _classes().get(str(error.get("code")), ScschedError)
    found = cls.__new__(cls)
    message = str(error.get("message", "the broker gave no reason"))
    ScschedError.__init__(found, message, hint=str(error.get("hint") or ""))
    if cls is ScschedError:
        found.code = str(error.get("code") or "error")
        found.exit_code = int(error.get("exit") or 1)
    if isinstance(found, WorkflowError):
        found.where, _, found.problem = message.partition(": ")
    return found


def _classes() -> dict[str, type[ScschedError]]:
    return {cls.code: cls for cls in _descendants(ScschedError)}


def _descendants(cls: type[ScschedError]) -> Iterator[type[ScschedError]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


def _pauses(attempts: int) -> Iterator[float]:
    yield 0.0
    for attempt in range(attempts - 1):
        yield 0.4 * 2**attempt


def _part(text: str | int) -> str:
    return quote(str(text), safe="@,=.-")
