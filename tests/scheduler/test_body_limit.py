"""A body that is too long is refused before it is in memory."""

import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from scsched.scheduler.body_limit import MOST_BYTES, BodyLimit
from scsched.steps.loader import MAX_BYTES
from tests.scheduler.served import serving
from tests.scheduler.test_api import MakeWorld


def read(*parts: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> tuple[bytes | int, int]:
    """What an application behind a limit of ten bytes reads, and from how many messages.

    The status in place of what it reads where it is refused.
    """
    taken: list[bytes] = []

    async def receive() -> Message:
        part = parts[len(taken)]
        taken.append(part)
        return {"type": "http.request", "body": part, "more_body": len(taken) < len(parts)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    body: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            body.append(message["body"])
            more = message["more_body"]

    try:
        scope = {"type": "http", "headers": list(headers)}
        asyncio.run(BodyLimit(application, 10)(scope, receive, send))
    except HTTPException as exc:
        return exc.status_code, len(taken)
    return b"".join(body), len(taken)


def test_what_is_short_enough_passes() -> None:
    assert read(b"12345", b"67890") == (b"1234567890", 2)
    assert read(b"12345", b"67890", headers=((b"content-length", b"10"),)) == (b"1234567890", 2)
    assert read(b"") == (b"", 1)


def test_what_is_too_long_is_read_no_further() -> None:
    assert read(b"12345", b"678901", b"2") == (413, 2)


@pytest.mark.parametrize("length", [b"11", b"9" * 40])
def test_what_will_be_too_long_is_not_read_at_all(length: bytes) -> None:
    assert read(b"1", headers=((b"content-length", length),)) == (413, 0)


def test_the_longest_workflow_fits() -> None:
    assert MOST_BYTES > 6 * MAX_BYTES


def test_the_broker_says_so(make_world: MakeWorld) -> None:
    with serving(make_world()) as api:
        huge = {"Content-Length": str(MOST_BYTES + 1)}
        status, answer = api.call("POST", "/v1/workflows", b"{", huge)
        assert (status, answer["error"]["code"]) == (400, "usage")
        assert answer["error"]["message"] == "POST /v1/workflows: the body is over 64 MiB"
        assert api.submit()["id"] == 1
