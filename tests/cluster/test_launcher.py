import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from scsched.cluster import launcher
from scsched.steps import checkpoint, lineage, outputs
from scsched.steps.checkpoint import Branch
from scsched.steps.command import parse
from tests.relion_data import (
    AUTO_REFINE,
    CLASS_2D,
    CLASS_3D,
    Particles,
    make_project,
    mpirun,
    needs_mpi,
    needs_relion,
)

LAUNCHER = [sys.executable, "-I", "-m", "scsched.cluster.launcher"]
PARTICLES = 30
JOB = "Runs/000002_Class"
BASE = f"{JOB}/extra/relion"
CLASSIFY_2D = ["relion_refine", "--i", "particles.star", "--o", BASE, "--iter", "5", "--K", "2"]
CLASSIFY_3D = [*CLASSIFY_2D, *CLASS_3D]
CLASSIFY_2D = [*CLASSIFY_2D, *CLASS_2D]
REFINE = [
    *(*mpirun(3), "relion_refine_mpi", "--i", "particles.star", "--o", BASE, *AUTO_REFINE),
    *("--auto_ignore_angles", "--auto_resol_angles"),
]


class Launched:
    """A launcher at work in a project, its log and its end."""

    def __init__(self, project: Path, argv: list[str], **environ: str) -> None:
        (project / BASE).parent.mkdir(parents=True, exist_ok=True)
        self.log = project / f"log_{len(list(project.glob('log_*')))}"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [*LAUNCHER, *argv],
                cwd=project,
                env={**os.environ, **environ},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ours(self) -> list[str]:
        lines = self.text().splitlines()
        return [x.removeprefix("[scsched] ") for x in lines if x.startswith("[scsched]")]

    def ended(self, timeout_s: float = 240) -> int:
        code = self.process.wait(timeout_s)
        assert code != 127, self.text()
        return code

    def kill_all(self) -> None:
        """SIGKILL to it and all it started, as a lost node does."""
        root = psutil.Process(self.process.pid)
        for process in [root, *root.children(recursive=True)]:
            process.kill()
        self.process.wait(30)


def wait_until(ready: Callable[[], bool], launched: Launched, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert launched.process.poll() is None, f"it ended too early:\n{launched.text()[-3000:]}"
        assert time.monotonic() < deadline, f"not in {timeout_s} s:\n{launched.text()[-3000:]}"
        time.sleep(0.01)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "a project", Particles(n=PARTICLES))


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie is only waiting for its parent to look."""
    found = []
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def at_work_on(launched: Launched, iteration: int) -> Callable[[], bool]:
    """In the middle of that iteration's expectation step."""
    pattern = re.compile(rf"iteration {iteration}\b.*?\.~~", re.DOTALL)
    return lambda: pattern.search(launched.text()) is not None


def files(project: Path) -> dict[str, bytes]:
    folder = (project / BASE).parent
    return {x.name: x.read_bytes() for x in sorted(folder.glob("relion_*")) if x.is_file()}


