"""From the bytes of an export to a workflow in order, or one line that says what to do."""

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scsched.steps.classes import ClassInfo
from scsched.steps.errors import WorkflowError
from scsched.steps.scipion import read_workflow, scipion_document, selected
from scsched.steps.spec import Edge, ResourceClass, Resume, Shape, Workflow
from tests.steps import strategies

Params = dict[str, Any]


def box(step: int | str, protocol: str = "ProtRelionClassify2D", **params: object) -> Params:
    return {"object.className": protocol, "object.id": str(step), **params}


def read(*boxes: Params, **options: Any) -> Workflow:
    return read_workflow(json.dumps(boxes).encode(), filename="spa.json", **options)


def refusal(*boxes: Params, **options: Any) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        read(*boxes, **options)
    assert str(caught.value).startswith(f"spa.json: {caught.value.where}: ")
    assert "\n" not in str(caught.value)
    return caught.value


IMPORT = box(2, "ProtImportParticles", **{"object.label": "the particles"})


def test_a_step_has_what_the_file_says_of_it() -> None:
    refine = box(436, "ProtRelionRefine3D", inputParticles="2.outputParticles", numberOfMpi=3)
    workflow = read(IMPORT, refine)
    step = workflow.steps[1]
    assert (step.id, step.label, step.protocol) == (
        "436",
        "ProtRelionRefine3D",
        "ProtRelionRefine3D",
    )
    assert (step.resource_class, step.resume) == (ResourceClass.MEMORY, Resume.ITERATION)
    assert (step.demand.shape, step.demand.ranks) == (Shape.SPLIT_HALVES, 3)
    assert step.parents == ("2",)
    assert step.params == refine
    assert workflow.steps[0].label == "the particles"
    assert workflow.edges == (
        Edge(parent="2", child="436", where="$[1].inputParticles", output="outputParticles"),
    )


def test_steps_are_in_an_order_in_which_they_may_run() -> None:
    late = [box(9, protRefine="5."), box(5, inputParticles="2.out"), IMPORT]
    assert [step.id for step in read(*late).steps] == ["2", "5", "9"]


def test_a_prerequisite_orders_and_carries_no_data() -> None:
    workflow = read(box(5, _prerequisites="2, later, 7"), IMPORT)
    assert [(edge.parent, edge.data) for edge in workflow.edges] == [("2", False)]
    assert [warning.where for warning in workflow.warnings] == ["$[0]._prerequisites"]


def test_a_step_on_the_gpu_is_gpu_bound() -> None:
    workflow = read(IMPORT, box(5, inputParticles="2.a", doGpu=True), box(6, inputParticles="2.a"))
    assert [step.resource_class for step in workflow.steps[1:]] == [
        ResourceClass.GPU,
        ResourceClass.CPU,
    ]


def test_an_interactive_protocol_is_a_gate_that_says_what_to_do() -> None:
    step = read(IMPORT, box(5, "ProtUserSubSet", inputObject="2.outputParticles")).steps[1]
    assert step.resource_class is ResourceClass.INTERACTIVE
    assert "viewer" in step.gate


@pytest.mark.parametrize(
    "params", [box(2, "ProtMonitorSummary"), box(2, "ProtImportMovies", dataStreaming="true")]
)
def test_monitors_and_streaming_imports_live_long(params: Params) -> None:
    assert read(params).steps[0].long_lived


def test_the_content_wrapper_is_in_the_paths() -> None:
    raw = json.dumps({"content": [IMPORT, box(5, inputParticles="2.a")]}).encode()
    workflow = read_workflow(raw, filename="w.json")
    assert workflow.edges[0].where == "$.content[1].inputParticles"


@pytest.mark.parametrize(
    ("boxes", "where", "words"),
    [
        ([box(2), box(2)], '$[1]["object.id"]', 'id "2" again'),
        ([box("x")], '$[0]["object.id"]', "write digits"),
        ([{"object.className": "ProtWait"}], '$[0]["object.id"]', "missing"),
        ([{"object.id": "2"}], '$[0]["object.className"]', "missing"),
        ([box(2, "os.system('x')")], '$[0]["object.className"]', "no protocol class"),
        ([box(2, "ProtRelionClasify2D")], '$[0]["object.className"]', "ProtRelionClassify2D"),
        ([box(2, "Zork")], '$[0]["object.className"]', "--map Zork=cpu-bound"),
        ([box(2, "Zork"), box(3, "Zark")], '$[0]["object.className"]', "unknown too: Zark"),
        ([box(2, a="3.x"), box(3, b="2.y")], "$[", "circle"),
        ([box(2, a="2.x")], "$[0].a", "2 -> 2"),
        ([IMPORT, box(5, inputParticles="9.outputParticles")], "$[1].inputParticles", "9.output"),
        ([box(5, inputProtocols=["9"])], "$[0].inputProtocols[0]", "export its parents"),
    ],
)
def test_a_workflow_is_refused_with_its_place(boxes: list[Params], where: str, words: str) -> None:
    error = refusal(*boxes)
    assert error.where.startswith(where)
    assert words in error.problem


def test_a_dangling_reference_beside_a_whole_one_makes_a_gate() -> None:
    workflow = read(IMPORT, box(5, inputParticles="2.a", referenceVolume="9.outputVolume"))
    assert "9.outputVolume" in workflow.steps[1].gate
    assert [warning.where for warning in workflow.warnings] == ["$[1].referenceVolume"]


def test_a_dangling_reference_of_a_gate_is_a_warning() -> None:
    workflow = read(box(5, "ProtUserSubSet", inputObject="9.outputParticles"))
    assert "viewer" in workflow.steps[0].gate
    assert len(workflow.warnings) == 1


