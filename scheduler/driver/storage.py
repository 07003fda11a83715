"""The driver's side of a project's storage: is it well, and do the nodes see the same one?

    token       written once beside the project; a node that reads it has the same file system
    watch       of the driver itself, in a thread: free space, stalls, what the project takes
    check       of every node before its first work, which then watches on its own
    stalls      of driver and nodes, so that a run is not ended for what its storage did

The event loop never touches the storage: the beats and the Dask scheduler live there.
"""

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from scsched.cluster import mounts, storage, storage_watch
from scsched.cluster.storage_look import TOKEN, Found, Steps, Terms, Word, advice, word_of
from scsched.cluster.storage_watch import State, StorageWatch
from scsched.scheduler.driver.storage_rules import UNBEARABLE, Stalls, Verdict, judge, problem_of
from scsched.scheduler.driver.usage import Usage
from scsched.scheduler.protocol import StorageReport

log = logging.getLogger("scsched.driver")
CHECK_S = 30.0
_SPARE_S = 15.0
"""Beyond a check's own time limit, for its answer to come."""
_NEWS_S = 30.0
"""How often the free space is told anew: a beat that says something new costs a tick."""
_STEP_BYTES = 100 * 2**20
_OLD_S = 3600.0


class Nodes(Protocol):
    """What is used of `DaskCluster`."""

    def nodes_up(self) -> dict[str, str]: ...

    async def run_on(
        self,
        nodes: Sequence[str],
        function: Callable[..., object],
        *args: object,
        timeout_s: float = 30.0,
    ) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the site asks of the storage of projects."""

    mounts: tuple[str, ...] = ()
    """Where storage is mounted, on all machines alike."""
    min_free_gib: float = 0.0
    floor_mib_per_s: float = 0.0


class ProjectStorage:
    """One project's storage. All methods belong to the event loop's thread and none waits there.

    `folder` is ours, on the project's storage, at the same path on all nodes.
    """

    def __init__(
        self,
        project: Path,
        folder: Path,
        wanted: Wanted,
        nodes: Nodes,
        *,
        period_s: float = storage_watch.PERIOD_S,
        stall_s: float = storage_watch.STALL_S,
    ) -> None:
        self.folder = folder
        self._wanted = wanted
        self._nodes = nodes
        self._times = (period_s, stall_s)
        inside = folder.is_relative_to(project)
        self._usage = Usage((project,) if inside else (project, folder))
        self._watch = StorageWatch(
            storage_watch.probe_of(self.folder, "driver"),
            period_s=period_s,
            stall_s=stall_s,
            spare=self._usage.advance,
        )
        self._stalls = Stalls()
        self._passed: dict[str, str] = {}
        self._token = ""
        self._told: tuple[float, StorageReport] | None = None
        self._words: dict[str, str] = {}
        self._watching = False

    async def start(self) -> str:
        """Begin to watch and write the token; why it could not be written, empty: it is there.

        May be repeated until it is.
        """
        if self._token:
            return ""
        try:
            self._token = await storage.bounded(str(self.folder), self._write_token, CHECK_S)
        except storage.Stuck as exc:
            return f"stalled: {exc}; {advice(Word.STALLED)}"
        except OSError as exc:
            return f"{word_of(exc)}: {self.folder}: {exc.strerror}; {advice(word_of(exc))}"
        finally:
            if not self._watching:
                self._watching = True
                self._watch.start()
        return ""

    def close(self) -> None:
        self._watch.stop()

    def hear(self, event: Mapping[str, object]) -> None:
        """An event of the topic `storage_watch.TOPIC`."""
        node, word = str(event.get("node", "")), str(event.get("word", ""))
        for_s = event.get("for_s")
        stalled = word == Word.STALLED
        self._stalls.tell(
            node,
            stalled=stalled,
            for_s=float(for_s) if isinstance(for_s, int | float) else 0.0,
            now=time.monotonic(),
        )
        if self._words.get(node, str(Word.OK)) != word:
            self._words[node] = word
            log.warning("node %s: storage is %s: %s", node, word, event.get("detail", ""))

    def stalled_s(self, since: float, nodes: Sequence[str]) -> float:
        """Seconds since `since` (time.monotonic) in which driver or nodes waited for the storage.

        Not to be counted as silence of a run on these nodes.
        """
        self._own()
        return self._stalls.seconds(since, time.monotonic(), ["", *nodes])

    def report(self) -> StorageReport:
        """For the beat. Sizes change in steps, and rarely: each change is news to the broker."""
        problem = problem_of(self._own(), self._wanted.min_free_gib)
        if problem.startswith(Word.FULL):
            self._usage.want()
        now = time.monotonic()
        told_at, told = self._told or (now, self._fresh_report(problem))
        if now - told_at > _NEWS_S or _word_in(problem) != _word_in(told.problem):
            told_at, told = now, self._fresh_report(problem)
        self._told = told_at, told
        return told

    async def check(self, nodes: Sequence[str]) -> Verdict:
        """Check those of `nodes` that have not passed since they came up; they go on watching."""
        problem = await self.start() or problem_of(self._own(), self._wanted.min_free_gib)
        if problem:
            return Verdict(held=f"storage {self.folder}: {problem}")
        up = self._nodes.nodes_up()
        self._passed = {node: at for node, at in self._passed.items() if up.get(node) == at}
        new = [node for node in nodes if node in up and node not in self._passed]
        found = await self._checks(new)
        good = [one.node for one in found if one.word is Word.OK]
        self._passed |= {node: up[node] for node in good}
        await self._have_watched(good)
        return judge(found, self._own().word)

    async def blame(self, nodes: Sequence[str]) -> Verdict:
        """What is wrong with it that no program on `nodes` bears, after one has failed there.

        Nodes that have passed once may have lost it since. A full storage is not meant: whoever
        writes there is told so, and trying again does not help.
        """
        own = self._own()
        if own.word in UNBEARABLE:
            return Verdict(held=f"storage {self.folder}: {problem_of(own, 0.0)}")
        if not self._token:
            return Verdict()
        up = self._nodes.nodes_up()
        found = await self._checks([node for node in nodes if node in up])
        return judge((one for one in found if one.word in UNBEARABLE), own.word)

    async def _checks(self, nodes: Sequence[str]) -> list[Found]:
        return await asyncio.gather(*(self._check(node) for node in nodes))

    async def _check(self, node: str) -> Found:
        terms = asdict(self._terms())
        try:
            answers = await self._nodes.run_on(
                [node], storage.check, terms, timeout_s=CHECK_S + _SPARE_S
            )
        except TimeoutError:
            return _failed(node, "its check did not answer", Word.STALLED)
        if node not in answers:  # it has left: that is told elsewhere
            return Found(node=node)
        answer = answers[node]
        if not isinstance(answer, dict):
            return _failed(node, f"its check failed: {answer}", Word.BROKEN)
        found = storage.from_json(answer)
        log.info(
            "node %s: storage %s on %s: %s, %.0f MiB/s",
            *(node, self.folder, found.on, found.problem or "ok", found.mib_per_s),
        )
        return found

    async def _have_watched(self, nodes: Sequence[str]) -> None:
        with suppress(TimeoutError):  # it is dealt with when it leaves
            await self._nodes.run_on(
                nodes, storage_watch.watch, str(self.folder), *self._times, timeout_s=_SPARE_S
            )

    def _terms(self) -> Terms:
        """A mount is asked of nodes where this host has one too."""
        here = mounts.of(str(self.folder)).point
        return Terms(
            folder=str(self.folder),
            token=self._token,
            mount=here if here in self._wanted.mounts else "",
            min_free_gib=self._wanted.min_free_gib,
            floor_mib_per_s=self._wanted.floor_mib_per_s,
            timeout_s=CHECK_S,
        )

    def _own(self) -> State:
        """The driver's own view; a stall of it is noted."""
        state = self._watch.state()
        stalled = state.word is Word.STALLED
        self._stalls.tell("", stalled=stalled, for_s=state.for_s, now=time.monotonic())
        return state

    def _fresh_report(self, problem: str) -> StorageReport:
        state = self._watch.state()
        return StorageReport(
            path=mounts.of(str(self.folder)).point,
            problem=problem,
            free=_rounded(state.free),
            total=state.total,
            used_by_project=_rounded(self._usage.bytes),
        )

    def _write_token(self, steps: Steps) -> str:
        """An earlier driver's holds: nodes may have read it. Made whole by a hard link."""
        steps.at = "writing the token"
        self.folder.mkdir(parents=True, exist_ok=True)
        _sweep(self.folder)
        path = self.folder / TOKEN
        part = self.folder / f".{TOKEN}.{secrets.token_hex(8)}.part"
        try:
            with part.open("x", encoding="ascii") as file:
                file.write(f"{secrets.token_hex(16)}\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(part)
            return path.read_text(encoding="ascii").strip()
        finally:
            part.unlink(missing_ok=True)


def _failed(node: str, what: str, word: Word) -> Found:
    return Found(node=node, word=word, problem=f"node {node}: {what}; look at its log")


def _word_in(problem: str) -> str:
    """The numbers of a sentence may wait."""
    return problem.partition(" ")[0].rstrip(":")


def _rounded(size: int | None) -> int | None:
    return None if size is None else size // _STEP_BYTES * _STEP_BYTES


def _sweep(folder: Path) -> None:
    """Remove what checks and watches of nodes that died have left."""
    old = time.time() - _OLD_S
    for pattern in (".check-*/*", ".check-*", ".watch-*", f".{TOKEN}.*.part"):
        for path in folder.glob(pattern):
            with suppress(OSError):
                if path.lstat().st_mtime < old:
                    path.rmdir() if path.is_dir() else path.unlink()
