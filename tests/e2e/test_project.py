"""What is in the Scipion project at the end, and steps that end otherwise than well."""

from datetime import datetime
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tests.e2e import scipion_view
from tests.e2e.project import statuses
from tests.e2e.refinement import LABEL, PARTICLES, STEP, Refinement
from tests.e2e.scipion_view import Box
from tests.e2e.site import END_S, Site, wait_until
from tests.e2e.workflows import boxes

pytestmark = [pytest.mark.scipion, pytest.mark.relion, pytest.mark.slow]

NYQUIST_A, FAR_TOO_COARSE_A = 14.0, 60.0
WEIRD = 'it\'s a "project"; $(touch x) `y` 100%\n& more'


@pytest.fixture(scope="module")
def shown(refinement: Refinement, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Box]:
    """The refinement's project, once it has ended."""
    refinement.finish()
    return scipion_view.shown(refinement.project, tmp_path_factory.mktemp("scipion"))


def test_the_project_opens_in_scipion_with_every_box_finished(
    shown: dict[str, Box], refinement: Refinement
) -> None:
    assert len(shown) == 5
    assert {box.status for box in shown.values()} == {"finished"}
    assert not [box.error for box in shown.values() if box.error]
    assert set(statuses(refinement.project)) == {"finished"}
    assert len(statuses(refinement.project)) == len(shown)


def test_labels_survive(shown: dict[str, Box]) -> None:
    assert shown["ProtRelionRefine3D"].label == LABEL
    assert shown["ProtRelionCreateMask3D"].label == "Mask"


def test_scipion_has_the_final_results_and_no_stale_ones(
    shown: dict[str, Box], refinement: Refinement, site: Site
) -> None:
    """Those of the last attempt, under the names that Scipion expects, and nothing else."""
    outputs = shown["ProtRelionRefine3D"].outputs
    assert outputs["outputParticles"]["size"] == PARTICLES
    volume = refinement.project / outputs["outputVolume"]["file"]
    assert volume.name == "relion_class001.mrc"
    last = site.runs(refinement.workflow, STEP)[-1]
    began = datetime.fromisoformat(last["started_at"] or "").timestamp()
    extra = refinement.job_dir / "extra"
    finals = [volume, extra / "relion_data.star", extra / "relion_model.star"]
    assert all(file.stat().st_mtime >= began for file in finals)
    assert not list(extra.glob("relion_a*")), "an attempt's own files are left"
    attempt = refinement.lineage().last(refinement.base)
    assert attempt is not None
    assert attempt.published
    iterations = sorted(int(file.name[9:12]) for file in extra.glob("relion_it*_optimiser.star"))
    assert iterations == list(range(len(iterations))), "one line of iterations without a gap"
    registered = refinement.project / outputs["outputParticles"]["file"]
    assert registered.stat().st_mtime >= began


def test_it_ends_in_a_post_processed_map(
    shown: dict[str, Box], refinement: Refinement, site: Site
) -> None:
    progress = site.step(refinement.workflow, "5")["progress"]
    assert progress is not None
    resolution_a = progress["resolution_a"]
    assert resolution_a is not None
    assert NYQUIST_A <= resolution_a <= FAR_TOO_COARSE_A
    output = refinement.project / shown["ProtRelionPostprocess"].outputs["outputVolume"]["file"]
    assert np.isfinite(mrcfile.read(output)).all()


def test_the_receipt_has_a_line_for_every_run(refinement: Refinement, site: Site) -> None:
    refinement.finish()
    receipt = site.client.receipt(refinement.workflow)
    runs = site.client.workflow(refinement.workflow)["runs"]
    assert len(receipt["lines"]) == len(runs)
    assert receipt["total_usd"] == pytest.approx(
        receipt["boot_without_run_usd"]
        + receipt["idle_usd"]
        + sum(line["usd"] for line in receipt["lines"]),
        abs=1e-4,
    )


