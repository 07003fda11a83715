"""The border where errors of SQLite and Postgres become errors of scsched, by two tables."""

import sqlite3
from collections.abc import Mapping

from sqlalchemy import Engine, ExceptionContext, event

from scsched.steps.errors import StoreBusy, StoreError, StoreFull, StoreLost

SQLITE: Mapping[int, type[StoreError]] = {
    5: StoreBusy,  # SQLITE_BUSY
    6: StoreBusy,  # SQLITE_LOCKED
    10: StoreLost,  # SQLITE_IOERR: a failed fsync included, after which nothing is certain
    13: StoreFull,  # SQLITE_FULL
}
"""Primary result codes, https://sqlite.org/rescode.html. What is not here is a StoreError."""

POSTGRES: Mapping[str, type[StoreError]] = {
    "08": StoreLost,  # connection exception
    "40": StoreBusy,  # serialization failure, deadlock
    "53": StoreBusy,  # insufficient resources: too many connections, out of memory
    "53100": StoreFull,  # disk full
    "55P03": StoreBusy,  # lock not available
    "57014": StoreBusy,  # query cancelled: our statement_timeout
    "57P": StoreLost,  # shut down, crashed, or cannot connect now
    "58030": StoreFull,  # I/O error, as of a file that may not grow
}
"""SQLSTATEs or their first characters; the longest match holds. Appendix A of the manual."""

HINTS: Mapping[type[StoreError], str] = {
    StoreBusy: "another process holds the database; repeat in a moment",
    StoreFull: "nothing was written; make room on the database's disk, then repeat",
    StoreLost: "whether the last change was kept is unknown; read again before repeating it",
}


UNREACHED = "nothing was sent to it; start the server, or correct database in the configuration"
"""Instead of the hint of StoreLost where there was no connection yet."""


def translate(engine: Engine) -> None:
    """Make every database error of `engine` one of ours."""

    @event.listens_for(engine, "handle_error")
    def _mapped(context: ExceptionContext) -> StoreError | None:
        error = context.original_exception
        foreign = context.sqlalchemy_exception is not None
        return store_error(error, connected=context.connection is not None) if foreign else None


def store_error(error: BaseException, *, connected: bool = True) -> StoreError:
    """The same trouble, as what the caller can do about it.

    :param connected: there was a connection, on which something may have been sent.
    """
    kind = _kind(error)
    first_line = str(error).strip().splitlines()[:1]
    said = first_line[0] if first_line else type(error).__name__
    lost_before = kind is StoreLost and not connected
    return kind(f"database: {said}", hint=UNREACHED if lost_before else HINTS.get(kind, ""))


def _kind(error: BaseException) -> type[StoreError]:
    if isinstance(error, sqlite3.Error):
        return SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, StoreError)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        known = (POSTGRES[state[:n]] for n in (5, 3, 2) if state[:n] in POSTGRES)
        return next(known, StoreError)
    # psycopg gives no SQLSTATE when the server never answered or the socket broke.
    return StoreLost if type(error).__name__ == "OperationalError" else StoreError
