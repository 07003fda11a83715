"""A workflow from its first box to its last, with nothing in its way."""

from pathlib import Path

import pytest

from scsched.scheduler import demo_data
from scsched.scheduler.demo_data import MovieSet
from tests.e2e import scipion_view
from tests.e2e.site import Site
from tests.e2e.workflows import boxes

pytestmark = [pytest.mark.scipion, pytest.mark.relion, pytest.mark.slow]


def test_movies_become_two_dimensional_classes(site: Site, tmp_path: Path) -> None:
    """Each step runs once, after those it needs, and Scipion shows all of it."""
    demo_data.make_movies(tmp_path / "data", MovieSet(movies=1, frames=4))
    document = boxes.document(
        # In another order than they run.
        boxes.classes_2d(parent="12", iterations=2, numberOfClasses=2),
        boxes.extracted(),
        boxes.movies(tmp_path / "data" / "movies"),
        boxes.picked(),
        boxes.aligned(),
    )
    project = tmp_path / "project"
    workflow = site.submit(document, project=project)
    site.wait_for_workflow(workflow, "COMPLETED")
    runs = sorted(site.client.workflow(workflow)["runs"], key=lambda run: run["started_at"] or "")
    assert [run["step"] for run in runs] == ["9", "10", "11", "12", "20"]
    assert {run["end_reason"] for run in runs} == {"COMPLETED"}
    shown = scipion_view.shown(project, tmp_path / "scipion")
    assert {box.status for box in shown.values()} == {"finished"}
    particles = shown["ProtRelionExtractParticles"].outputs["outputParticles"]["size"]
    coordinates = shown["ProtRelionAutopickLoG"].outputs["outputCoordinates"]["size"]
    assert 0 < particles <= coordinates
    assert shown["ProtRelionClassify2D"].outputs["outputClasses"]["size"] >= 1
