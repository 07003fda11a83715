"""A keeper that was lost is started again, and asked the same."""

import asyncio
from pathlib import Path

import pytest

from scsched.scheduler.driver import project as projects
from scsched.scheduler.driver.keeper import (
    Keeper,
    KeeperLost,
)
from scsched.scheduler.driver.project import Project
from scsched.scheduler.protocol import Assignment
from tests.scheduler.played_run import FINISHED

SOMETIMES = """#!/bin/sh
echo start >> "$0.starts"
[ "$(wc -l < "$0.starts")" -gt {dies} ] || exit 1
read hello; echo '{{"id": '$(expr "$hello" : '{{"id": \\([0-9]*\\)')', "ok": true, "result": {{}}}}'
read fin; echo '{{"id": '$(expr "$fin" : '{{"id": \\([0-9]*\\)')', "ok": true, "result": {{\
"status": "finished", "error": "", "problems": [], "outputs": [], "summary": "16 particles"}}}}'
cat
"""
"""A keeper that dies at its first starts, and finishes whatever it is then asked."""


def project_with_keeper(folder: Path, *, dies: int) -> Project:
    python = folder / "python"
    python.write_text(SOMETIMES.format(dies=dies))
    python.chmod(0o755)
    assignment = Assignment(
        workflow=1, name="w", document="[]", project=str(folder / "p"), scipion_python=str(python),
        relion_bin="/", children={}, deployment="d",
    )  # fmt: skip
    project = Project(assignment, folder)
    keeper = project._keeper = Keeper(python, {})
    keeper.open(folder / "p")
    project.ids = {"1": 2}
    return project


@pytest.mark.parametrize("dies", [0, 1, 2])
def test_a_call_whose_keeper_was_lost_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    monkeypatch.setattr(projects, "PAUSE_S", 0.0)

    async def scenario() -> None:
        project = project_with_keeper(tmp_path, dies=dies)
        assert await project.finish("1", stopping=lambda: False) == FINISHED
        await project.close()

    asyncio.run(scenario())


def test_a_keeper_is_not_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "PAUSE_S", 0.0)

    async def scenario() -> None:
        with pytest.raises(KeeperLost):
            await project_with_keeper(tmp_path, dies=99).finish("1", stopping=lambda: False)

    asyncio.run(scenario())
    assert len((tmp_path / "python.starts").read_text().split()) == projects.KEEPER_TRIES


def test_a_run_that_is_to_stop_does_not_wait_for_another_keeper(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(KeeperLost):
            await project_with_keeper(tmp_path, dies=99).finish("1", stopping=lambda: "cancelled")

    asyncio.run(scenario())
    assert len((tmp_path / "python.starts").read_text().split()) == 1
