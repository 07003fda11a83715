"""Checkpoints of relion_refine: which iteration's whole file set can be gone on from.

    <root>_itNNN_optimiser.star ──names──► model.star (two in auto-refine) ──names──► maps
                                └────────► data.star, sampling.star

RELION 3.1 writes the optimiser first, everything in place and without fsync, so that a file exists
says nothing; and it goes on without a word from a data.star that was cut between two rows, or from
a map cut short. Hence each file is checked against what the others say of it.
https://github.com/3dem/relion/blob/ver3.1/src/ml_optimiser.cpp (MlOptimiser::write)
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scsched.steps import mrc, star
from scsched.steps.star import Torn

_MAP_LABELS = ("rlnReferenceImage", "rlnSGDGradientImage")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A certified iteration. Paths are relative to the project, as RELION writes them."""

    root: str
    iteration: int
    optimiser: str
    of: int | None
    """Iterations of the run; None in auto-refine, which stops when it has converged."""
    particles: int
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """An iteration that cannot be gone on from, and why."""

    optimiser: str
    iteration: int
    why: str


@dataclass(frozen=True, slots=True)
class Search:
    newest: Checkpoint | None
    refused: tuple[Refused, ...] = ()
    """Newer iterations than `newest`, the newest first."""


@dataclass(frozen=True, slots=True)
class Branch:
    """The iterations of one root that count: those up to the one that was gone on from."""

    root: str
    up_to: int | None = None
    """None: all of them."""
    after: int = -1
    """The iteration that this root itself was started from; its copy here does not count."""

    def holds(self, iteration: int) -> bool:
        return self.after < iteration and (self.up_to is None or iteration <= self.up_to)


def newest(branches: Iterable[Branch], *, project: Path, particles: int | None = None) -> Search:
    """The newest certified iteration of a lineage, its newest branch first.

    Iteration 0 is no checkpoint: nothing was computed, and RELION leaves out its sampling.star.
    `particles`: rows of the input, where it is known.
    """
    refused: list[Refused] = []
    for branch in branches:
        for iteration, optimiser in iterations(branch, project=project):
            try:
                found = certify(optimiser, project=project, particles=particles)
            except (Torn, OSError) as exc:
                refused.append(Refused(optimiser, iteration, str(exc)))
            else:
                return Search(found, tuple(refused))
    return Search(None, tuple(refused))


def iterations(branch: Branch, *, project: Path) -> list[tuple[int, str]]:
    """(iteration, optimiser file) of a branch, the newest first, certified or not; from 1 on."""
    root = project / branch.root
    pattern = re.compile(re.escape(root.name) + r"_it(\d{3,})_optimiser\.star")
    found = []
    for name in _names(root.parent):
        if match := pattern.fullmatch(name):
            number = int(match[1])
            if branch.holds(number) and number > 0:
                found.append((number, str(Path(branch.root).parent / name)))
    return sorted(found, reverse=True)


def certify(optimiser: str, *, project: Path, particles: int | None = None) -> Checkpoint:
    """The checkpoint of this optimiser.star, all of its files checked.

    :raises Torn: naming the first file that is not whole, and what is wrong with it.
    """
    general = _general(project / optimiser)
    match = re.fullmatch(r"(.*)_it(\d{3,})_optimiser\.star", optimiser)
    if match is None or int(match[2]) != int(_need(general, "rlnCurrentIteration", optimiser)):
        raise Torn(f"{optimiser}: holds another iteration than its name says")
    files = [optimiser]
    for model in _models(general, optimiser):
        files += [model, *_model_maps(model, project)]
    data = _need(general, "rlnExperimentalDataStarFile", optimiser)
    sampling = _need(general, "rlnOrientSamplingStarFile", optimiser)
    rows = _data_rows(data, project, particles)
    _check_sampling(sampling, project)
    return Checkpoint(
        root=match[1],
        iteration=int(match[2]),
        optimiser=optimiser,
        of=None if general.get("rlnDoAutoRefine") == "1" else _of(general),
        particles=rows,
        files=(*files, data, sampling),
    )


