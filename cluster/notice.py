"""How a node hears that it will be taken back, one class per `remote.NoticeSource`."""

import http.client
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from scsched.cluster.node_spec import IMDS, IMDS_EVERY_S, NodeSpec
from scsched.cluster.remote import NoticeSource

_log = logging.getLogger(__name__)
_TOKEN_TTL_S = 21_600
_TIMEOUT_S = 2.0
_AT_ONCE_S = 2.0
"""Signals within it are one: a batch system tells the shell, which tells us, and us too."""


class Source(Protocol):
    """Asked again and again, in a thread: `deadline` may block for some seconds."""

    every_s: float

    def deadline(self) -> str | None:
        """ISO time when the node will be taken back, once that is known."""
        ...


class FileNotice:
    """A file holds {"deadline": ISO time}."""

    every_s = 0.5

    def __init__(self, path: Path) -> None:
        self._path = path

    def deadline(self) -> str | None:
        """See `Source.deadline`."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads(self._path.read_text(encoding="utf-8"))["deadline"])
        return None


class SignalNotice:
    """The first SIGTERM, from `grace_s` before the kill."""

    every_s = 0.5

    def __init__(self, grace_s: float, on_second: Callable[[], None]) -> None:
        self._grace_s = grace_s
        self._on_second = on_second
        self._deadline: str | None = None
        self._heard_at = 0.0

    def hear(self) -> None:
        """A signal came; the second one is the end."""
        now = time.monotonic()
        if self._deadline is None:
            self._heard_at = now
            deadline = datetime.now(UTC) + timedelta(seconds=self._grace_s)
            self._deadline = deadline.isoformat(timespec="seconds")
        elif now - self._heard_at > _AT_ONCE_S:
            self._on_second()

    def deadline(self) -> str | None:
        """See `Source.deadline`."""
        return self._deadline


class NoNotice:
    """Nodes that nobody takes back."""

    every_s = 60.0

    def deadline(self) -> str | None:
        """See `Source.deadline`."""
        return None


class ImdsNotice:
    """EC2's instance metadata, version 2: a token first, 404 until there is something to tell."""

    def __init__(self, host: str = IMDS, *, every_s: float = IMDS_EVERY_S) -> None:
        self.every_s = every_s
        self._host = host
        self._token = ""
        self._hinted = ""

    def deadline(self) -> str | None:
        """See `Source.deadline`. A rebalance recommendation is a hint, and only logged."""
        try:
            hint = self._get("events/recommendations/rebalance")
            if hint is not None and hint != self._hinted:
                self._hinted = hint
                _log.info("this machine is at an elevated risk of being taken back: %s", hint)
            action = self._get("spot/instance-action")
            return None if action is None else str(json.loads(action)["time"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as exc:
            _log.warning("the metadata service does not answer: %s", exc)
            return None

    def _get(self, path: str) -> str | None:
        for _ in range(2):
            if not self._token:
                self._token = self._new_token()
            status, text = self._call(
                "GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}
            )
            if status == 200:
                return text
            if status != 401:
                return None
            self._token = ""  # it has expired
        raise ValueError("it takes no token of its own")

    def _new_token(self) -> str:
        status, text = self._call(
            "PUT",
            "/latest/api/token",
            {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)},
        )
        if status != 200:
            raise ValueError(f"status {status} for a token")
        return text

    def _call(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self._host, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(65_536).decode()
        finally:
            connection.close()


def source(spec: NodeSpec, signals: SignalNotice) -> Source:
    """The node's source, of the kind that its spec says."""
    match spec.notice:
        case NoticeSource.FILE:
            return FileNotice(Path(spec.notice_file))
        case NoticeSource.IMDS:
            return ImdsNotice(spec.imds, every_s=spec.imds_every_s)
        case NoticeSource.SIGNAL:
            return signals
        case NoticeSource.NONE:
            return NoNotice()
