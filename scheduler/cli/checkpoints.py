"""Find and certify the iterations of one step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from scsched.scheduler.cli import targets
from scsched.scheduler.render import Column, put_json, table, talk
from scsched.steps import checkpoint
from scsched.steps.checkpoint import Branch
from scsched.steps.errors import NotFound, PermissionDenied
from scsched.steps.star import Torn

_OPTIMISER = re.compile(r"(?P<root>.+)_it\d{3,}_optimiser\.star")
_COLUMNS = (
    Column("iteration", lambda row: row.iteration, right=True),
    Column("certified", lambda row: {None: "not opened", True: "yes", False: "NO"}[row.certified]),
    Column("particles", lambda row: row.particles, right=True, dispensable=True),
    Column("files", lambda row: row.files, right=True, dispensable=True),
    Column("optimiser", lambda row: row.optimiser),
    Column("why", lambda row: row.why, flexible=True, dispensable=True),
)


class StepDir(NamedTuple):
    selector: str
    project: Path
    job_dir: Path


class Row(NamedTuple):
    iteration: int
    optimiser: str
    """Relative to the project, as RELION writes it."""
    certified: bool | None = None
    """None: not looked at."""
    particles: int | None = None
    files: int | None = None
    why: str = ""


def located(selector: str) -> StepDir:
    """Where the step works; the broker knows.

    :raises NotFound: it has no directory yet.
    """
    client = targets.client()
    target = targets.one_step(client, selector)
    paths = client.step(target.workflow, target.step or "")["paths"]
    if not paths["project"] or not paths["job_dir"]:
        raise NotFound(
            f"{target}: has not started, so nothing is on disk", hint=f"see scsched why {target}"
        )
    project = Path(paths["project"])
    return StepDir(str(target), project, project / paths["job_dir"])


def found(step: StepDir) -> list[Row]:
    """Iterations of every root below the step's directory, newest first.

    :raises NotFound: there is none.
    :raises PermissionDenied: the directory is not open to the user.
    """
    rows = [
        Row(iteration, optimiser)
        for root in _roots(step)
        for iteration, optimiser in checkpoint.iterations(Branch(root), project=step.project)
    ]
    if not rows:
        raise NotFound(
            f"{step.selector}: no RELION iteration in {step.job_dir}",
            hint="only 2D and 3D classification, initial model and auto-refine leave iterations",
        )
    return sorted(rows, key=lambda row: (row.iteration, row.optimiser), reverse=True)


def verified(row: Row, *, project: Path) -> Row:
    """The row with the verdict on its whole file set."""
    try:
        whole = checkpoint.certify(row.optimiser, project=project)
    except Torn as exc:
        return row._replace(certified=False, why=str(exc))
    return row._replace(certified=True, particles=whole.particles, files=len(whole.files))


def show(rows: list[Row], *, as_json: bool) -> int:
    if as_json:
        put_json({"schema": "scsched/v1", "items": [row._asdict() for row in rows]})
    else:
        table(_COLUMNS, rows)
    return 0


def say_where_it_goes_on(rows: list[Row]) -> None:
    whole = next((row for row in rows if row.certified), None)
    if whole is None:
        talk("nothing to go on from: the step would start again")
    else:
        talk(f"the step can go on from iteration {whole.iteration}")


def _roots(step: StepDir) -> list[str]:
    if not _readable(step.job_dir):
        raise PermissionDenied(f"{step.job_dir}: you may not read it", hint="ask its owner")
    names = (path for path in step.job_dir.rglob("*_optimiser.star"))
    matches = (_OPTIMISER.fullmatch(str(path.relative_to(step.project))) for path in names)
    return sorted({match["root"] for match in matches if match})


def _readable(folder: Path) -> bool:
    try:
        next(folder.iterdir(), None)
    except PermissionError:
        return False
    except OSError:
        return True
    return True