def data_rows(path: Path) -> int:
    """Particles in a data.star that is whole.

    :raises Torn: when it is not.
    """
    return star.tables(path).get("particles", star.Table("particles")).rows


def model_maps(model: str, *, project: Path) -> tuple[str, ...]:
    """The maps that a whole model.star names, each of the size its header says.

    :raises Torn: when the model or a map is not whole.
    """
    return tuple(_model_maps(model, project))


def _general(optimiser: Path) -> dict[str, str]:
    found = star.tables(optimiser).get("optimiser_general")
    if found is None:
        raise Torn(f"{optimiser}: no optimiser_general table")
    return dict(found.values)


def _of(general: dict[str, str]) -> int | None:
    text = general.get("rlnNumberOfIterations", "")
    return int(text) if text.isdigit() else None


def _models(general: dict[str, str], optimiser: str) -> list[str]:
    first = _need(general, "rlnModelStarFile", optimiser)
    if general.get("rlnDoSplitRandomHalves") != "1":
        return [first]
    return [first, _need(general, "rlnModelStarFile2", optimiser)]


def _data_rows(data: str, project: Path, wanted: int | None) -> int:
    rows = data_rows(project / data)
    if rows == 0 or (wanted is not None and rows != wanted):
        raise Torn(f"{data}: {rows} particles{f' of {wanted}' if wanted is not None else ''}")
    return rows


def _model_maps(model: str, project: Path) -> list[str]:
    found = star.tables(project / model)
    if "model_general" not in found:
        raise Torn(f"{model}: no model_general table")
    _check_tables(model, project, found)
    maps = sorted(
        {
            field.rpartition("@")[2]
            for table in ("model_classes", "model_bodies")
            for fields in star.rows(project / model, table, *_MAP_LABELS)
            for field in fields
            if field not in ("?", "None")
        }
    )
    if not maps:
        raise Torn(f"{model}: names no maps")
    for name in maps:
        mrc.require_whole(project / name)
    return maps


def _check_tables(model: str, project: Path, found: dict[str, star.Table]) -> None:
    """A file may end between two tables and look whole, so each table that must be there is."""
    general = dict(found["model_general"].values)
    shells = _number(general, "rlnOriginalImageSize", model) // 2 + 1
    bodies = _number(general, "rlnNrBodies", model) if "rlnNrBodies" in general else 1
    classes = bodies if bodies > 1 else _number(general, "rlnNrClasses", model)
    kind = "body" if bodies > 1 else "class"
    wanted = {f"model_{kind}_{number}": shells for number in range(1, classes + 1)}
    wanted["model_groups"] = _number(general, "rlnNrGroups", model)
    for group, size in star.rows(
        project / model, "model_groups", "rlnGroupNumber", "rlnGroupNrParticles"
    ):
        if size != "0":
            wanted[f"model_group_{group}"] = shells
    for name, rows in wanted.items():
        has = found[name].rows if name in found else 0
        if has != rows:
            raise Torn(f"{model}: {has} rows of {rows} in data_{name}")
    if general.get("rlnReferenceDimensionality") == "3" and bodies == 1:
        _need_rows(model, found, f"model_pdf_orient_class_{classes}")


def _check_sampling(sampling: str, project: Path) -> None:
    found = star.tables(project / sampling)
    general = found.get("sampling_general")
    if general is None:
        raise Torn(f"{sampling}: no sampling_general table")
    if general.values.get("rlnIs3DSampling") == "1":
        _need_rows(sampling, found, "sampling_directions")


def _need_rows(where: str, found: dict[str, star.Table], name: str) -> None:
    if name not in found or found[name].rows == 0:
        raise Torn(f"{where}: no rows in data_{name}")


def _number(general: dict[str, str], label: str, where: str) -> int:
    text = _need(general, label, where)
    if not text.isdigit():
        raise Torn(f"{where}: {label} is {text}, not a number")
    return int(text)


def _need(general: dict[str, str], label: str, where: str) -> str:
    if label not in general:
        raise Torn(f"{where}: {label} is missing")
    return general[label]


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except OSError:
        return []
