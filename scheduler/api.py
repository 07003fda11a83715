"""The HTTP API, v1. Routes only: who asks, what for, and the answer as JSON."""

import asyncio
import os
import pwd
import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import Body, Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from scsched.db import queries
from scsched.db.session import Store
from scsched.scheduler import answers, config, steering
from scsched.scheduler.body_limit import BodyLimit
from scsched.scheduler.config import Settings
from scsched.scheduler.desk import Desk
from scsched.scheduler.intake import Submission
from scsched.scheduler.peercred import Peer, caller
from scsched.scheduler.protocol import SCHEMA, Beat
from scsched.scheduler.selectors import select
from scsched.scheduler.ticker import Services, Ticker, utc_now
from scsched.steps.errors import NotFound, ScschedError, UsageError

Json = dict[str, object]
Caller = Annotated[Peer, Depends(caller)]
WorkflowId = Annotated[int, Path(ge=0, le=2**31)]
After = Annotated[int, Query(ge=0, lt=2**63)]
Seconds = Annotated[float, Query(ge=0.0)]
MAX_WAIT_S = 30.0
POLL_S = 0.2

_STATUS = {
    "usage": 400,
    "workflow": 422,
    "infeasible": 422,
    "not_found": 404,
    "permission": 403,
    "stale": 409,
    "config": 409,
    "fenced": 409,
    "store_busy": 503,
    "store_lost": 503,
    "store_full": 507,
}


class Action(BaseModel):
    """The body of POST /v1/actions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Literal["cancel", "hold", "release", "requeue", "resubmit"]
    selector: str
    reason: str = Field(default="", max_length=1000)
    by_steps: bool = False


class Audit(BaseModel):
    """The body of POST /v1/audit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fix: bool = False


def make_app(settings: Settings, store: Store, services: Services, ticker: Ticker) -> FastAPI:
    """The application; every route needs to know who calls."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, title="scsched")
    desk = Desk(settings, store, services)
    started_at = utc_now()
    app.add_exception_handler(ScschedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _refused)
    app.add_middleware(BodyLimit)

    @app.get("/v1/ping")
    def ping(_: Caller) -> Json:
        return _answer(
            version=version("scsched"),
            pid=os.getpid(),
            uid=os.geteuid(),
            deployment=store.deployment(),
            started_at=answers.iso(started_at),
            ticks=ticker.ticks,
        )

    @app.post("/v1/workflows", status_code=201)
    def submit(peer: Caller, body: Submission) -> Json:
        return _answer(**desk.submit(body, peer))

    @app.get("/v1/workflows")
    def workflows(
        peer: Caller,
        scope: Literal["mine", "all"] = "mine",
        live: bool = True,
        state: str = "",
        limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
    ) -> Json:
        uid = peer.uid if scope == "mine" else None
        return _answer(items=desk.workflows(uid, live=live, states=_words(state), limit=limit))

    @app.get("/v1/workflows/{selector}")
    def workflow(peer: Caller, selector: str) -> Json:
        return _answer(**desk.workflow(selector, peer))

    @app.get("/v1/steps/{selector}")
    def step(peer: Caller, selector: str) -> Json:
        return _answer(**desk.step(selector, peer))

    @app.get("/v1/select")
    def selected(peer: Caller, q: str) -> Json:
        with store.read() as session:
            found = select(session, q, peer.uid)
        return _answer(items=[{"workflow": one.workflow, "step": one.step} for one in found])

    @app.get("/v1/events")
    async def events(
        peer: Caller, workflow: int, step: str | None = None, after: After = 0, wait_s: Seconds = 0
    ) -> Json:
        deadline = asyncio.get_running_loop().time() + min(wait_s, MAX_WAIT_S)
        while True:
            seen = store.commits
            items = await run_in_threadpool(desk.events, workflow, step, after, peer)
            if items or asyncio.get_running_loop().time() >= deadline:
                return _answer(items=items, last=items[-1]["id"] if items else after)
            while store.commits == seen and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(POLL_S)

    @app.post("/v1/actions")
    def act(peer: Caller, body: Action) -> Json:
        items = steering.act(
            store,
            body.action,
            body.selector,
            peer,
            reason=body.reason,
            by_steps=body.by_steps,
            now=utc_now(),
        )
        services.inbox.wake()
        return _answer(items=items)

    @app.get("/v1/hist")
    def hist(
        peer: Caller,
        since: datetime | None = None,
        until: datetime | None = None,
        user: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
    ) -> Json:
        uid = _uid_of(user) if user else None
        with store.read() as session:
            past = queries.hist(
                session, utc_now(), since=_utc(since), until=_utc(until), uid=uid, limit=limit
            )
        return _answer(items=[answers.past_run(one) for one in past])

    @app.get("/v1/nodes")
    def nodes(_: Caller, all: bool = False) -> Json:  # noqa: A002 - the query's own name
        return _answer(**desk.nodes(ended=all))

    @app.post("/v1/audit")
    def audit(peer: Caller, body: Audit) -> Json:
        return _answer(**desk.audit(peer, fix=body.fix))

    @app.get("/v1/receipt/{workflow}")
    def receipt(peer: Caller, workflow: WorkflowId) -> Json:
        return _answer(**desk.receipt(workflow, peer))

    @app.get("/v1/config")
    def configuration(_: Caller) -> Json:
        rows = config.origins(settings)
        return _answer(items=[{"key": k, "value": v, "origin": o} for k, v, o in rows])

    @app.get("/v1/driver/{workflow}/assignment")
    def assignment(peer: Caller, workflow: WorkflowId, token: str) -> Json:
        return _answer(**desk.assignment(workflow, token, peer).model_dump(mode="json"))

    @app.post("/v1/driver/{workflow}/beat")
    def beat(peer: Caller, workflow: WorkflowId, body: Annotated[Beat, Body()]) -> Json:
        return _answer(**desk.beat(workflow, body, peer).model_dump(mode="json"))

    return app


def _answer(**values: object) -> Json:
    return {"schema": SCHEMA, **values}


def _refused(_: Request, exc: Exception) -> JSONResponse:
    error = exc if isinstance(exc, ScschedError) else ScschedError(f"a fault of the broker: {exc}")
    body = {
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
        "exit": error.exit_code,
    }
    return JSONResponse(_answer(error=body), _STATUS.get(error.code, 500))


def _invalid(request: Request, exc: Exception) -> JSONResponse:
    first = exc.errors()[0] if isinstance(exc, RequestValidationError) else {}
    where = ".".join(str(part) for part in first.get("loc", ()) if part != "body")
    return _refused(request, UsageError(f"{where or 'body'}: {first.get('msg', exc)}"))


def _no_route(request: Request, exc: Exception) -> JSONResponse:
    """Nothing at this path, not by this method, or a body that is no text."""
    if not isinstance(exc, HTTPException):
        return _refused(request, exc)
    refused = NotFound if exc.status_code in (404, 405) else UsageError
    return _refused(request, refused(f"{request.method} {request.url.path}: {exc.detail}"))


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip().upper() for word in text.split(",") if word.strip())


def _utc(at: datetime | None) -> datetime | None:
    """A time without a zone is taken as UTC."""
    return at if at is None or at.tzinfo else at.replace(tzinfo=UTC)


def _uid_of(user: str) -> int:
    if re.fullmatch(r"[0-9]{1,10}", user):
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError) as exc:
        raise UsageError(f"no user {user!r}") from exc