def record(project: Path, attempt: int) -> dict[str, object]:
    path = (project / BASE).parent / ".scsched" / f"attempt_{attempt}.json"
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.relion
@needs_relion
def test_a_killed_classification_goes_on_from_its_newest_whole_iteration(project: Path) -> None:
    first = Launched(project, CLASSIFY_3D)
    wait_until(at_work_on(first, 4), first)
    first.kill_all()
    before = files(project)
    newest = checkpoint.newest([Branch(BASE)], project=project, particles=PARTICLES).newest
    assert newest is not None
    # a torn newer iteration of the dead line, and what Scipion made of it
    (project / f"{BASE}_it004_optimiser.star").write_text("data_optimiser_general\n")
    (project / f"{BASE}_it009_data.star").write_text("stale\n")
    (project / f"{BASE}_it009_classes_scipion.sqlite").write_text("stale\n")

    second = Launched(project, CLASSIFY_3D, SCSCHED_ATTEMPT="2")
    assert second.ended() == 0
    said = f"attempt 2 goes on from iteration {newest.iteration}: {newest.optimiser}"
    assert said in second.ours()
    after = files(project)
    kept = [x for x in before if (m := re.search("_it(...)_", x)) and int(m[1]) <= newest.iteration]
    assert {x: after[x] for x in kept} == {x: before[x] for x in kept}
    assert not [name for name in after if "it009" in name or "_a2_" in name]
    whole = outputs.of_iterations(BASE, project=project, particles=PARTICLES, iterations=5)
    assert whole == ()
    model = after["relion_it005_model.star"].decode()
    assert f"{BASE}_it005_class001.mrc" in model
    assert record(project, 2) == {
        "root": f"{BASE}_a2",
        "resumed_from": newest.optimiser,
        "iterations_done": 5 - newest.iteration,
        "exit_code": 0,
    }


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_auto_refine_killed_twice_ends_complete_under_the_expected_names(project: Path) -> None:
    first = Launched(project, REFINE)
    wait_until(at_work_on(first, 3), first)
    first.kill_all()
    second = Launched(project, REFINE, SCSCHED_ATTEMPT="2")
    wait_until(at_work_on(second, 5), second)
    second.kill_all()
    third = Launched(project, REFINE, SCSCHED_ATTEMPT="3")
    assert third.ended() == 0, third.text()[-3000:]
    assert any(f"goes on from iteration 4: {BASE}_a2_it004" in x for x in third.ours())
    assert outputs.of_auto_refine(BASE, project=project, particles=PARTICLES) == ()
    assert not [name for name in files(project) if re.match(r"relion_a\d", name)]
    numbers = sorted(int(n[9:12]) for n in files(project) if n.endswith("_optimiser.star"))
    assert numbers == list(range(numbers[-1] + 1))


@pytest.mark.relion
@needs_relion
def test_without_a_whole_iteration_nothing_old_is_mixed_in(project: Path) -> None:
    """Scipion registers the highest iteration it finds: it must not be a stale one."""
    first = Launched(project, CLASSIFY_2D)
    wait_until(lambda: (project / f"{BASE}_it000_optimiser.star").exists(), first)
    first.kill_all()
    for name in ("it008_data.star", "it008_optimiser.star", "it008_data_scipion.sqlite"):
        (project / f"{BASE}_{name}").write_text("stale\n")
    for path in (project / BASE).parent.glob("relion_it*_sampling.star"):
        path.unlink()
    second = Launched(project, CLASSIFY_2D, SCSCHED_ATTEMPT="2")
    assert second.ended() == 0
    assert "attempt 2 starts anew" in second.text()
    assert not [name for name in files(project) if "it008" in name]
    aside = (project / BASE).parent / ".scsched" / "before_a2"
    assert (aside / "relion_it008_data_scipion.sqlite").exists()
    assert outputs.of_iterations(BASE, project=project, particles=PARTICLES, iterations=5) == ()


@pytest.mark.relion
@needs_relion
def test_a_finished_job_is_not_computed_again(project: Path) -> None:
    assert Launched(project, CLASSIFY_2D).ended() == 0
    before = files(project)
    again = Launched(project, CLASSIFY_2D, SCSCHED_ATTEMPT="2")
    assert again.ended() == 0
    assert "nothing to compute" in again.text()
    assert files(project) == before


@pytest.mark.relion
@needs_relion
@pytest.mark.parametrize(
    "argv", [CLASSIFY_2D, CLASSIFY_3D, [*CLASSIFY_2D, "--j", "2"]], ids=["2d", "3d", "2d-threads"]
)
def test_an_exact_run_killed_again_and_again_is_bit_identical(
    argv: list[str], project: Path, tmp_path: Path
) -> None:
    other = make_project(tmp_path / "other", Particles(n=PARTICLES))
    assert Launched(other, argv, SCSCHED_EXACT="1").ended() == 0
    for number, iteration in ((1, 1), (2, 2), (3, 4), (4, 4)):
        launched = Launched(project, argv, SCSCHED_EXACT="1", SCSCHED_ATTEMPT=str(number))
        wait_until(at_work_on(launched, iteration), launched)
        launched.kill_all()
    last = Launched(project, argv, SCSCHED_EXACT="1", SCSCHED_ATTEMPT="5")
    assert last.ended() == 0, last.text()[-3000:]
    assert "goes on from iteration 3" in last.text()
    assert outputs.of_iterations(BASE, project=project, particles=PARTICLES, iterations=5) == ()
    assert _different(files(project), files(other)) == []


