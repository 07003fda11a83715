"""The store: one writer at a time, readers beside it, and the lock that lets in one broker.

    with store.write() as session:        committed at the end of the block, durably; or not at all
    with store.read() as session:         one unchanging state of the database; cannot write

Postgres gets one writing connection too: events then become visible in the order of their ids, and
whoever reads "all events after 17" misses none.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from sqlalchemy import URL, Connection, Engine, inspect, select, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from scsched.db import engines, leader
from scsched.db.models import HEAD, meta
from scsched.steps.errors import StoreBusy, StoreError, StoreLost

Session: TypeAlias = Connection
"""A transaction on one connection."""


class Store:
    """An open database. Threads may share it."""

    def __init__(self, url: URL, *, busy_timeout_s: float = 30.0) -> None:
        self.url = url
        self.commits = 0
        """Writes committed so far by this store; a reader may compare it to see if any were."""
        self._busy_timeout_s = busy_timeout_s
        self._writer = engines.writer(url, busy_timeout_s=busy_timeout_s)
        self._reader = engines.reader(url, busy_timeout_s=busy_timeout_s)
        self._turn = threading.Lock()

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.url.get_backend_name()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A read-only transaction over one state of the database.

        :raises StoreBusy: all reading connections were taken for too long.
        :raises StoreLost: the server went away.
        """
        with _connected(self._reader) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """The writing transaction; on disk when the block has ended. Do not nest it.

        :raises StoreBusy: somebody else wrote for too long. Nothing was written.
        :raises StoreFull: no space left. Nothing was written.
        :raises StoreLost: the server went away. Whether it was written is unknown.
        """
        if not self._turn.acquire(timeout=self._busy_timeout_s):
            raise StoreBusy("database: another thread has been writing for too long")
        try:
            with _connected(self._writer) as session:
                yield session
            self.commits += 1
        finally:
            self._turn.release()

    def leader_lock(self) -> leader.LeaderLock:
        """Become the only broker of this database.

        :raises StoreBusy: another broker is.
        """
        if engines.is_sqlite(self.url):
            return leader.FileLock(engines.sqlite_path(self.url))
        return leader.AdvisoryLock(self.url)

    def deployment(self) -> str:
        """The UUID of this database, given at its creation. Every cloud resource carries it."""
        with self.read() as session:
            found = session.scalar(select(meta.c.value).where(meta.c.key == "deployment"))
        if not isinstance(found, str):
            raise StoreError("database: it has no deployment id", hint="run: scsched db upgrade")
        return found

    def secret(self) -> bytes:
        """What only the broker of this database knows, given at its creation; 32 bytes."""
        with self.read() as session:
            found = session.scalar(select(meta.c.value).where(meta.c.key == "secret"))
        if not isinstance(found, str):
            raise StoreError("database: it has no secret", hint="run: scsched db upgrade")
        return bytes.fromhex(found)

    def faults(self) -> tuple[str, ...]:
        """What the database finds wrong with its own file; empty when all is well."""
        if not engines.is_sqlite(self.url):
            return ()
        with self.read() as session:
            said = session.scalars(text("PRAGMA integrity_check")).all()
        return tuple(line for line in said if line != "ok")

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()


def open_store(url: str, *, busy_timeout_s: float = 30.0) -> Store:
    """The store at `url`, its tables as this version wants them.

    :raises StoreError: the tables are older or newer.
    :raises StoreLost: the server does not answer.
    """
    store = Store(engines.parse(url), busy_timeout_s=busy_timeout_s)
    try:
        _check_revision(store)
    except BaseException:
        store.close()
        raise
    return store


def _check_revision(store: Store) -> None:
    with store.write() as session:  # the writer first: it makes the file that readers open
        known = inspect(session).has_table("alembic_version")
        found = session.scalar(text("SELECT version_num FROM alembic_version")) if known else None
    if found != HEAD:
        raise StoreError(
            f"database: its tables are of version {found}, this program's are of {HEAD}",
            hint="run: scsched db upgrade",
        )


@contextmanager
def _connected(engine: Engine) -> Iterator[Session]:
    try:
        connection = engine.connect()
    except PoolTimeout as error:
        raise StoreBusy("database: all connections were in use for too long") from error
    try:
        with connection, connection.begin():
            yield connection
    except PendingRollbackError as error:  # the block went on after it was told of the loss
        raise StoreLost("database: the connection broke; nothing was written") from error
