"""What a running protocol shows of itself: progress, growth, and at its end how far it came."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsched.scheduler.driver.keeper import Finished, Prepared
from scsched.steps import checkpoint, lineage, outputs
from scsched.steps.lineage import Attempt, Lineage
from scsched.steps.progress import Progress, Reader

TAIL_BYTES = 8192
TAIL_LINES = 20
_STATUS = re.compile(r"returned non-zero exit status (\d{1,3})")
"""As in `subprocess.CalledProcessError`, which Scipion passes on."""
_TRACEBACK = "Traceback (most recent call last):"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a run. `progress` is None for protocols that have no iterations."""

    grew: bool
    progress: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Iterations:
    """How far one attempt came."""

    resumed_from: int | None = None
    done: int = 0
    lost: int = 0


class Watcher:
    """Looks at one run every second or so; reads only what is new."""

    def __init__(self, prepared: Prepared, attempt: int) -> None:
        self._prepared = prepared
        self._attempt = attempt
        self._reader = Reader(prepared.stdout, project=prepared.cwd, base=base_of(prepared))
        self._size: tuple[int, float] = (-1, 0.0)
        self._stamps = Stamps()
        self._lock = threading.Lock()

    def look(self) -> Look:
        """From any thread; two looks at once take turns."""
        with self._lock:
            size = _size(self._prepared)
            grew, self._size = size != self._size, size
            return Look(grew=grew, progress=self._progress())

    def certified(self, iteration: int) -> bool:
        """Whether the run could be gone on from that iteration, or from a later one.

        Reads the whole set of its files, once the report says that it was written.
        """
        base = base_of(self._prepared)
        record = _record(base, project=self._prepared.cwd)
        if record is None:
            return False
        found = checkpoint.newest(record.branches(base), project=self._prepared.cwd).newest
        return found is not None and found.iteration >= iteration

    def _progress(self) -> dict[str, Any] | None:
        """None also while all that is there is of an earlier attempt."""
        read = self._reader.read()
        told = _told(read)
        if told is not None:
            told |= self._stamps.of(read, time.time())
        last = _last_attempt(self._prepared)
        if told is None or last is None:
            return told
        if last.number < self._attempt:
            return None
        return {**told, "resumed_from": last.iteration if last.resumed_from else None}


class Stamps:
    """When things were so, for a broker that asks how long an iteration will take still.

    A report that says nothing else must be equal to the one before: the bar's tenths count.
    """

    def __init__(self) -> None:
        self._iteration: int | None = None
        self._began = 0.0
        self._bar: tuple[object, ...] = ()
        self._said: dict[str, Any] = {}

    def of(self, read: Progress, now: float) -> dict[str, Any]:
        """`began`: the iteration at work; `at`: what the bar said. Both in Unix seconds."""
        if read.iteration != self._iteration:
            self._iteration, self._began = read.iteration, now
        fraction = None if read.fraction is None else int(read.fraction * 10) / 10
        bar = (read.iteration, read.phase, fraction)
        if bar != self._bar:
            self._bar = bar
            self._said = {
                "began": round(self._began),
                "fraction": fraction,
                "phase_left_s": read.phase_left_s,
                "at": round(now),
            }
        return self._said


def base_of(prepared: Prepared) -> str:
    """The root of RELION's output files, relative to the project."""
    return str(prepared.job_dir.relative_to(prepared.cwd) / "extra" / "relion")


def iterations(prepared: Prepared, progress: Mapping[str, Any] | None, attempt: int) -> Iterations:
    """Iterations done and lost by this attempt, from the launcher's own record.

    An iteration is lost that was at work, or that was written and could not be certified. An
    attempt that ended before the launcher began has done nothing.
    """
    base = base_of(prepared)
    record = _record(base, project=prepared.cwd)
    last = record.last(base) if record else None
    if record is None or last is None or last.number < attempt:
        return Iterations()
    search = checkpoint.newest(record.branches(base), project=prepared.cwd)
    newest = search.newest.iteration if search.newest else last.iteration
    at_work = (progress or {}).get("iteration") or newest
    return Iterations(
        resumed_from=last.iteration if last.resumed_from else None,
        done=max(0, newest - last.iteration),
        lost=max(0, at_work - newest),
    )


def _record(base: str, *, project: Path) -> Lineage | None:
    """What the launcher has written on its node.

    This host's NFS client goes on believing that the file is missing, for up to a minute after it
    was asked for too early, unless its folder is read; see acdirmin, nfs(5).
    """
    folder = lineage.folder_of(base, project=project)
    with contextlib.suppress(OSError):
        os.listdir(folder)  # noqa: PTH208  # only to have the client ask
    return lineage.load(folder)


def _last_attempt(prepared: Prepared) -> Attempt | None:
    base = base_of(prepared)
    record = _record(base, project=prepared.cwd)
    return record.last(base) if record else None


def output_problem(prepared: Prepared, finished: Finished) -> str:
    """What is missing of the outputs of a protocol that ended with 0; empty: nothing."""
    if finished.status != "finished":
        return finished.error or f"Scipion says it is {finished.status}"
    folder = str(prepared.job_dir.relative_to(prepared.cwd))
    job = outputs.Job(folder=folder, project=prepared.cwd, rows=prepared.inputs.particles)
    return "; ".join(outputs.of_job(prepared.protocol, job))


def last_words(prepared: Prepared, result: Mapping[str, Any]) -> str:
    """Why the program failed, as it said itself: the end of its stderr, else of its stdout."""
    how = f"signal {result['signal']}" if result.get("signal") else f"exit {result['exit_code']}"
    words = _tail(prepared.stderr) or _tail(prepared.stdout)
    return "\n".join([how, *words])


def words_and(prepared: Prepared, error: str) -> str:
    """The end of the program's stderr, and then what Scipion says of its end.

    Where a program failed, how Scipion noticed (its own traceback) is of no use to anybody.
    """
    end = _TRACEBACK if _STATUS.search(error) else ""
    said = _plain(error).strip()
    return "\n".join([*(word for word in _tail(prepared.stderr, end) if word != said), said])


def exit_code_in(error: str, otherwise: int | None) -> int | None:
    """The exit code of the program that Scipion's message speaks of."""
    found = _STATUS.search(error)
    return int(found[1]) if found else otherwise


def _told(progress: Progress) -> dict[str, Any] | None:
    if progress.iteration is None and progress.resolution_a is None:
        return None
    return {
        "iteration": progress.iteration,
        "of": progress.of,
        "resolution_a": progress.resolution_a,
        "seconds_per_iteration": progress.seconds_per_iteration,
        "checkpoint": progress.finished_iteration,
        "phase": progress.phase,
        "classes": list(progress.classes),
    }


def _size(prepared: Prepared) -> tuple[int, float]:
    """Bytes and newest change of the logs and of the files in `extra`."""
    total, newest = 0, 0.0
    for folder in (prepared.job_dir / "logs", prepared.job_dir / "extra"):
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            total += status.st_size
            newest = max(newest, status.st_mtime)
    return total, newest


def _tail(path: Path, end: str = "") -> list[str]:
    """The last lines, those from the last `end` on left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    if end and end in text:
        text = text[: text.rindex(end)]
    lines = [line.rstrip() for line in _plain(text).replace("\r", "\n").splitlines()]
    return [line for line in lines if line][-TAIL_LINES:]


def _plain(text: str) -> str:
    """Without colours, and without the zero bytes of a log that a lost node left a hole in."""
    return _COLOUR.sub("", text.replace("\0", ""))
