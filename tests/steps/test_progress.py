import os
from pathlib import Path

import pytest

from scsched.steps import lineage, progress
from scsched.steps.lineage import Attempt, Lineage
from scsched.steps.progress import Log, Progress, Reader
from tests.relion_data import CLASS_3D, Particles, make_project, needs_relion, run, star_block

BASE = "Runs/000002_Class/extra/relion"
CLASSIFY = (
    " CurrentResolution= 44.8 Angstroms, which requires orientationSampling of 25 degrees\n"
    " Expectation iteration 5 of 10\n"
    '000/??? sec ~~(,_,">                          [oo]\r'
    '  12/  40 sec ..................~~(,_,">'
)
AUTO = (
    " Auto-refine: Iteration= 7\n"
    " Auto-refine: Resolution= 32 (no gain for 1 iter) \n"
    " Expectation iteration 7\n"
    ' 1.50/3.00 min ..............................~~(,_,">\n Maximization ...\n'
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / BASE).parent.mkdir(parents=True)
    return tmp_path


def write_iteration(
    project: Path,
    number: int,
    *,
    at_s: int,
    root: str = BASE,
    resolution: str = "28.0",
    shares: tuple[str, ...] = ("0.25", "0.75"),
) -> None:
    general = f"\ndata_model_general\n\n_rlnCurrentResolution {resolution}\n \n"
    classes = [{"rlnClassDistribution": share} for share in shares]
    start = f"{project / root}_it{number:03d}_"
    Path(f"{start}model.star").write_text(general + star_block("model_classes", classes))
    Path(f"{start}optimiser.star").write_text("data_optimiser_general\n")
    os.utime(f"{start}optimiser.star", (at_s, at_s))


def test_classification_says_iteration_k_of_n() -> None:
    assert progress.parse(CLASSIFY) == Progress(
        iteration=5,
        of=10,
        phase="Expectation",
        fraction=0.3,
        phase_left_s=28.0,
        resolution_a=44.8,
    )


def test_auto_refine_has_no_n() -> None:
    found = progress.parse(AUTO)
    assert (found.iteration, found.of, found.resolution_a) == (7, None, 32.0)
    assert (found.phase, found.fraction) == ("Maximization", None)


def test_a_bar_in_minutes_is_in_seconds() -> None:
    found = progress.parse(AUTO.replace(" Maximization ...\n", ""))
    assert (found.fraction, found.phase_left_s) == (0.5, 90.0)


def test_gradient_descent_has_a_name_of_its_own() -> None:
    found = progress.parse(" Stochastic Gradient Descent iteration 3 of 12\n")
    assert (found.iteration, found.of, found.phase) == (3, 12, "Stochastic Gradient Descent")


def test_exact_mode_counts_to_the_end_of_the_job_not_of_the_process() -> None:
    text = "[scsched] exact mode, iteration 3 of 9\n Expectation iteration 3 of 3\n"
    found = progress.parse(text)
    assert (found.iteration, found.of) == (3, 9)


def test_convergence_and_the_last_iteration_are_told() -> None:
    last = progress.parse(
        AUTO + " Auto-refine: Refinement has converged, entering last iteration\n"
    )
    assert (last.phase, last.converged) == ("Last iteration", False)
    done = progress.parse(" Auto-refine: Refinement has converged, stopping now...\n", last)
    assert done.converged


def test_an_infinite_resolution_is_none() -> None:
    assert progress.parse(" CurrentResolution= inf Angstroms\n").resolution_a is None


def test_a_new_attempt_starts_from_nothing() -> None:
    assert progress.parse(AUTO + "[scsched] attempt 2 goes on from iteration 6: x\n") == Progress()


def test_a_log_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    assert log.new_text() == ""
    path.write_text("one\ntw")
    assert log.new_text() == "one\n"
    with path.open("a") as file:
        file.write("o\r")
    assert log.new_text() == "two\r"
    assert log.new_text() == ""


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        "x" * 100 + "\n" + "y" * 79 + "\n" * 20_000 + "y" * 9 * progress.TAIL_BYTES + "\n"
    )
    text = Log(path).new_text()
    assert len(text) <= progress.TAIL_BYTES
    assert "x" not in text


