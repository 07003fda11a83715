"""Databases whose writer is gone, with its locks and its half-written change left behind."""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from scsched.scheduler.driver import keeper_files as files


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "it's a run #1?.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (n)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
        db.commit()
    return path


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield


def rows(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database, timeout=0)) as db:
        return int(db.execute("SELECT count(*) FROM t WHERE n >= 0").fetchone()[0])


def half_written(database: Path) -> None:
    """What a process leaves that is killed in mid-change: new pages, and a journal of the old."""
    left = database.parent / "left"
    left.mkdir()
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA cache_size = 1")  # so that pages reach the disk before the commit
        db.execute("UPDATE t SET n = -1")
        for part in database.parent.glob(f"{database.name}*"):
            shutil.copy(part, left / part.name)
        db.rollback()
    for part in left.iterdir():
        shutil.copy(part, database.parent / part.name)


def test_a_copy_is_read_whoever_holds_a_lock(database: Path) -> None:
    with locked(database), files.aside(database) as copy:
        assert rows(copy) == 5000
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            rows(database)
    assert not copy.parent.exists()


def test_what_was_half_written_is_undone_in_the_copy_alone(database: Path) -> None:
    half_written(database)
    before = {part.name: part.read_bytes() for part in database.parent.glob("*.db*")}
    assert len(before) == 2
    with files.aside(database) as copy:
        assert rows(copy) == 5000
    shutil.copy(database, database.with_name("alone"))
    assert rows(database.with_name("alone")) < 5000, "nothing was half written"
    assert {part.name: part.read_bytes() for part in database.parent.glob("*.db*")} == before


def test_a_database_that_is_being_written_is_refused(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copyfileobj

    def while_it_grows(old: IO[bytes], new: IO[bytes]) -> None:
        copied(old, new)
        with database.open("ab") as stream:
            stream.write(bytes(100))

    monkeypatch.setattr(shutil, "copyfileobj", while_it_grows)
    with pytest.raises(OSError, match="being written"), files.aside(database):
        pass


def test_a_copy_takes_the_place_of_one_that_is_locked_and_half_written(
    database: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.db"
    shutil.copy(database, target)
    half_written(target)
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.execute("DELETE FROM t WHERE n > 9")
        db.commit()
    files.replace_by_copy(database, target)
    assert rows(target) == 10
    assert not target.with_name("target.db-journal").exists()
    assert not target.with_name("target.db.new").exists()
