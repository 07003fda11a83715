"""Renames whose answer was lost, and names of files that are being made."""

import os
from pathlib import Path

import pytest

from scsched.steps import files, lineage, publish
from scsched.steps.checkpoint import Branch
from scsched.steps.lineage import Lineage

BASE = "Runs/000002_Class/extra/relion"
REPLACE = Path.replace


def done_and_refused(path: Path, target: Path) -> Path:
    """The client's second request, after a restart of the server that has done the first."""
    REPLACE(path, target)
    return REPLACE(path, target)


def refused(path: Path, target: Path) -> Path:
    raise FileNotFoundError(2, "No such file or directory", str(path))


@pytest.fixture
def answers_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", done_and_refused)


@pytest.mark.usefixtures("answers_lost")
def test_a_rename_that_was_done_counts_as_done(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    files.move(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"


@pytest.mark.parametrize("target", ["", "another file"])
def test_a_rename_that_was_not_done_is_an_error(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("new")
    if target:
        (tmp_path / "b").write_text(target)
    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "a", tmp_path / "b")


def test_a_file_that_is_not_there_cannot_be_moved(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("of another")
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "a", tmp_path / "b")


@pytest.mark.usefixtures("answers_lost")
def test_a_record_is_written_though_the_answer_was_lost(tmp_path: Path) -> None:
    lineage.save(Lineage(), tmp_path)
    lineage.save(Lineage(), tmp_path)
    assert lineage.load(tmp_path) == Lineage()
    assert [path.name for path in tmp_path.iterdir()] == ["lineage.json"]


@pytest.mark.usefixtures("answers_lost")
def test_outputs_are_published_and_set_aside_though_the_answer_was_lost(tmp_path: Path) -> None:
    folder = (tmp_path / BASE).parent
    folder.mkdir(parents=True)
    (folder / "relion_x1_it001_data.star").write_text("data")
    (folder / "relion_a2_it001_model.star").write_text("model")
    publish.publish_iteration(f"{BASE}_x1", BASE, (1,), project=tmp_path)
    publish.publish(BASE, [Branch(f"{BASE}_a2", after=0), Branch(BASE, 1)], project=tmp_path)
    names = ["relion_a2_it001_model.star", "relion_it001_data.star", "relion_it001_model.star"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert list(publish.set_aside(BASE, folder / "aside", project=tmp_path)) == names


def test_two_writers_with_one_process_id_do_not_meet(tmp_path: Path) -> None:
    """Process ids repeat from host to host."""
    path = tmp_path / "f"

    def while_another_writes(part: Path) -> None:
        part.write_text("mine")
        files.write_whole(path, lambda other: other.write_text("the other's"))

    files.write_whole(path, while_another_writes)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_of_a_part_says_whose_it_is(tmp_path: Path) -> None:
    seen: list[str] = []

    def write(part: Path) -> None:
        seen.append(part.name)
        part.touch()

    files.write_whole(tmp_path / "f", write)
    assert seen[0].startswith(f".f.{os.uname().nodename[:40]}.{os.getpid()}.")
