"""Public workflows of ten years: all load; their broken relatives do not."""

from collections import Counter
from pathlib import Path

import pytest

from scsched.steps.errors import WorkflowError
from scsched.steps.scipion import read_workflow, scipion_document
from scsched.steps.spec import Workflow

CORPUS = Path(__file__).parents[3] / "shared" / "workflows"
pytestmark = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"no {CORPUS}")
EXPORTS = sorted(CORPUS.glob("*.json"))
TEMPLATES = sorted(CORPUS.glob("templates/*.template"))
BROKEN = sorted(CORPUS.glob("broken/*"))
LACKING = {
    "scipion-app__workflow_betagal1.json",
    "scipion-pyworkflow__demo.json",
    "scipion-web__workflow_betagal1.json",
    "scipion__workflow_betagal1_2.json",
    "tomo__HIV-Subtomogram-averaging__old5_2023-03-29.json",
    "tomo__HIV-Subtomogram-averaging__old6_2023-03-24.json",
}
"""Exports with a reference to a protocol that they lack."""


def load(path: Path, **params: str) -> Workflow:
    return read_workflow(path.read_bytes(), filename=path.name, params=params)


@pytest.mark.parametrize("path", EXPORTS, ids=lambda path: path.name)
def test_an_export_loads_and_its_document_loads_to_the_same(path: Path) -> None:
    workflow = load(path)
    document = scipion_document(workflow, partial=True)
    again = read_workflow(document.encode(), filename="again.json")
    assert [step.id for step in again.steps] == [step.id for step in workflow.steps]
    lacking = any("Set the input" in step.gate for step in workflow.steps)
    assert lacking == (path.name in LACKING)


def test_the_exports_have_the_known_edges_and_gates() -> None:
    workflows = [load(path) for path in EXPORTS]
    steps = [step for workflow in workflows for step in workflow.steps]
    edges = [edge for workflow in workflows for edge in workflow.edges]
    assert (len(workflows), len(steps), len(edges)) == (70, 982, 1224)
    assert sum(not edge.data for edge in edges) == 3
    assert len({step.protocol for step in steps}) == 185
    assert sum(bool(step.gate) for step in steps) == 64 + len(LACKING)
    assert Counter(str(step.resource_class) for step in steps) == {
        "cpu-bound": 260,
        "gpu-bound": 175,
        "interactive": 64,
        "io-bound": 252,
        "light": 140,
        "memory-bound": 91,
    }


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_loads_with_its_defaults(path: Path) -> None:
    assert len(load(path).steps) >= 7


def test_a_template_takes_params() -> None:
    workflow = load(CORPUS / "templates" / "pwem_demo.json.template", moviespath="/d", volt="200")
    assert workflow.steps[0].params["filesPath"] == "/d"
    assert workflow.steps[0].params["voltage"] == 200
    assert not [warning for warning in workflow.warnings if "SCIPION_TESTS" in warning.problem]


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.name)
def test_a_broken_file_is_refused_with_its_line(path: Path) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(path)
    assert caught.value.where.startswith("line ")
    assert str(caught.value).startswith(path.name)
    assert "\n" not in str(caught.value)
