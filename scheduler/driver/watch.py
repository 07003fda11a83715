"""What a running protocol shows of itself: progress, growth, and at its end how far it came."""

import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scsched.scheduler.driver.keeper import Finished, Prepared
from scsched.steps import checkpoint, lineage, outputs
from scsched.steps.lineage import Attempt
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
        self._lock = threading.Lock()

    def look(self) -> Look:
        """From any thread; two looks at once take turns."""
        with self._lock:
            size = _size(self._prepared)
            grew, self._size = size != self._size, size
            return Look(grew=grew, progress=self._progress())

    def _progress(self) -> dict[str, Any] | None:
        """None also while all that is there is of an earlier attempt."""
        told = _told(self._reader.read())
        last = _last_attempt(self._prepared)
        if told is None or last is None:
            return told
        if last.number < self._attempt:
            return None
        return {**told, "resumed_from": last.iteration if last.resumed_from else None}


def base_of(prepared: Prepared) -> str:
    """The root of RELION's output files, relative to the project."""
    return str(prepared.job_dir.relative_to(prepared.cwd) / "extra" / "relion")


def iterations(prepared: Prepared, progress: Mapping[str, Any] | None, attempt: int) -> Iterations:
    """Iterations done and lost by this attempt, from the launcher's own record.

    An iteration is lost that was at work, or that was written and could not be certified. An
    attempt that ended before the launcher began has done nothing.
    """
    base = base_of(prepared)
    record = lineage.load(lineage.folder_of(base, project=prepared.cwd))
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


def _last_attempt(prepared: Prepared) -> Attempt | None:
    base = base_of(prepared)
    record = lineage.load(lineage.folder_of(base, project=prepared.cwd))
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
    return _COLOUR.sub("", text)
