"""What the keeper looks at on disk, with sets and maps made by hand."""

import contextlib
import os
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest

from scsched.scheduler.driver import keeper_checks as checks

OWN = "Runs/000002_X/"


def write_set(path: Path, images: list[tuple[int, str]], **more: str) -> Path:
    """A set as pyworkflow lays it out; `more` names further columns by their property."""
    columns = {"_index": "c01", "_filename": "c02", **more}
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE Classes (label_property TEXT, column_name TEXT)")
        db.executemany("INSERT INTO Classes VALUES (?, ?)", columns.items())
        db.execute("CREATE TABLE Objects (id INTEGER PRIMARY KEY, c01, c02, c03)")
        db.executemany("INSERT INTO Objects (c01, c02, c03) VALUES (?, ?, 5)", images)
        db.commit()
    return path


def write_map(path: Path, images: int = 3, *, order: str = "<", short: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f"{order}4i", 4, 4, images, 2).ljust(1024, b"\0")
    path.write_bytes((header + bytes(4 * 4 * images * 4))[: -short or None])
    return str(path)


@pytest.fixture(autouse=True)
def _in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_whole_map_passes(order: str) -> None:
    assert checks.image_problem(write_map(Path("a.mrcs"), order=order), 3) == ""
    assert checks.image_problem("a.mrcs:mrcs", 3) == ""


def test_every_way_a_map_is_not_whole() -> None:
    write_map(Path("short.mrc"), short=1)
    Path("header.mrc").write_bytes(b"x" * 100)
    Path("zero.mrc").write_bytes(bytes(2000))
    Path("empty.tif").touch()
    assert "missing" in checks.image_problem("gone.mrc")
    assert "1215 of 1216 bytes" in checks.image_problem("short.mrc")
    assert "cut off in its header" in checks.image_problem("header.mrc")
    assert "0 images" in checks.image_problem("zero.mrc")
    assert "empty" in checks.image_problem("empty.tif")
    assert "has 3 images, not 4" in checks.image_problem(write_map(Path("b.mrcs")), 4)


def test_the_size_is_that_of_the_opened_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stat before may be an NFS client's memory of the file while it was being written."""
    image = write_map(Path("a.mrcs"))
    Path("earlier.mrcs").write_bytes(b"x" * 1100)
    earlier, real = Path("earlier.mrcs").stat(), os.stat

    def remembered(path: Any, **how: Any) -> os.stat_result:
        return earlier if str(path) == image else real(path, **how)

    monkeypatch.setattr(os, "stat", remembered)
    assert Path(image).stat().st_size == 1100
    assert checks.image_problem(image, 3) == ""


def test_a_lock_of_a_node_that_vanished_is_not_waited_for() -> None:
    path = write_set(Path("set.sqlite"), [(1, "elsewhere/mic.mrc")])
    with contextlib.closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert checks.set_problem(path, 1, OWN) == ""


def test_a_set_is_counted() -> None:
    image = write_map(Path(OWN, "a.mrcs"))
    path = write_set(Path("set.sqlite"), [(1, image), (3, image)])
    assert checks.set_problem(path, 2, OWN) == ""
    assert "2 items, not 3" in checks.set_problem(path, 3, OWN)
    assert "empty set" in checks.set_problem(path, 0, OWN)
    assert "missing" in checks.set_problem(Path("none.sqlite"), 2, OWN)


def test_a_sets_own_images_are_looked_at_and_others_are_not() -> None:
    image = write_map(Path(OWN, "a.mrcs"))
    path = write_set(Path("set.sqlite"), [(9, image), (1, "elsewhere/mic.mrc")])
    assert "has 3 images, not 9" in checks.set_problem(path, 2, OWN)
    other = write_set(Path("other.sqlite"), [(1, "elsewhere/mic.mrc")])
    assert checks.set_problem(other, 1, OWN) == ""


def test_members_of_classes_are_summed() -> None:
    path = write_set(Path("classes.sqlite"), [(1, "a.mrcs"), (2, "a.mrcs")], _size="c03")
    assert checks.members(path) == 10
    assert checks.members(write_set(Path("plain.sqlite"), [(1, "a.mrcs")])) is None


def test_the_iteration_is_read_from_the_images() -> None:
    images = [(1, f"{OWN}extra/relion_it{k:03d}_classes.mrcs") for k in (5, 5, 25)]
    assert checks.iterations(write_set(Path("set.sqlite"), images)) == {5, 25}
    assert checks.iterations(write_set(Path("none.sqlite"), [(1, "a.mrcs")])) == set()