def test_names_with_spaces_quotes_and_shell_characters_are_data(
    site: Site, data: Path, tmp_path: Path
) -> None:
    """In the project's path, the data's path and a label, through Scipion and RELION."""
    strange = tmp_path / "data of 'May'"
    strange.symlink_to(data)
    label = "a \"label\" with 'quotes'; $(touch x) `y` | é\nand a second line"
    document = boxes.document(
        boxes.particles(strange, label=label), boxes.classes_2d(label=label, iterations=2)
    )
    project = tmp_path / WEIRD
    workflow = site.submit(document, project=project, name="it's; $(touch x)")
    site.wait_for_workflow(workflow, "COMPLETED")
    found = scipion_view.shown(project, tmp_path / "scipion")
    assert [box.label for box in found.values()] == [label, label]
    assert {box.status for box in found.values()} == {"finished"}
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "y")]


def test_an_interactive_step_waits_for_a_person(site: Site, data: Path, tmp_path: Path) -> None:
    """It says what to do; released and not done in Scipion, it fails and says so."""
    document = boxes.document(boxes.particles(data), boxes.subset())
    workflow = site.submit(document, project=tmp_path / "project")
    site.wait_for_step(workflow, "1", "COMPLETED")
    step = wait_until(
        "the step waits for a person",
        lambda: site.step(workflow, "6"),
        lambda found: found["why"]["reason"] == "Interactive",
        END_S,
    )
    assert step["state"] == "PENDING"
    assert "in Scipion" in step["why"]["sentence"]
    assert f"scsched release {workflow}.6" in step["why"]["sentence"]
    assert site.client.workflow(workflow)["state"] == "ATTENTION"
    site.client.act("release", f"{workflow}.6")
    ended = site.wait_for_step(workflow, "6", "FAILED")["last_end"]
    assert ended is not None
    assert "not finished: do it there, then resubmit this step" in ended["detail"]


def test_a_programs_own_error_ends_the_step_with_its_last_words(
    site: Site, data: Path, tmp_path: Path
) -> None:
    """It is tried as often as configured, and not once more."""
    document = boxes.document(
        boxes.particles(data),
        boxes.reference(data),
        boxes.refinement(extra="--solvent_mask nowhere.mrc"),
        boxes.mask(),
    )
    workflow = site.submit(document, project=tmp_path / "project")
    step = site.wait_for_step(workflow, STEP, "FAILED")
    runs = site.runs(workflow, STEP)
    assert [run["end_reason"] for run in runs] == ["FAILED"] * 3
    assert step["last_end"] is not None
    assert "Cannot read file nowhere.mrc It does not exist" in step["last_end"]["detail"]
    assert "\x1b" not in step["last_end"]["detail"], "colours are for terminals"
    assert step["last_end"]["exit_code"] == 1, "RELION's, not Scipion's"
    child = site.step(workflow, "4")
    assert child["why"]["reason"] == "DependencyNeverSatisfied"
    assert f"scsched resubmit {workflow}.{STEP}" in child["why"]["sentence"]
    assert site.client.workflow(workflow)["state"] == "FAILED"


def test_exit_code_0_without_outputs_is_a_failure(site: Site, tmp_path: Path) -> None:
    """Halves that contradict each other give "inf" Angstrom: RELION ends with 0."""
    write_maps(tmp_path / "maps")
    post = boxes.post_processing() | {
        "relionInput": False,
        "inputVolume": "50.outputVolume",
        "solventMask": "51.outputMask",
        "protRefine": None,
    }
    document = boxes.document(
        boxes.half_maps(tmp_path / "maps"), boxes.imported_mask(tmp_path / "maps"), post
    )
    workflow = site.submit(document, project=tmp_path / "project")
    ended = site.wait_for_step(workflow, "5", "FAILED")["last_end"]
    assert ended is not None
    assert ended["exit_code"] == 0, ended
    assert "the final resolution is inf" in ended["detail"], ended


def write_maps(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(1).normal(size=(32, 32, 32))
    distance = np.sqrt(((np.indices((32, 32, 32)) - 16) ** 2).sum(axis=0))
    mask = np.clip(12 - distance, 0, 1)
    maps = {"map": noise, "half1": noise, "half2": -noise, "mask": mask}
    for name, values in maps.items():
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(values.astype(np.float32))
            file.voxel_size = 7.0
