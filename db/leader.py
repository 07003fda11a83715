"""Who may be the broker: a lock that dies with the process that holds it.

A stopped process (SIGSTOP) keeps the lock: nobody takes over, and nothing is done twice.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from sqlalchemy import URL, text

from scsched.db import engines
from scsched.steps.errors import StoreBusy

_KEY = int.from_bytes(b"scsched\0", "big", signed=True)


class LeaderLock(Protocol):
    """Held from its creation until `release`, or the end of the process."""

    def check(self) -> None:
        """:raises StoreLost: it is held no longer; stop at once."""

    def release(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class _Released:
    def release(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class FileLock(_Released):
    """flock on `<database>.lock`. The file stays: removing it would let two brokers in."""

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            raise StoreBusy(
                f"database: another broker (process {holder or 'unknown'}) has {database}",
                hint="use that one, or stop it first",
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def check(self) -> None:
        """A flock cannot be lost while its file is open."""

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class AdvisoryLock(_Released):
    """A session-level advisory lock, on a connection of its own."""

    def __init__(self, url: URL) -> None:
        self._engine = engines.writer(url)
        autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            self._connection = autocommit.connect()
            taken = self._connection.scalar(
                text("SELECT pg_try_advisory_lock(:key)"), {"key": _KEY}
            )
        except BaseException:
            self._engine.dispose()
            raise
        if not taken:
            self.release()
            raise StoreBusy(
                "database: another broker has it", hint="use that one, or stop it first"
            )

    def check(self) -> None:
        self._connection.execute(text("SELECT 1"))

    def release(self) -> None:
        self._connection.close()
        self._engine.dispose()
