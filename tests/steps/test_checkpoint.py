import errno
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scsched.steps import checkpoint, mrc, star
from scsched.steps.checkpoint import Branch
from scsched.steps.star import Torn
from tests.relion_data import (
    AUTO_REFINE,
    CLASS_2D,
    CLASS_3D,
    INITIAL_MODEL,
    Particles,
    make_project,
    mpirun,
    needs_mpi,
    needs_relion,
    run,
)

PARTICLES = 48
SERIAL = ("relion_refine", "--i", "particles.star", "--o")
MPI = (*mpirun(3), "relion_refine_mpi", "--i", "particles.star", "--o")
AUTO = (*AUTO_REFINE, "--auto_iter_max", "3", "--dont_combine_weights_via_disc")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished RELION run; `step` iterations lie between two that it wrote."""

    argv: tuple[str, ...]
    last: int
    step: int
    files: int


RUNS = {
    "class2d": Run((*SERIAL, "class2d/run", "--iter", "3", "--K", "2", *CLASS_2D), 3, 1, 5),
    "class3d": Run((*SERIAL, "class3d/run", "--iter", "3", "--K", "2", *CLASS_3D), 3, 1, 6),
    "initial": Run((*SERIAL, "initial/run", *INITIAL_MODEL), 6, 2, 6),
    "refine": Run((*MPI, "refine/run", *AUTO), 3, 1, 7),
}


@pytest.fixture(scope="session")
def relion_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one finished run of each kind."""
    project = make_project(tmp_path_factory.mktemp("relion"), Particles(n=PARTICLES))
    for name, made in RUNS.items():
        (project / name).mkdir()
        run(project, *made.argv)
    return project


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_mid_line(path: Path) -> None:
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def cut_at_a_row(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    last_row = max(i for i, line in enumerate(lines) if len(line.split()) > 1)
    path.write_bytes(b"".join(lines[:last_row]))


def cut_by_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


TEARS: tuple[Callable[[Path], None], ...] = (
    Path.unlink,
    empty,
    cut_in_mid_line,
    cut_at_a_row,
    cut_by_a_byte,
)
MAP_TEARS = (Path.unlink, empty, cut_in_mid_line, cut_by_a_byte)


def tears(path: Path) -> list[Callable[[Path], None]]:
    if path.suffix != ".star":
        return list(MAP_TEARS)
    return [*TEARS, *(cut_before_table(number) for number in range(1, len(star.tables(path))))]


def cut_before_table(number: int) -> Callable[[Path], None]:
    """Cut where a star file looks whole, but tables are missing."""

    def cut(path: Path) -> None:
        parts = path.read_bytes().split(star.TABLE_END)
        path.write_bytes(star.TABLE_END.join([*parts[:number], b""]))

    cut.__name__ = f"cut_before_table_{number}"
    return cut


def torn(project: Path, files: tuple[str, ...]) -> Iterator[str]:
    """Each file of a checkpoint damaged in each way in turn, and put right again."""
    for name in files:
        path = project / name
        for tear in tears(path):
            kept = shutil.copy2(path, project / "kept")
            tear(path)
            yield f"{tear.__name__} {name}"
            shutil.copy2(kept, path)


@pytest.mark.relion
@needs_relion
@needs_mpi
@pytest.mark.parametrize("kind", RUNS)
def test_any_torn_file_takes_us_one_written_iteration_back(kind: str, relion_runs: Path) -> None:
    made = RUNS[kind]
    branch = [Branch(f"{kind}/run")]
    whole = checkpoint.newest(branch, project=relion_runs, particles=PARTICLES)
    assert whole.newest is not None
    assert not whole.refused
    assert whole.newest.iteration == made.last
    assert whole.newest.of == (None if kind == "refine" else made.last)
    assert len(whole.newest.files) == made.files
    for what in torn(relion_runs, whole.newest.files):
        found = checkpoint.newest(branch, project=relion_runs, particles=PARTICLES)
        assert found.newest is not None, what
        assert found.newest.iteration == made.last - made.step, what
        missing = what.startswith("unlink") and what.endswith("optimiser.star")
        assert bool(found.refused) != missing, what
    again = checkpoint.newest(branch, project=relion_runs, particles=PARTICLES)
    assert again.newest == whole.newest


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_the_reason_names_the_file_and_what_is_wrong(relion_runs: Path) -> None:
    data = relion_runs / "class2d/run_it003_data.star"
    kept = data.read_bytes()
    lines = kept.splitlines(keepends=True)
    data.write_bytes(b"".join([*lines[:-11], b" \n"]))
    found = checkpoint.newest([Branch("class2d/run")], project=relion_runs, particles=PARTICLES)
    data.write_bytes(kept)
    assert found.refused[0].why == "class2d/run_it003_data.star: 38 particles of 48"


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_iterations_beyond_the_branch_do_not_count(relion_runs: Path) -> None:
    found = checkpoint.newest([Branch("class2d/run", up_to=2)], project=relion_runs)
    assert found.newest is not None
    assert found.newest.iteration == 2


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_iteration_0_is_no_checkpoint(relion_runs: Path) -> None:
    found = checkpoint.newest([Branch("class2d/run", up_to=0)], project=relion_runs)
    assert found.newest is None


def test_no_files_are_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.newest([Branch("none/run")], project=tmp_path).newest is None


def test_a_data_star_of_100_000_particles_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "run_it001_data.star"
    labels = "".join(f"_rlnLabel{n} #{n}\n" for n in range(1, 25))
    row = "  123.456789" * 24 + " \n"
    path.write_text(f"\ndata_particles\n\nloop_\n{labels}{row * 100_000} \n")
    assert checkpoint.data_rows(path) == 100_000


def test_a_map_is_whole_when_it_is_as_long_as_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "map.mrc"
    header = bytearray(1024)
    for at, value in ((0, 4), (4, 4), (8, 2), (12, 2), (92, 80)):
        header[at : at + 4] = value.to_bytes(4, "little")
    path.write_bytes(bytes(header) + bytes(80 + 4 * 4 * 2 * 4))
    assert mrc.require_whole(path).sections == 2
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(Torn, match="1233 bytes where the header says 1232"):
        mrc.require_whole(path)
    path.write_bytes(bytes(1024))
    with pytest.raises(Torn, match="not an MRC header"):
        mrc.require_whole(path)


def test_a_map_that_is_put_aside_while_it_is_looked_at_is_whole_or_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    path = tmp_path / "map.mrc"
    path.write_bytes(struct.pack("<4i", 2, 2, 2, 0) + bytes(1024 - 16 + 8))
    monkeypatch.setattr(Path, "stat", gone)
    assert mrc.require_whole(path).sections == 2


def test_a_file_that_the_storage_does_not_give_refuses_its_iteration_alone(tmp_path: Path) -> None:
    values = f"_rlnCurrentIteration 1\n_rlnModelStarFile {'x' * 300}\n"
    (tmp_path / "run_it001_optimiser.star").write_text(f"\ndata_optimiser_general\n\n{values} \n")
    (refused,) = checkpoint.newest([Branch("run")], project=tmp_path).refused
    assert "File name too long" in refused.why
