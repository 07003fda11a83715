"""Spot nodes that are taken back, runs that hang, and what of it shows in the results."""

import contextlib
import hashlib
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scsched.cluster import processes
from scsched.scheduler import demo_data
from scsched.scheduler.demo_data import ParticleSet
from tests.e2e import scipion_view
from tests.e2e import site as sites
from tests.e2e.refinement import PARTICLES
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


def test_a_classification_that_lost_one_node_after_a_notice_goes_on_with_the_other(
    site: Site, data: Path, tmp_path: Path
) -> None:
    """In 3D, under MPI; Scipion has the classes of the last iteration, and all particles."""
    document = boxes.document(
        boxes.particles(data), boxes.reference(data), boxes.classes_3d(iterations=4)
    )
    project = tmp_path / "project"
    workflow = site.submit(document, project=project, play_spot="30@it2:notice1=2", exact="off")
    site.wait_for_step(workflow, "30", "COMPLETED")
    first, last = site.runs(workflow, "30")
    assert (first["end_reason"], first["nodes"]) == ("PREEMPTED", 2)
    assert (last["end_reason"], last["nodes"]) == ("COMPLETED", 1)
    assert int(last["resumed_from"] or 0) >= 1
    noticed = [node for node in nodes_of(site, workflow) if node["notice_deadline"]]
    (gone,) = noticed
    if gone["end_reason"] != "spot":  # the run had stopped in time, so the broker let it go
        assert gone["end_reason"] == "terminated"
        assert str(first["ended_at"]) <= str(gone["ended_at"])
    assert "spot played" in " ".join(
        event["text"] for event in site.client.events(workflow=workflow)["items"]
    )
    box = scipion_view.shown(project, tmp_path / "scipion")["ProtRelionClassify3D"]
    assert box.status == "finished"
    members, iterations = classes_in(project / box.outputs["outputClasses"]["file"])
    assert members == PARTICLES
    assert iterations == {"it004"}, "stale classes"


def test_an_iteration_that_fits_into_a_notice_is_finished_and_none_is_lost(
    site: Site, data: Path, tmp_path: Path
) -> None:
    """In 2D with many iterations: the run stops between two of them, long before the node goes."""
    document = boxes.document(boxes.particles(data), boxes.classes_2d(iterations=99))
    schedule = f"{CLASSES}@it3:notice=60"
    workflow = site.submit(document, project=tmp_path / "project", play_spot=schedule, exact="off")
    wait_until(
        "the first run has ended",
        lambda: site.runs(workflow, CLASSES),
        lambda runs: bool(runs and runs[0]["end_reason"]),
        sites.STEP_S,
    )
    (first, *_) = site.runs(workflow, CLASSES)
    events = site.client.events(workflow=workflow)["items"]
    (asked,) = [event["text"] for event in events if event["kind"] == "stop_after_asked"]
    assert "s left, iteration" in asked
    assert (first["end_reason"], first["iterations_lost"]) == ("PREEMPTED", 0)
    assert f"asked to stop after iteration {first['iterations_done']}:" in asked
    site.client.act("cancel", str(workflow))


def test_a_classification_that_lost_a_node_grows_again_between_two_iterations(
    site: Site, data: Path, tmp_path: Path
) -> None:
    """It has so many iterations to go that a second node saves minutes, however quick they are."""
    document = boxes.document(
        boxes.particles(data), boxes.classes_2d(iterations=5000, numberOfMpi=3)
    )
    schedule = f"{CLASSES}@it3:kill1"
    workflow = site.submit(document, project=tmp_path / "project", play_spot=schedule, exact="off")
    try:
        wait_until(
            "an iteration of the third run",
            lambda: site.step(workflow, CLASSES),
            lambda step: len(step["runs"]) == 3 and bool(iteration_of(step)),
            sites.STEP_S,
        )
        runs, events = site.runs(workflow, CLASSES), site.client.events(workflow=workflow)["items"]
    finally:
        site.client.act("cancel", str(workflow))
        site.wait_for_step(workflow, CLASSES, "CANCELLED")
    assert [run["nodes"] for run in runs] == [2, 1, 2]
    _, narrow, wide = runs
    assert (narrow["end_reason"], narrow["iterations_lost"]) == ("PREEMPTED", 0)
    (asked,) = [event["text"] for event in events if event["kind"] == "stop_after_asked"]
    assert "joins it: 2 nodes instead of 1, which saves about" in asked
    reached = int(narrow["resumed_from"] or 0) + narrow["iterations_done"]
    assert int(asked.split("iteration ")[1].split(":")[0]) <= reached
    assert wide["resumed_from"] is None or int(wide["resumed_from"]) == reached


def nodes_of(site: Site, workflow: int) -> "list[schema.Node]":
    return [node for node in site.client.nodes(ended=True)["items"] if node["workflow"] == workflow]


def classes_in(file: Path) -> tuple[int, set[str]]:
    """Particles in all classes together, and the iterations that their maps are of."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        columns = dict(db.execute("SELECT label_property, column_name FROM Classes"))
        sizes, names = columns["_size"], columns["_representative._filename"]
        rows = db.execute(f"SELECT {sizes}, {names} FROM Objects").fetchall()  # noqa: S608
    return sum(size for size, _ in rows), {name.split("_")[-2] for _, name in rows}


def test_a_run_that_hangs_ends_as_stalled_and_is_tried_again(data: Path, tmp_path: Path) -> None:
    """All ranks stand still with their processes alive."""
    with sites.running(stall_s=STALL_S, stop_grace_s=2.0) as site:
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


BOX_A = 32 * 7.0
SEEDS = (42, 1, 2, 3)
DISTURBED = "3@it3:kill,3@it6:notice1=5"


@pytest.mark.campaign
def test_interrupted_refinements_resolve_as_well_as_undisturbed_ones(tmp_path: Path) -> None:
    """Post-processed resolution, in Fourier shells, against the spread over other seeds.

    A resumed refinement is deterministic but takes another path than one that was not interrupted,
    so its files differ; the set is large enough for the spread to be a shell or two.
    """
    sites.skip_unless_all_is_here()
    demo_data.make_particles(tmp_path / "data", ParticleSet(particles=800))
    with sites.running() as site:
        undisturbed = [shells(site, tmp_path, seed) for seed in SEEDS]
        interrupted = [shells(site, tmp_path, seed, DISTURBED) for seed in SEEDS[:2]]
    print(f"shells: undisturbed {undisturbed}, interrupted {interrupted}")
    assert max(undisturbed) - min(undisturbed) <= 2, "the particle set is too small to tell"
    assert all(min(undisturbed) - 1 <= one <= max(undisturbed) + 1 for one in interrupted)


def shells(site: Site, folder: Path, seed: int, play_spot: str | None = None) -> int:
    """The Fourier shell to which a refinement with this seed resolves."""
    data = folder / "data"
    document = boxes.document(
        boxes.particles(data),
        boxes.reference(data) | {"filesPath": str(data / "reference.mrc")},
        boxes.refinement(seed=seed),
        boxes.mask(),
        boxes.post_processing(),
    )
    project = folder / f"seed {seed} {'interrupted' if play_spot else 'undisturbed'}"
    workflow = site.submit(document, project=project, play_spot=play_spot)
    site.wait_for_workflow(workflow, "COMPLETED", timeout_s=3600)
    preempted = [r for r in site.runs(workflow, "3") if r["end_reason"] == "PREEMPTED"]
    assert len(preempted) == (2 if play_spot else 0)
    progress = site.step(workflow, "5")["progress"]
    assert progress is not None
    assert progress["resolution_a"] is not None
    return round(BOX_A / progress["resolution_a"])