def test_into_a_project_that_may_hold_the_rest_a_part_is_let_in() -> None:
    workflow = read(box(5, inputParticles="9.outputParticles"), partial=True)
    assert workflow.steps[0].gate == ""
    assert len(workflow.warnings) == 1


def test_a_file_name_that_looks_like_a_pointer_is_a_file_name() -> None:
    files = box(2, "ProtImportParticles", filesPath="9.outputParticles", mdFile="12.xmd")
    assert read(files).edges == ()


def test_scipion_1_wrote_ids_twice_and_meant_the_later() -> None:
    old = [
        box(2, "ProtImportMovies"),
        box(3, "EmanProtBoxing", inputMicrographs="2.__attribute__outputMicrographs"),
        box(3, "ProtUserSubSet", inputObject="2.__attribute__outputMicrographs"),
        box(4, "ProtRelionClassify2D", inputParticles="3.outputMicrographs"),
    ]
    workflow = read(*old)
    assert [(step.id, step.protocol) for step in workflow.steps[1:3]] == [
        ("5", "EmanProtBoxing"),
        ("3", "ProtUserSubSet"),
    ]
    assert [edge.output for edge in workflow.edges] == ["outputMicrographs"] * 3
    assert len(workflow.warnings) == 1


def test_an_id_that_is_a_number_is_taken() -> None:
    assert [step.id for step in read({"object.id": 2, "object.className": "ProtWait"}).steps] == [
        "2"
    ]


def test_a_map_and_the_site_let_an_unknown_class_in() -> None:
    boxes = [box(2, "Zork", gpuList="0"), box(3, "Zark", gpuList="0 1")]
    site = {"Zark": ClassInfo(protocol="Zark", resource_class=ResourceClass.CPU)}
    steps = read(*boxes, maps={"Zork": ResourceClass.IO}, site=site).steps
    assert [step.resource_class for step in steps] == [ResourceClass.IO, ResourceClass.GPU]
    assert [step.demand.gpus for step in steps] == [0, 2]


def test_ranks_that_auto_refine_cannot_have_are_warned_of() -> None:
    workflow = read(box(2, "ProtRelionRefine3D", numberOfMpi=4))
    assert [warning.where for warning in workflow.warnings] == ["$[0].numberOfMpi"]


def test_an_input_that_nobody_chose_is_warned_of() -> None:
    workflow = read(box(2, inputParticles=None))
    assert [warning.where for warning in workflow.warnings] == ["$[0].inputParticles"]


def test_the_name_of_the_file_is_data() -> None:
    with pytest.raises(WorkflowError) as caught:
        read_workflow(b"[]", filename="a\nb\x1b\udcff.json")
    assert str(caught.value).startswith("a?b??.json: $: ")


def test_labels_with_anything_in_them_arrive_as_data() -> None:
    label = "a 'b' \"c\"\n$(touch /tmp/x); `id` %s {0} é"
    workflow = read(box(2, **{"object.label": label, "filesPath": label}))
    assert workflow.steps[0].label == label
    assert json.loads(scipion_document(workflow))[0]["filesPath"] == label


def test_the_number_of_references_is_bounded() -> None:
    many = box(3, inputProtocols=["2"] * 100_001)
    assert "references" in refusal(IMPORT, many).problem


def test_five_thousand_steps_are_read_in_linear_time() -> None:
    plain: Params = {f"parameter{number}": 0.5 for number in range(60)}
    boxes = [box(step, inputParticles=f"{step - 1}.out", **plain) for step in range(2, 5001)]
    raw = json.dumps([box(1), *boxes]).encode()
    before = time.process_time()
    assert len(read_workflow(raw, filename="w.json").steps) == 5000
    assert time.process_time() - before < 20.0, "a square of their number would take minutes"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.documents())
def test_every_whole_workflow_loads(document: strategies.Document) -> None:
    workflow = read(*document)
    place = {step.id: index for index, step in enumerate(workflow.steps)}
    by_id = {params["object.id"]: params for params in document}
    assert set(place) == set(by_id)
    assert all(place[edge.parent] < place[edge.child] for edge in workflow.edges)
    assert all(step.params == by_id[step.id] for step in workflow.steps)
    again = read(*json.loads(scipion_document(workflow)))
    assert _arrows(again) == _arrows(workflow)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.documents(), st.data())
def test_no_selection_has_an_edge_out_of_itself(
    document: strategies.Document, data: st.DataObject
) -> None:
    workflow = read(*document)
    start = data.draw(st.sampled_from([step.id for step in workflow.steps]))
    for part in (selected(workflow, [start]), selected(workflow, (), [start], (start,))):
        ids = {step.id for step in part.steps}
        assert start in ids
        assert all({edge.parent, edge.child} <= ids for edge in part.edges)
        assert all(set(step.parents) <= ids for step in part.steps)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(strategies.files(), st.binary(), st.text().map(str.encode)))
def test_whatever_the_bytes_a_workflow_or_one_line(raw: bytes) -> None:
    refused = None
    try:
        assert read_workflow(raw, filename="w.json").steps
    except WorkflowError as exc:
        refused = exc
    assert refused is None or ("\n" not in str(refused) and refused.where in str(refused))


def test_the_generator_makes_mostly_whole_workflows() -> None:
    loaded = []

    @settings(database=None, deadline=None, derandomize=True, max_examples=300)
    @given(strategies.files())
    def count(raw: bytes) -> None:
        try:
            loaded.append(bool(read_workflow(raw, filename="w.json")))
        except WorkflowError:
            loaded.append(False)

    count()
    assert 0.3 < sum(loaded) / len(loaded) < 0.95


def _arrows(workflow: Workflow) -> set[tuple[str, str, str, bool]]:
    return {(edge.parent, edge.child, edge.output, edge.data) for edge in workflow.edges}
