"""Trouble with the database comes out as one of four errors, by what the caller can do."""

import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL, text

from scsched.db import foreign, migrate, queries
from scsched.db.leader import LeaderLock
from scsched.db.session import Session, open_store
from scsched.steps.errors import ConfigError, StoreBusy, StoreError, StoreFull, StoreLost
from tests import postgres
from tests.db.rows import new_step, opened, submit


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    migrate.upgrade(url)
    return url


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY, StoreBusy),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreBusy),
        (sqlite3.SQLITE_LOCKED, StoreBusy),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreLost),
        (sqlite3.SQLITE_IOERR_WRITE, StoreLost),
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_CORRUPT, StoreError),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, StoreError),
    ],
)
def test_sqlite_errors_are_translated_by_their_code(code: int, kind: type[StoreError]) -> None:
    error = sqlite3.OperationalError("told")
    error.sqlite_errorcode = code
    assert type(foreign.store_error(error)) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.errors.DiskFull("x"), StoreFull),
        (psycopg.errors.TooManyConnections("x"), StoreBusy),
        (psycopg.errors.DeadlockDetected("x"), StoreBusy),
        (psycopg.errors.QueryCanceled("x"), StoreBusy),
        (psycopg.errors.LockNotAvailable("x"), StoreBusy),
        (psycopg.errors.AdminShutdown("x"), StoreLost),
        (psycopg.errors.CannotConnectNow("x"), StoreLost),
        (psycopg.errors.ConnectionFailure("x"), StoreLost),
        (psycopg.OperationalError("server closed the connection unexpectedly"), StoreLost),
        (psycopg.errors.UniqueViolation("x"), StoreError),
        (psycopg.InterfaceError("x"), StoreError),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if isinstance(value, Exception) else "",
)
def test_postgres_errors_are_translated_by_their_state(
    error: Exception, kind: type[StoreError]
) -> None:
    assert type(foreign.store_error(error)) is kind


def test_a_server_that_was_never_reached_was_sent_nothing() -> None:
    with pytest.raises(StoreLost) as lost:
        open_store("postgresql://nobody@127.0.0.1:1/x")
    assert lost.value.hint == foreign.UNREACHED
    assert "unknown" in foreign.store_error(psycopg.OperationalError("x")).hint


def test_a_database_locked_by_another_process_is_busy(url: str, tmp_path: Path) -> None:
    with opened(url, busy_timeout_s=0.1) as store:
        submitted = submit(store)
        other = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match="locked") as busy:
            submit(store)
        assert busy.value.exit_code == 75
        with store.read() as session:
            assert queries.last(session) == submitted
        other.close()
        assert submit(store) > submitted


def test_a_thread_that_writes_for_too_long_makes_the_others_busy(url: str) -> None:
    with opened(url, busy_timeout_s=0.1) as store, store.write():
        errors: list[BaseException] = []

        def write() -> None:
            try:
                submit(store)
            except StoreError as error:
                errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(30)
    assert [type(error) for error in errors] == [StoreBusy]


def test_a_full_database_refuses_and_stays_whole(url: str) -> None:
    with opened(url) as store:
        first = submit(store)
        with store.write() as session:
            pages = session.scalar(text("PRAGMA page_count"))
            session.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
        with pytest.raises(StoreFull) as full:
            submit(store, *(new_step(str(number)) for number in range(2000)))
        assert "make room" in full.value.hint
        with store.read() as session:
            assert queries.last(session) == first
        assert store.faults() == ()


def test_a_file_that_may_not_grow_refuses_and_stays_whole(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        first = submit(store)
        size = (tmp_path / "store.sqlite-wal").stat().st_size
        with files_of_at_most(size + 8192), pytest.raises(StoreError):
            submit(store, *(new_step(str(number)) for number in range(2000)))
        second = submit(store)
        with store.read() as session:
            assert queries.live_workflows(session) == [first, second]
        assert store.faults() == ()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_text("not a database " * 999)
    with pytest.raises(StoreError, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/store.sqlite")


def test_a_store_without_tables_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="version None") as old:
        open_store(f"sqlite:///{tmp_path}/new.sqlite")
    assert "scsched db upgrade" in old.value.hint


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "mysql://x/y", "/var/lib/scsched", "sqlite:////no/such/folder/x"]
)
def test_an_unusable_url_is_told(url: str) -> None:
    with pytest.raises(ConfigError, match="database"):
        open_store(url)


def test_the_file_is_its_owners_alone(url: str, tmp_path: Path) -> None:
    with opened(url) as store:
        submit(store)
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o600}


def test_sqlite_waits_for_the_disk(url: str) -> None:
    with opened(url) as store:
        with store.write() as session:
            assert session.scalar(text("PRAGMA synchronous")) == 2
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert session.scalar(text("PRAGMA foreign_keys")) == 1
        with store.read() as session:
            assert session.scalar(text("PRAGMA query_only")) == 1


def test_a_path_with_odd_characters_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "it's 50% #1 é"
    folder.mkdir()
    url = URL.create("sqlite", database=f"{folder}/a b.sqlite").render_as_string()
    assert migrate.upgrade(url) == migrate.head()
    with opened(url) as store:
        submit(store)
    assert (folder / "a b.sqlite").exists()


@pytest.mark.skipif(bool(postgres.missing()), reason=postgres.missing())
def test_a_server_that_was_killed_is_lost_and_found_again() -> None:
    with postgres.cluster() as server:
        url = server.database()
        migrate.upgrade(url)
        with opened(url) as store:
            first = submit(store)
            lock = store.leader_lock()
            with pytest.raises(StoreLost), store.write() as session:
                write_after(session, server.kill)
            with pytest.raises(StoreLost):
                check_for(20.0, lock)
            with pytest.raises(StoreLost):
                submit(store)
            server.start()
            with store.read() as session:
                assert queries.last(session) == first
            assert submit(store) > first
            with store.leader_lock() as again:
                again.check()


def check_for(seconds: float, lock: LeaderLock) -> None:
    """Until it is lost: the server's own processes outlive it for a moment, and still answer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lock.check()


def write_after(session: Session, trouble: Callable[[], None]) -> None:
    """Ignore the loss, as a careless caller may: the end of the block tells it again."""
    trouble()
    with suppress(StoreLost):
        session.execute(text("SELECT pg_sleep(20)"))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
