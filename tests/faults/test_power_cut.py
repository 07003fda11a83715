"""A power cut at any moment loses nothing that was acknowledged."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsched.db import migrate
from tests.faults import power_cut

pytestmark = pytest.mark.skipif(bool(power_cut.missing()), reason=power_cut.missing())


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place: thousands of databases are written."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as made:
        yield Path(made)


def cut(folder: Path, *, commits: int, per_cut: int, synchronous: str) -> power_cut.Found:
    database = folder / "store.sqlite"
    migrate.upgrade(f"sqlite:///{database}")
    before = folder / "before" / database.name
    before.parent.mkdir()
    shutil.copy(database, before)
    calls = power_cut.record(database, commits, synchronous)
    assert sum(call.kind == "ack" for call in calls) == commits
    return power_cut.replay(before, calls, folder / "after", per_cut=per_cut)


@pytest.mark.parametrize(
    ("commits", "per_cut"), [(25, 1), pytest.param(120, 5, marks=pytest.mark.campaign)]
)
def test_row_8_a_power_cut_loses_no_acknowledged_commit(
    folder: Path, commits: int, per_cut: int
) -> None:
    found = cut(folder, commits=commits, per_cut=per_cut, synchronous="as is")
    print(found)
    assert found.states >= commits * 3 * per_cut
    assert (found.corrupt, found.with_loss, found.invented) == (0, 0, 0)


def test_the_replay_sees_the_loss_of_a_store_that_does_not_wait_for_the_disk(folder: Path) -> None:
    found = cut(folder, commits=25, per_cut=1, synchronous="NORMAL")
    assert found.corrupt == 0
    assert found.with_loss > 0
