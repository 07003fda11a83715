"""A refinement under fire: one auto-refine run to which one test after the other does something."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scsched.cluster.processes import Process
from scsched.steps import checkpoint, lineage
from scsched.steps.checkpoint import Checkpoint
from scsched.steps.lineage import Lineage
from tests.e2e.census import Seen
from tests.e2e.site import STEP_S, Site, iteration_of, wait_until
from tests.e2e.workflows import boxes

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

STEP = "3"
LABEL = 'Refinement "A"; $(touch x) | `y` é'
PARTICLES = 160

Marks = Mapping[str, tuple[int, int, int]]
"""Inode, time of writing and size, by name."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The middle of an iteration."""

    workflow: int
    run: "schema.Run"
    iteration: int
    ranks: tuple[Seen, ...]

    @property
    def processes(self) -> frozenset[Process]:
        return frozenset(one.process for one in self.ranks)

    @property
    def token(self) -> str:
        (found,) = {one.run for one in self.ranks}
        return found

    @property
    def nodes(self) -> dict[str, str]:
        """Token by name of the nodes that have ranks."""
        return {one.node: one.node_token for one in self.ranks}


class Refinement:
    """Import, refinement, mask and post-processing; submitted anew when it has ended."""

    def __init__(self, site: Site, data: Path, folder: Path) -> None:
        self._site = site
        self._data = data
        self._folder = folder
        self._last = 0
        self.workflows: list[int] = []

    @property
    def workflow(self) -> int:
        return self.workflows[-1]

    @property
    def project(self) -> Path:
        return self._folder / f"it's a project {len(self.workflows)}"

    @property
    def job_dir(self) -> Path:
        (found,) = (self.project / "Runs").glob("*_ProtRelionRefine3D")
        return found

    @property
    def base(self) -> str:
        """The root of the files that Scipion expects."""
        return str(self.job_dir.relative_to(self.project) / "extra" / "relion")

    def document(self) -> str:
        return boxes.document(
            boxes.particles(self._data),
            boxes.reference(self._data),
            boxes.refinement(label=LABEL),
            boxes.mask(),
            boxes.post_processing(),
        )

    def middle(self) -> Moment:
        """The middle of an iteration that was not disturbed yet and that follows a checkpoint."""
        if not self._is_live():
            self._submit()
        found = wait_until(
            f"RELION works on an iteration after {self._last}",
            self._look,
            lambda one: one is None or isinstance(one, Moment),
            STEP_S,
        )
        if not isinstance(found, Moment):
            return self.middle()
        self._last = found.iteration
        return found

    def after(self, before: Moment) -> Moment:
        """The middle of an iteration of the next run."""
        found = wait_until(
            f"RELION works again after run {before.run['id']}",
            lambda: self._look(least=1),
            lambda one: isinstance(one, Moment) and one.run["id"] > before.run["id"],
            STEP_S,
        )
        assert isinstance(found, Moment)
        return found

    def finish(self) -> None:
        """Let it run to its end."""
        if not self.workflows:
            self.middle()
        self._site.wait_for_workflow(self.workflow, "COMPLETED")

    def ended(self, before: Moment) -> "schema.Run":
        """The run of that moment once it has ended."""
        return self._site.wait_for_run(before.workflow, STEP, before.run["id"])

    def lineage(self) -> Lineage:
        found = lineage.load(lineage.folder_of(self.base, project=self.project))
        assert found is not None, "the launcher has kept no record"
        return found

    def marks(self) -> Marks:
        """All files of iterations as they are on disk."""
        return {
            entry.name: (status.st_ino, status.st_mtime_ns, status.st_size)
            for entry in os.scandir(self.job_dir / "extra")
            if "_it" in entry.name and (status := entry.stat())
        }

    def resumed_from(self) -> Checkpoint:
        """The checkpoint that the newest attempt went on from."""
        attempt = self.lineage().last(self.base)
        assert attempt is not None
        assert attempt.resumed_from, "it began anew"
        return checkpoint.certify(attempt.resumed_from, project=self.project, particles=PARTICLES)

    def went_on_from_a_checkpoint(self, before: Marks) -> int:
        """Its iteration; nothing of it was written since `before`, when the former attempt died."""
        found = self.resumed_from()
        now = self.marks()
        for name in {Path(file).name for file in found.files}:
            assert now[name] == before[name], f"{name} was written again"
        assert found.iteration >= 1
        return found.iteration

    def _submit(self) -> None:
        self._last = 1
        self.workflows.append(0)
        self.workflows[-1] = self._site.submit(self.document(), project=self.project)

    def _is_live(self) -> bool:
        if not self.workflows:
            return False
        return self._site.step(self.workflow, STEP)["state"] not in ("COMPLETED", "FAILED")

    def _look(self, least: int | None = None) -> "Moment | str | None":
        """None: there is no such moment any more, it has ended."""
        step = self._site.step(self.workflow, STEP)
        if step["state"] == "COMPLETED":
            return None
        assert step["state"] not in ("FAILED", "CANCELLED"), step["last_end"]
        iteration = iteration_of(step)
        ranks = self._site.ranks(self.workflow)
        run = max(step["runs"], key=lambda one: one["attempt"], default=None)
        told = f"{step['state']}, iteration {iteration}, {len(ranks)} ranks"
        enough = iteration > (self._last if least is None else least)
        if run is None or step["state"] != "RUNNING" or not enough or len(ranks) != run["ranks"]:
            return told
        return Moment(self.workflow, run, iteration, tuple(ranks))