@pytest.mark.relion
@needs_relion
@needs_mpi
def test_an_exact_run_over_mpi_is_bit_identical(project: Path, tmp_path: Path) -> None:
    argv = [*mpirun(3), "relion_refine_mpi", "--iter", "3", *CLASSIFY_2D[1:]]
    other = make_project(tmp_path / "other", Particles(n=PARTICLES))
    assert Launched(other, argv, SCSCHED_EXACT="1").ended() == 0
    first = Launched(project, argv, SCSCHED_EXACT="1")
    wait_until(at_work_on(first, 2), first)
    first.kill_all()
    assert Launched(project, argv, SCSCHED_EXACT="1", SCSCHED_ATTEMPT="2").ended() == 0
    assert _different(files(project), files(other)) == []


@pytest.mark.relion
@needs_relion
def test_an_exact_run_copies_its_particles_to_scratch_once(project: Path, tmp_path: Path) -> None:
    other = make_project(tmp_path / "other", Particles(n=PARTICLES))
    assert Launched(other, CLASSIFY_2D, SCSCHED_EXACT="1").ended() == 0
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    argv = [*CLASSIFY_2D, "--scratch_dir", "/none", "--keep_free_scratch", "0"]
    on_scratch = Launched(project, argv, SCSCHED_EXACT="1", SCSCHED_SCRATCH=str(scratch))
    assert on_scratch.ended() == 0, on_scratch.text()[-3000:]
    assert list((scratch / "relion_volatile").iterdir())
    assert on_scratch.text().count("Copying particles to scratch directory") == 1
    data = [x for x in files(other) if x.endswith(("data.star", "classes.mrcs"))]
    assert {x: files(project)[x] for x in data} == {x: files(other)[x] for x in data}


