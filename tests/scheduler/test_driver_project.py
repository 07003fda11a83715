"""A workflow's Scipion project, as its driver makes it."""

import asyncio
from pathlib import Path

import pytest

from scsched.scheduler.driver.keeper import KeeperError
from scsched.scheduler.driver.project import Project
from scsched.scheduler.protocol import Assignment


def test_a_folder_that_scipion_cannot_use_is_a_problem_that_is_told(tmp_path: Path) -> None:
    """A step that waits for the project would wait for ever."""
    assignment = Assignment(
        workflow=1,
        name="betagal",
        document="[]",
        project=str(tmp_path / "p"),
        scipion_python="/opt/scipion/bin/python",
        relion_bin="/usr/bin",
        children={},
        deployment="d",
    )
    project = Project(assignment, tmp_path / "$HOME")
    asyncio.run(project.make())
    assert "Scipion cannot use a folder with $" in project.problem
    with pytest.raises(KeeperError, match="could not be made"):
        asyncio.run(project.wait())
