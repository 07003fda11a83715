"""Did the job really do it? RELION ends with 0, and marks success, with nothing done at all.

Seen: every micrograph failed in CTF estimation, extraction without one coordinate file, a map of
"inf" Ångström. So outputs are counted. Each function returns its complaints; none is good.
"""

import math
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from scsched.steps import checkpoint, mrc, star
from scsched.steps.checkpoint import Branch
from scsched.steps.star import Torn

Problems = tuple[str, ...]
_FINAL_MAPS = ("class001.mrc", "half1_class001_unfil.mrc", "half2_class001_unfil.mrc")


@dataclass(frozen=True, slots=True)
class Job:
    """A Scipion job folder, relative to its project, and what is known of its input."""

    folder: str
    project: Path
    rows: int | None = None
    """Items it was given (movies, micrographs, particles); None: not known."""

    @property
    def path(self) -> Path:
        return self.project / self.folder

    @property
    def base(self) -> str:
        return f"{self.folder.rstrip('/')}/extra/relion"


def of_job(protocol: str, job: Job) -> Problems:
    """What is missing in the folder of a finished Scipion protocol; empty for unknown classes."""
    check = _BY_PROTOCOL.get(protocol)
    return check(job) if check else ()


def of_iterations(
    base: str, *, project: Path, particles: int | None, iterations: int | None = None
) -> Problems:
    """2D and 3D classification, initial model: the last iteration is there, whole.

    `iterations`: how many there were to be; None takes what RELION itself noted.
    """
    found = checkpoint.iterations(Branch(base), project=project)
    if not found:
        return (f"{base}_itNNN_optimiser.star: no iteration was written",)
    try:
        last = checkpoint.certify(found[0][1], project=project, particles=particles)
    except Torn as exc:
        return (str(exc),)
    wanted = iterations if iterations is not None else last.of
    if wanted is not None and last.iteration < wanted:
        return (f"{last.optimiser}: iteration {last.iteration} of {wanted} is the last",)
    return ()


def of_auto_refine(base: str, *, project: Path, particles: int | None) -> Problems:
    """3D auto-refine: the files of its final reconstruction are there, whole."""
    return _collect(
        lambda: _final_rows(base, project, particles),
        lambda: checkpoint.model_maps(f"{base}_model.star", project=project) and None,
        *(lambda name=name: mrc.require_whole(project / f"{base}_{name}") for name in _FINAL_MAPS),
    )


def of_postprocess(path: Path) -> Problems:
    """A post-processed map has a finite resolution."""
    try:
        text = star.tables(path)["general"].values.get("rlnFinalResolution", "none")
    except (Torn, KeyError) as exc:
        return (f"{path}: {exc}",)
    if resolution_a(text) is None:
        return (f"{path}: the final resolution is {text}",)
    return ()


def of_set(path: Path, *, at_least: int = 0, exactly: int | None = None) -> Problems:
    """A Scipion set (an SQLite file) has that many items."""
    try:
        rows = set_rows(path)
    except (OSError, sqlite3.Error) as exc:
        return (f"{path}: {exc}",)
    return _counted(path, rows, at_least=at_least, exactly=exactly)


def set_rows(path: Path) -> int:
    """Items of a Scipion set. Without locks: nobody writes it any more, but a node that vanished
    may still hold one.

    :raises FileNotFoundError: no such file.
    """
    if not path.exists():
        raise FileNotFoundError("missing")
    uri = f"{path.absolute().as_uri()}?mode=ro&nolock=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM Objects").fetchone()
    return int(count)


def resolution_a(text: str) -> float | None:
    """Ångström, where the text is a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _final_rows(base: str, project: Path, particles: int | None) -> None:
    rows = checkpoint.data_rows(project / f"{base}_data.star")
    if rows == 0 or (particles is not None and rows != particles):
        raise Torn(f"{base}_data.star: {rows} particles of {particles or 'some'}")


def _collect(*checks: Callable[[], object]) -> Problems:
    problems = []
    for check in checks:
        try:
            check()
        except Torn as exc:
            problems.append(str(exc))
    return tuple(problems)


def _counted(path: Path, rows: int, *, at_least: int, exactly: int | None) -> Problems:
    if exactly is not None and rows != exactly:
        return (f"{path}: {rows} rows where the input has {exactly}",)
    if rows < at_least:
        return (f"{path}: {rows} rows",)
    return ()


def _particles(job: Job) -> int | None:
    if job.rows is not None:
        return job.rows
    try:
        return star.particles(job.path / "input_particles.star")
    except Torn:
        return None


def _iterations(job: Job) -> Problems:
    return of_iterations(job.base, project=job.project, particles=_particles(job))


def _auto_refine(job: Job) -> Problems:
    return of_auto_refine(job.base, project=job.project, particles=_particles(job))


def _postprocess(job: Job) -> Problems:
    return of_postprocess(job.path / "extra" / "postprocess.star")


def _set(name: str, *, as_input: bool) -> Callable[[Job], Problems]:
    def check(job: Job) -> Problems:
        exactly = job.rows if as_input else None
        return of_set(job.path / name, at_least=1, exactly=exactly)

    return check


_BY_PROTOCOL: Mapping[str, Callable[[Job], Problems]] = {
    "ProtRelionClassify2D": _iterations,
    "ProtRelionClassify3D": _iterations,
    "ProtRelionInitialModel": _iterations,
    "ProtRelionRefine3D": _auto_refine,
    "ProtRelionPostprocess": _postprocess,
    "ProtRelionExtractParticles": _set("particles.sqlite", as_input=False),
    "ProtRelionAutopickLoG": _set("coordinates.sqlite", as_input=False),
    "CistemProtCTFFind": _set("ctfs.sqlite", as_input=True),
}