def _different(left: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    return sorted(x for x in left.keys() | right.keys() if left.get(x) != right.get(x))


@pytest.mark.relion
@needs_relion
def test_a_plain_run_may_go_on_exactly(project: Path) -> None:
    first = Launched(project, CLASSIFY_2D)
    wait_until(at_work_on(first, 3), first)
    first.kill_all()
    second = Launched(project, CLASSIFY_2D, SCSCHED_EXACT="1", SCSCHED_ATTEMPT="2")
    assert second.ended() == 0, second.text()[-3000:]
    assert outputs.of_iterations(BASE, project=project, particles=PARTICLES, iterations=5) == ()


@pytest.mark.relion
@needs_relion
@needs_mpi
@pytest.mark.parametrize("ranks", [1, 2])
def test_sigterm_ends_relion_by_its_own_signal_file(ranks: int, project: Path) -> None:
    argv = [*mpirun(2), "relion_refine_mpi", *CLASSIFY_3D[1:]] if ranks == 2 else CLASSIFY_3D
    launched = Launched(project, [*argv, "--iter", "90"])
    wait_until(at_work_on(launched, 2), launched)
    children = psutil.Process(launched.process.pid).children(recursive=True)
    launched.process.terminate()
    assert launched.ended(30) == 143
    assert not living(children)
    folder = (project / BASE).parent
    assert (folder / "RELION_JOB_EXIT_ABORTED").exists()
    assert not (folder / "RELION_JOB_ABORT_NOW").exists()
    assert record(project, 1)["exit_code"] == 143


# Without RELION: a program of its name that notes how it was called.


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for RELION programs; the folder in which each notes its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("relion_refine", "relion_run_motioncorr_mpi", "relion_image_handler"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/{name}.args"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def called(noted: Path, name: str) -> list[str]:
    return (noted / f"{name}.args").read_text().splitlines()


def test_other_programs_run_as_they_are(noted: Path, tmp_path: Path) -> None:
    argv = ["relion_image_handler", "--i", "a b.mrc", "--o", "it's.mrc"]
    assert Launched(tmp_path, argv).ended() == 0
    assert called(noted, "relion_image_handler") == argv[1:]


def test_the_exit_code_is_the_program_s(tmp_path: Path) -> None:
    assert Launched(tmp_path, ["sh", "-c", "exit 7"]).ended() == 7


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    launched = Launched(tmp_path, ["/none/relion_refine", "--o", BASE])
    assert launched.process.wait(30) == 127
    assert "/none/relion_refine: not found" in launched.text()


def test_only_a_missing_program_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage has its own ways to lose a file."""
    (tmp_path / BASE).parent.mkdir(parents=True)
    monkeypatch.setattr(launcher, "Child", Idle)

    def lost(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "lineage.json")

    monkeypatch.setattr(lineage, "save", lost)
    argv = ["relion_refine", "--o", BASE]
    asked = parse(argv)
    assert asked is not None
    job = launcher.Refine(asked, launcher.Setting(), project=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lineage\.json"):
        job.run()


class Idle:
    """A child that is never run, and takes no signals from the test."""

    def __init__(self, abort_file: Path) -> None:
        self.abort_file = abort_file


def test_old_marks_go_before_an_attempt(noted: Path, tmp_path: Path) -> None:
    folder = tmp_path / JOB / "extra"
    folder.mkdir(parents=True)
    for name in ("RELION_JOB_ABORT_NOW", "RELION_JOB_EXIT_SUCCESS"):
        (folder / name).touch()
    assert Launched(tmp_path, ["relion_refine", "--o", BASE]).ended() == 0
    assert not list(folder.glob("RELION_JOB_*"))
    assert called(noted, "relion_refine")[-2:] == ["--pipeline_control", f"{JOB}/extra/"]


def test_the_attempt_s_scratch_folder_is_used_only_where_one_is_asked_for(
    noted: Path, tmp_path: Path
) -> None:
    Launched(tmp_path, ["relion_refine", "--o", BASE], SCSCHED_SCRATCH="/s/1").ended()
    assert "--scratch_dir" not in called(noted, "relion_refine")
    argv = ["relion_refine", "--o", f"{BASE}2", "--scratch_dir", "/ssd"]
    Launched(tmp_path, argv, SCSCHED_SCRATCH="/s/1").ended()
    assert "/s/1" in called(noted, "relion_refine")


def test_a_child_that_heeds_no_signal_is_killed_with_its_group(tmp_path: Path) -> None:
    """Given the shortest graces, through the class: the defaults are 10 and 5 s."""
    script = tmp_path / "stop.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from scsched.cluster.child import Child, Graces\n"
        "child = Child(Path(sys.argv[1]), Graces(abort_s=0.2, term_s=0.2))\n"
        "sys.exit(child.run(['sh', '-c', 'trap \"\" TERM; sleep 60 & echo up; wait; sleep 60']))\n"
    )
    abort = tmp_path / "RELION_JOB_ABORT_NOW"
    process = subprocess.Popen(
        [sys.executable, script, str(abort)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    process.stdout.close()
    assert len(children) >= 2
    assert not living(children)
    assert not abort.exists()


def test_items_that_are_not_whole_are_done_again_and_only_those(
    noted: Path, tmp_path: Path
) -> None:
    job = tmp_path / "MotionCorr" / "job001" / "movies"
    job.mkdir(parents=True)
    (tmp_path / "movies.star").write_text(
        "data_movies\n\nloop_\n_rlnMicrographMovieName #1\nmovies/a.tiff\nmovies/b.tiff\n"
        "movies/a_2.tiff\n \n"
    )
    argv = ["relion_run_motioncorr_mpi", "--i", "movies.star", "--o", "MotionCorr/job001/"]
    assert Launched(tmp_path, argv).ended() == 0
    assert called(noted, "relion_run_motioncorr_mpi") == argv[1:]
    for item, end in (("a", "\n \n"), ("b", "\n"), ("a_2", "\n \n")):
        (job / f"{item}.star").write_text(f"data_general\n\n_rlnX 1{end}")
    (job / "a_PS.mrc").write_bytes(b"")
    (job / "logfile.pdf").write_text("not an item's")
    assert Launched(tmp_path, argv, SCSCHED_ATTEMPT="2").ended() == 0
    assert sorted(path.name for path in job.iterdir()) == ["a_2.star", "logfile.pdf"]
    assert called(noted, "relion_run_motioncorr_mpi") == [*argv[1:], "--only_do_unfinished"]
    changed = [*argv, "--bin_factor", "2"]
    assert Launched(tmp_path, changed, SCSCHED_ATTEMPT="3").ended() == 0
    assert called(noted, "relion_run_motioncorr_mpi") == changed[1:]


def test_it_starts_fast_and_without_the_heavy_libraries(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-m", "scsched.cluster.launcher", "true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for heavy in ("numpy", "dask", "distributed", "sqlalchemy", "pydantic", "asyncio"):
        assert f" {heavy}\n" not in done.stderr
