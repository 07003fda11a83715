import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scsched.steps import outputs
from scsched.steps.outputs import Job
from tests.relion_data import (
    AUTO_REFINE,
    CLASS_2D,
    Particles,
    make_project,
    mpirun,
    needs_mpi,
    needs_relion,
    run,
)

FOLDER = "Runs/000003_Class"


def write_set(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE Objects (id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO Objects VALUES (?)", [(i,) for i in range(count)])


@pytest.mark.parametrize(("text", "good"), [("20.36", True), ("inf", False), ("nan", False)])
def test_a_postprocessed_map_has_a_resolution(text: str, good: bool, tmp_path: Path) -> None:
    path = tmp_path / FOLDER / "extra" / "postprocess.star"
    path.parent.mkdir(parents=True)
    path.write_text(f"\ndata_general\n\n_rlnFinalResolution  {text}\n \n")
    job = Job(FOLDER, tmp_path)
    assert (outputs.of_job("ProtRelionPostprocess", job) == ()) is good


def test_a_postprocess_without_a_star_file_did_not_do_it(tmp_path: Path) -> None:
    assert outputs.of_job("ProtRelionPostprocess", Job(FOLDER, tmp_path)) != ()


def test_sets_of_scipion_are_counted(tmp_path: Path) -> None:
    write_set(tmp_path / FOLDER / "particles.sqlite", 0)
    write_set(tmp_path / FOLDER / "ctfs.sqlite", 3)
    assert outputs.of_job("ProtRelionExtractParticles", Job(FOLDER, tmp_path, rows=3)) != ()
    assert outputs.of_job("CistemProtCTFFind", Job(FOLDER, tmp_path, rows=3)) == ()
    assert outputs.of_job("CistemProtCTFFind", Job(FOLDER, tmp_path, rows=4)) != ()
    assert outputs.of_job("ProtRelionAutopickLoG", Job(FOLDER, tmp_path)) != ()


def test_a_lock_of_a_node_that_vanished_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "100% of it?.sqlite"
    write_set(path, 3)
    with closing(sqlite3.connect(path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert outputs.set_rows(path) == 3


def test_other_protocols_are_left_to_scipion(tmp_path: Path) -> None:
    assert outputs.of_job("ProtImportVolumes", Job(FOLDER, tmp_path)) == ()


@pytest.mark.relion
@needs_relion
def test_a_classification_is_done_when_its_last_iteration_is_whole(tmp_path: Path) -> None:
    project = make_project(tmp_path, Particles(n=24))
    base = f"{FOLDER}/extra/relion"
    (project / base).parent.mkdir(parents=True)
    argv = ["relion_refine", "--i", "particles.star", "--o", base, "--iter", "2", "--K", "2"]
    run(project, *argv, *CLASS_2D)
    job = Job(FOLDER, project, rows=24)
    assert outputs.of_job("ProtRelionClassify2D", job) == ()
    assert outputs.of_job("ProtRelionClassify2D", Job(FOLDER, project, rows=25)) != ()
    (short,) = outputs.of_iterations(base, project=project, particles=24, iterations=3)
    assert "iteration 2 of 3" in short
    Path(f"{project / base}_it002_classes.mrcs").write_bytes(b"")
    assert outputs.of_job("ProtRelionClassify2D", job) != ()


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_auto_refine_is_done_when_its_final_maps_are_whole(tmp_path: Path) -> None:
    """Stopped short of convergence it ends with 0 and without them."""
    project = make_project(tmp_path, Particles(n=24))
    base = f"{FOLDER}/extra/relion"
    (project / base).parent.mkdir(parents=True)
    argv = [*mpirun(3), "relion_refine_mpi", "--i", "particles.star", "--o", base, *AUTO_REFINE]
    run(project, *argv, "--auto_iter_max", "1", "--dont_combine_weights_via_disc")
    problems = outputs.of_job("ProtRelionRefine3D", Job(FOLDER, project, rows=24))
    assert len(problems) == 5
    assert problems[0].endswith("relion_data.star: missing")
