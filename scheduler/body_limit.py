"""No request makes the broker hold more than so much of it: it serves everybody on the host."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 64 << 20
"""The longest workflow, as JSON at its worst (six bytes for one); no driver reports as much."""


class BodyLimit:
    """ASGI middleware: who says more, or says that it will, is refused where its body is read."""

    def __init__(self, app: ASGIApp, most_bytes: int = MOST_BYTES) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        length = int(announced) if announced.isdecimal() else 0

        async def limited() -> Message:
            nonlocal length
            if length <= self._most_bytes:
                message = await receive()
                if not announced:
                    length += len(message.get("body", b""))
            if length > self._most_bytes:
                raise HTTPException(413, f"the body is over {self._most_bytes >> 20} MiB")
            return message

        await self._app(scope, limited, send)