def test_a_log_that_became_shorter_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    path.write_text("a long first line\n")
    log.new_text()
    path.write_text("new\n")
    assert log.new_text() == "new\n"


def test_files_tell_what_an_iteration_took_and_gave(project: Path) -> None:
    for number, at_s in ((0, 1000), (1, 1100), (2, 1130)):
        write_iteration(project, number, at_s=at_s)
    found = Reader(project / "log", project=project, base=BASE, of=9).read()
    assert (found.iteration, found.finished_iteration, found.of) == (2, 2, 9)
    assert (found.seconds_per_iteration, found.resolution_a) == (30.0, 28.0)
    assert found.classes == (0.25, 0.75)


def test_a_half_written_model_is_not_read(project: Path) -> None:
    write_iteration(project, 1, at_s=1000)
    write_iteration(project, 2, at_s=1030)
    Path(f"{project / BASE}_it002_model.star").write_text("\ndata_model_general\n\n_rlnCurr")
    assert Reader(project / "log", project=project, base=BASE).read().finished_iteration == 1


def test_a_file_that_goes_while_it_is_looked_at_is_left_out(project: Path) -> None:
    write_iteration(project, 1, at_s=1000)
    Path(f"{project / BASE}_it002_optimiser.star").symlink_to("put aside")
    assert Reader(project / "log", project=project, base=BASE).read().finished_iteration == 1


@pytest.mark.parametrize("share", ["nan", "inf", "-inf", "0.2x"])
def test_shares_and_a_resolution_that_are_no_numbers_are_left_out(
    project: Path, share: str
) -> None:
    write_iteration(project, 1, at_s=1000, resolution="nan", shares=("0.25", share))
    found = Reader(project / "log", project=project, base=BASE).read()
    assert (found.finished_iteration, found.classes, found.resolution_a) == (1, (), None)


def test_progress_follows_the_living_attempt(project: Path) -> None:
    write_iteration(project, 8, at_s=900)
    write_iteration(project, 3, at_s=1000, root=f"{BASE}_a2")
    write_iteration(project, 4, at_s=1010, root=f"{BASE}_a2", resolution="inf")
    attempt = Attempt(
        number=2,
        base=BASE,
        root=f"{BASE}_a2",
        fingerprint="",
        resumed_from=f"{BASE}_it003_optimiser.star",
        iteration=3,
    )
    lineage.save(Lineage((attempt,)), lineage.folder_of(BASE, project=project))
    found = Reader(project / "log", project=project, base=BASE).read()
    assert (found.finished_iteration, found.resolution_a) == (4, None)
    assert found.seconds_per_iteration is None


def test_the_mark_grows_with_log_and_files(project: Path) -> None:
    log = project / "log"
    log.write_text("one\n")
    reader = Reader(log, project=project, base=BASE)
    first = reader.read().mark
    assert reader.read().mark == first
    log.write_text("one\ntwo\n")
    second = reader.read().mark
    assert second > first
    write_iteration(project, 1, at_s=1000)
    assert reader.read().mark > second


@pytest.mark.relion
@needs_relion
def test_progress_of_a_real_classification(tmp_path: Path) -> None:
    project = make_project(tmp_path, Particles(n=24))
    (project / BASE).parent.mkdir(parents=True)
    argv = ("relion_refine", "--i", "particles.star", "--o", BASE, "--iter", "2", "--K", "2")
    (project / "log").write_text(run(project, *argv, *CLASS_3D))
    found = Reader(project / "log", project=project, base=BASE).read()
    assert (found.iteration, found.of, found.finished_iteration) == (2, 2, 2)
    assert found.resolution_a is not None
    assert found.seconds_per_iteration is not None
    assert sum(found.classes) == pytest.approx(1.0, abs=1e-3)
