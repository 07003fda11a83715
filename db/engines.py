"""Connections with the settings that durability needs, for SQLite and for Postgres."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from scsched.db import foreign
from scsched.steps.errors import ConfigError

STATEMENT_TIMEOUT_S = 30
READERS = 4

_SQLITE_WRITER = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_size_limit = 67108864",
)
_SQLITE_READER = ("PRAGMA query_only = ON",)

_POSTGRES_OPTIONS = {
    "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
    "idle_in_transaction_session_timeout": "60s",
    "synchronous_commit": "on",
    "timezone": "UTC",
}


def parse(url: str) -> URL:
    """The URL, if it is one that a store can have.

    :raises ConfigError: neither `sqlite:////path` nor `postgresql://...`.
    """
    hint = "write sqlite:////path/to/scsched.sqlite or postgresql://user@host/name"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"database: {url!r} is no database URL", hint=hint) from error
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(f"database: {backend} is not supported", hint=hint)
    if backend == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise ConfigError("database: SQLite needs a file", hint=hint)
    return parsed


def is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def sqlite_path(url: URL) -> Path:
    return Path(url.database or "").absolute()


def writer(url: URL, *, busy_timeout_s: float = 30.0, foreign_keys: bool = True) -> Engine:
    """An engine of one connection, whose transactions hold the write lock from their start."""
    if not is_sqlite(url):
        return _postgres(url, pool_size=1)
    path = sqlite_path(url)
    _create_private(path)
    settings = _SQLITE_WRITER if foreign_keys else _SQLITE_WRITER[:2]
    engine = _sqlite(_connector(path, "rwc", busy_timeout_s), settings, pool_size=1)
    _begin_with(engine, "BEGIN IMMEDIATE")
    return engine


def reader(url: URL, *, busy_timeout_s: float = 30.0) -> Engine:
    """An engine that cannot write; each transaction sees one state of the database."""
    if not is_sqlite(url):
        return _postgres(url, pool_size=READERS).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    connect = _connector(sqlite_path(url), "ro", busy_timeout_s)
    engine = _sqlite(connect, _SQLITE_READER, pool_size=READERS)
    _begin_with(engine, "BEGIN")
    return engine


def _connector(path: Path, mode: str, busy_timeout_s: float) -> Callable[[], sqlite3.Connection]:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            f"{path.as_uri()}?mode={mode}",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,  # we say BEGIN ourselves
            check_same_thread=False,  # the pool gives a connection to one thread at a time
            cached_statements=512,
        )

    return connect


def _sqlite(
    connect: Callable[[], sqlite3.Connection], settings: tuple[str, ...], *, pool_size: int
) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=connect,
        poolclass=QueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=STATEMENT_TIMEOUT_S,
    )
    foreign.translate(engine)

    @event.listens_for(engine, "connect")
    def _set(connection: sqlite3.Connection, _: object) -> None:
        for setting in settings:
            connection.execute(setting).close()

    return engine


def _begin_with(engine: Engine, statement: str) -> None:
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)


def _postgres(url: URL, *, pool_size: int) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=STATEMENT_TIMEOUT_S,
            connect_args=_postgres_arguments(),
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            "database: Postgres needs psycopg",
            hint="run scripts/bootstrap, or pip install '/path/to/scsched[postgres]'",
        ) from error
    foreign.translate(engine)
    return engine


def _postgres_arguments() -> dict[str, Any]:
    return {
        "options": " ".join(f"-c {key}={value}" for key, value in _POSTGRES_OPTIONS.items()),
        "connect_timeout": 10,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "scsched",
    }


def _create_private(path: Path) -> None:
    """The file is the owner's alone; SQLite gives its -wal and -shm the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise ConfigError(
            f"database: cannot open {path}: {error.strerror}",
            hint="the folder must exist and be yours; it must not be on NFS",
        ) from error
