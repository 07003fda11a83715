import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from scsched.steps import outputs
from scsched.steps.command import Command, parse
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
    star_block,
)

FOLDER = "Runs/000003_Class"


def write_rows(path: Path, table: str, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = star_block(table, [{"rlnMicrographName": f"m{i}.mrc"} for i in range(max(1, count))])
    path.write_text(text if count else text.replace("m0.mrc\n", ""))


def command(text: str) -> Command:
    found = parse(text.split())
    assert found is not None
    return found


def write_set(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE Objects (id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO Objects VALUES (?)", [(i,) for i in range(count)])


@pytest.mark.parametrize(("rows", "good"), [(12, True), (0, False), (11, False), (13, False)])
def test_ctf_estimation_gives_a_row_for_every_micrograph(
    rows: int, good: bool, tmp_path: Path
) -> None:
    """RELION ends with 0 and marks success when every single one of them failed."""
    write_rows(tmp_path / "mics.star", "micrographs", 12)
    write_rows(tmp_path / "CtfFind/job002/micrographs_ctf.star", "micrographs", rows)
    ctf = command("relion_run_ctffind_mpi --i mics.star --o CtfFind/job002/")
    assert (outputs.of_command(ctf, project=tmp_path) == ()) is good


def test_motion_correction_gives_a_row_for_every_movie(tmp_path: Path) -> None:
    write_rows(tmp_path / "movies.star", "movies", 4)
    joined = tmp_path / "MotionCorr/job001/corrected_micrographs.star"
    write_rows(joined, "micrographs", 3)
    motion = command(
        "mpirun -np 2 relion_run_motioncorr_mpi --i movies.star --o MotionCorr/job001/"
    )
    assert outputs.of_command(motion, project=tmp_path) == (
        f"{joined}: 3 rows where the input has 4",
    )


@pytest.mark.parametrize(("rows", "good"), [(0, False), (5, True)])
def test_extraction_gives_particles(rows: int, good: bool, tmp_path: Path) -> None:
    write_rows(tmp_path / "particles.star", "particles", rows)
    extract = command("relion_preprocess --i m.star --extract --part_star particles.star")
    assert (outputs.of_command(extract, project=tmp_path) == ()) is good


def test_missing_outputs_are_named(tmp_path: Path) -> None:
    extract = command("relion_preprocess --i m.star --extract --part_star particles.star")
    (problem,) = outputs.of_command(extract, project=tmp_path)
    assert problem == f"{tmp_path}/particles.star: missing"


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
    asked_more = command(" ".join([*argv, *CLASS_2D]).replace("--iter 2", "--iter 3"))
    assert "iteration 2 of 3" in outputs.of_command(asked_more, project=project)[0]
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
