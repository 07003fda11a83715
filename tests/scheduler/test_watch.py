"""What a running protocol shows of itself: when its iteration began, and which one is whole."""

from pathlib import Path

import pytest

from scsched.scheduler.driver.keeper import Inputs, Prepared
from scsched.scheduler.driver.watch import Stamps, Watcher, base_of, last_words, words_and
from scsched.steps import lineage
from scsched.steps.lineage import Attempt, Lineage
from scsched.steps.progress import Progress
from tests.relion_data import CLASS_2D, Particles, make_project, needs_relion, run

ITERATIONS = 2


def progress(
    iteration: int, fraction: float | None = None, left_s: float | None = None
) -> Progress:
    return Progress(iteration=iteration, phase="E", fraction=fraction, phase_left_s=left_s)


def test_an_iteration_begins_when_it_is_seen_first() -> None:
    stamps = Stamps()
    assert stamps.of(progress(3), 100.0)["began"] == 100
    assert stamps.of(progress(3, 0.5), 130.0)["began"] == 100
    assert stamps.of(progress(4), 160.0)["began"] == 160


def test_a_report_changes_with_the_tenths_of_the_bar_only() -> None:
    stamps = Stamps()
    first = stamps.of(progress(3, 0.10, 90.0), 100.0)
    assert stamps.of(progress(3, 0.19, 81.0), 109.0) == first
    later = stamps.of(progress(3, 0.20, 80.0), 110.0)
    assert (later["fraction"], later["phase_left_s"], later["at"]) == (0.2, 80.0, 110)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A finished classification in a job folder, recorded as its first attempt."""
    project = make_project(tmp_path_factory.mktemp("watched"), Particles(n=16))
    job = project / "Runs" / "000002_ProtRelionClassify2D"
    (job / "logs").mkdir(parents=True)
    (job / "extra").mkdir()
    made = Prepared(
        argv=(),
        cwd=project,
        stdout=job / "logs" / "run.stdout",
        stderr=job / "logs" / "run.stderr",
        job_dir=job,
        run_db=job / "logs" / "run.db",
        protocol="ProtRelionClassify2D",
        inputs=Inputs(particles=None, box_px=None),
    )
    base = base_of(made)
    run(project, "relion_refine", "--i", "particles.star", "--o", base,
        "--iter", str(ITERATIONS), "--K", "2", *CLASS_2D)  # fmt: skip
    record = Lineage((Attempt(number=1, base=base, root=base, fingerprint=""),))
    lineage.save(record, lineage.folder_of(base, project=project))
    return made


@pytest.mark.relion
@needs_relion
def test_an_iteration_is_certified_by_all_of_its_files(prepared: Prepared) -> None:
    watcher = Watcher(prepared, attempt=1)
    assert watcher.certified(ITERATIONS)
    assert not watcher.certified(ITERATIONS + 1)
    data = Path(f"{prepared.cwd / base_of(prepared)}_it{ITERATIONS:03d}_data.star")
    whole = data.read_bytes()
    try:
        data.write_bytes(whole[: len(whole) * 2 // 3])
        assert not watcher.certified(ITERATIONS)
        assert watcher.certified(ITERATIONS - 1)
    finally:
        data.write_bytes(whole)


def not_begun(tmp_path: Path) -> Prepared:
    job = tmp_path / "Runs" / "000002_X"
    return Prepared(
        argv=(), cwd=tmp_path, stdout=job / "o", stderr=job / "e", job_dir=job,
        run_db=job / "db", protocol="X", inputs=Inputs(particles=None, box_px=None),
    )  # fmt: skip


def test_nothing_is_certified_before_the_launcher_has_begun(tmp_path: Path) -> None:
    assert not Watcher(not_begun(tmp_path), attempt=1).certified(1)


def test_last_words_hold_no_zero_bytes(tmp_path: Path) -> None:
    """A log has a hole where its node was lost; no database takes it."""
    made = not_begun(tmp_path)
    made.stderr.parent.mkdir(parents=True)
    made.stderr.write_bytes(b"began\n" + bytes(64) + b"\nno particles\n")
    assert last_words(made, {"exit_code": 1}) == "exit 1\nbegan\nno particles"
    assert words_and(made, "it\0 failed") == "began\nno particles\nit failed"
