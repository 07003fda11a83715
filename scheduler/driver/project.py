"""The Scipion project of a workflow, as its driver sees it."""

import asyncio
import getpass
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from scsched.scheduler import scipion_env
from scsched.scheduler.driver.keeper import (
    Finished,
    Inputs,
    Keeper,
    KeeperError,
    KeeperLost,
    Prepared,
)
from scsched.scheduler.protocol import Assignment
from scsched.steps.errors import ScschedError

T = TypeVar("T")
log = logging.getLogger("scsched.driver")
KEEPER_TRIES = 3
"""With a storage that does not answer these take a quarter of an hour, and nodes are paid for."""
PAUSE_S = 5.0


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
        """:raises KeeperLost: again and again: no fault of the step."""
        prepare = partial(self._there().prepare, self.ids[ref], attempt=attempt)
        return await self._repeated(partial(prepare, ranks=ranks, threads=threads, gpu=gpu))

    async def finish(self, ref: str, *, stopping: Callable[[], object]) -> Finished:
        """:param stopping: whether it is asked for in vain by now.

        :raises KeeperLost: as `prepare`.
        """
        return await self._repeated(partial(self._there().finish, self.ids[ref]), stopping)

    async def inputs(self, ref: str) -> Inputs:
        """What the step will read, as far as the steps before it have made it."""
        return await self._once(partial(self._there().inputs, self.ids[ref]))

    def children(self, ref: str) -> Sequence[str]:
        """The steps that read what this one makes."""
        return self._assignment.children.get(ref, ())

    async def fail(self, ref: str, message: str, *, aborted: bool) -> None:
        """:param aborted: a person stopped it."""
        await self._once(partial(self._there().fail, self.ids[ref], message, aborted=aborted))

    async def _once(self, call: Callable[[], T]) -> T:
        async with self._lock:
            return await asyncio.to_thread(call)

    async def _repeated(
        self, call: Callable[[], T], stopping: Callable[[], object] = lambda: False
    ) -> T:
        """A call after a keeper was lost starts another, which finds the project as it was."""
        for _ in range(KEEPER_TRIES - 1):
            try:
                return await self._once(call)
            except KeeperLost as exc:
                if stopping():
                    raise
                log.warning("%s; once more", exc)
            await asyncio.sleep(PAUSE_S)
        return await self._once(call)

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
