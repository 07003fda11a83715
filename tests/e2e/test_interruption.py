"""Spot nodes that are taken back, runs that hang, and what of it shows in the results."""

import hashlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scsched.cluster import processes
from tests.e2e import site as sites
from tests.e2e.site import Site, iteration_of, wait_until
from tests.e2e.workflows import boxes

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

pytestmark = [pytest.mark.scipion, pytest.mark.relion, pytest.mark.slow]

CLASSES = "20"
ITERATIONS = 5
STALL_S = 20.0


def results(project: Path) -> dict[str, str]:
    """Digests of what the last iteration of the classification left."""
    (job,) = (project / "Runs").glob("*_ProtRelionClassify2D")
    base = job / "extra" / f"relion_it{ITERATIONS:03d}"
    names = ("classes.mrcs", "data.star", "model.star")
    return {name: hashlib.sha256(Path(f"{base}_{name}").read_bytes()).hexdigest() for name in names}


def classify(
    site: Site, data: Path, project: Path, *, exact: str = "on", play_spot: str | None = None
) -> "list[schema.Run]":
    """The runs of a classification in exact mode, which has ended well."""
    document = boxes.document(boxes.particles(data), boxes.classes_2d(iterations=ITERATIONS))
    workflow = site.submit(document, project=project, exact=exact, play_spot=play_spot)
    site.wait_for_step(workflow, CLASSES, "COMPLETED")
    return site.runs(workflow, CLASSES)


@pytest.fixture(scope="module")
def undisturbed(site: Site, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    project = tmp_path_factory.mktemp("undisturbed") / "project"
    assert [run["end_reason"] for run in classify(site, data, project)] == ["COMPLETED"]
    return results(project)


def test_an_exact_classification_that_lost_its_nodes_twice_is_bit_identical(
    site: Site, data: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Once after a notice and once without; both times the nodes were taken back by the market."""
    project = tmp_path / "project"
    schedule = f"{CLASSES}@it2:notice=2,{CLASSES}@it4:kill"
    runs = classify(site, data, project, play_spot=schedule)
    assert [run["end_reason"] for run in runs] == ["PREEMPTED", "PREEMPTED", "COMPLETED"]
    assert results(project) == undisturbed


def test_an_exact_classification_that_lost_one_of_its_nodes_is_bit_identical(
    site: Site, data: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """It goes on with the other one, in another layout."""
    project = tmp_path / "project"
    runs = classify(site, data, project, play_spot=f"{CLASSES}@it3:kill1")
    assert [run["end_reason"] for run in runs] == ["PREEMPTED", "COMPLETED"]
    assert results(project) == undisturbed


def test_a_run_that_hangs_ends_as_stalled_and_is_tried_again(data: Path, tmp_path: Path) -> None:
    """All ranks stand still with their processes alive."""
    with sites.running(stall_s=STALL_S) as site:
        document = boxes.document(boxes.particles(data), boxes.classes_2d())
        workflow = site.submit(document, project=tmp_path / "project")
        wait_until(
            "RELION works on the second iteration",
            lambda: site.step(workflow, CLASSES),
            lambda step: iteration_of(step) >= 2,
            sites.STEP_S,
        )
        (run,) = site.runs(workflow, CLASSES)
        hung = [one.process for one in site.ranks(workflow)]
        assert hung
        for process in hung:
            assert processes.send(process, signal.SIGSTOP)
        ended = site.wait_for_run(workflow, CLASSES, run["id"])
        assert ended["end_reason"] == "STALLED"
        site.wait_gone(hung)
        site.wait_for_step(workflow, CLASSES, "COMPLETED")
        runs = site.runs(workflow, CLASSES)
        assert [one["end_reason"] for one in runs] == ["STALLED", "COMPLETED"]
        assert int(runs[1]["resumed_from"] or 0) >= 1
