"""The Scipion project of a workflow, as its driver sees it."""

import asyncio
import getpass
import logging
from collections.abc import Sequence
from pathlib import Path

from scsched.scheduler import scipion_env
from scsched.scheduler.driver.keeper import Finished, Inputs, Keeper, KeeperError, Prepared
from scsched.scheduler.protocol import Assignment
from scsched.steps.errors import ScschedError

log = logging.getLogger("scsched.driver")


class Project:
    """Made once; every write to it goes through one keeper process, one call at a time."""

    def __init__(self, assignment: Assignment, work_dir: Path) -> None:
        self._assignment = assignment
        self._work_dir = work_dir
        self._made = asyncio.Event()
        self._lock = asyncio.Lock()
        self._keeper: Keeper | None = None
        self.ids: dict[str, int] = {}
        given = assignment.project
        self.path = Path(given) if given else self._default(assignment.name)
        self.problem = ""
        self.environment: dict[str, str] = {}

    @property
    def ready(self) -> bool:
        return self._made.is_set() and not self.problem

    async def make(self) -> None:
        """Create the project, or open it if an earlier driver did."""
        try:
            await asyncio.to_thread(self._make)
        except (ScschedError, OSError) as exc:
            self.problem = f"the Scipion project {self.path} could not be made: {exc}"
            log.error("%s", self.problem)
        self._made.set()

    @property
    def shared_dir(self) -> Path:
        """Ours, as every node sees it: the driver's own folder, or one beside the project."""
        if not self._assignment.remote:
            return self._work_dir
        deployment, workflow = self._assignment.deployment, self._assignment.workflow
        return self.path.parent / ".scsched" / f"{deployment[:8]}-{workflow}"

    def _make(self) -> None:
        assignment = self._assignment
        python = Path(assignment.scipion_python)
        self.shared_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.environment = scipion_env.prepare(
            self.shared_dir / "scipion",
            scipion_python=python,
            relion_bin=Path(assignment.relion_bin),
        )
        self._keeper = Keeper(python, self.environment, log=self._work_dir / "keeper.log")
        if assignment.project:
            self._create(Path(assignment.project), shared=True)
            return
        try:
            self._create(self._default(assignment.name), shared=False)
        except KeeperError as exc:
            if exc.kind != "foreign":
                raise
            other = f"{assignment.name}-{assignment.workflow}"
            self._create(self._default(other), shared=False)

    def _create(self, path: Path, *, shared: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.ids = self._there().create(
            project=path,
            name=self._assignment.name,
            workflow_json=self._assignment.document,
            owner=f"{self._assignment.deployment}/{self._assignment.workflow}",
            shared=shared,
        )
        self.path = path

    async def wait(self) -> None:
        await self._made.wait()
        if self.problem:
            raise KeeperError(self.problem)

    async def prepare(
        self, ref: str, *, attempt: int, ranks: int, threads: int, gpu: bool
    ) -> Prepared:
        async with self._lock:
            return await asyncio.to_thread(
                self._there().prepare,
                self.ids[ref],
                attempt=attempt,
                ranks=ranks,
                threads=threads,
                gpu=gpu,
            )

    async def finish(self, ref: str) -> Finished:
        async with self._lock:
            return await asyncio.to_thread(self._there().finish, self.ids[ref])

    async def inputs(self, ref: str) -> Inputs:
        """What the step will read, as far as the steps before it have made it."""
        async with self._lock:
            return await asyncio.to_thread(self._there().inputs, self.ids[ref])

    def children(self, ref: str) -> Sequence[str]:
        """The steps that read what this one makes."""
        return self._assignment.children.get(ref, ())

    async def fail(self, ref: str, message: str, *, aborted: bool) -> None:
        """:param aborted: a person stopped it."""
        async with self._lock:
            await asyncio.to_thread(self._there().fail, self.ids[ref], message, aborted=aborted)

    async def close(self) -> None:
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close)

    def _default(self, name: str) -> Path:
        """Where Scipion itself would put it; under shared storage if home is not on it."""
        usual = Path.home() / "ScipionUserData" / "projects" / name
        roots = [Path(path) for path in self._assignment.storages]
        if not roots or any(usual.is_relative_to(root) for root in roots):
            return usual
        return roots[0] / getpass.getuser() / "ScipionUserData" / "projects" / name

    def _there(self) -> Keeper:
        if self._keeper is None:
            raise KeeperError("the project is not there yet")
        return self._keeper
