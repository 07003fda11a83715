"""What `inspect --json` prints, and what Scipion's loader is given."""

import json

from scsched.steps.scipion import read_workflow, scipion_document, selected, to_json

OLD = [
    {"object.className": "ProtImportMovies", "object.id": "2", "runMode": 1, "_useQueue": True},
    {
        "object.className": "ProtMotionCorr",
        "object.id": "5",
        "object.label": "align",
        "GPUIDs": "0 1",
        "gpuMsg": "True",
        "inputMovies": "2.__attribute__outputMovies",
        "_prerequisites": "2, 77",
        "_queueParams": '["gpu", {}]',
    },
    {"object.className": "ProtCTFFind", "object.id": "7", "inputMicrographs": "5.__itemid__3"},
]
WORKFLOW = read_workflow(json.dumps(OLD).encode(), filename="w.json")


def test_inspect_prints_steps_edges_and_warnings() -> None:
    printed = json.loads(json.dumps(to_json(WORKFLOW)))
    assert printed["schema"] == "scsched/v1"
    assert [step["id"] for step in printed["steps"]] == ["2", "5", "7"]
    align = printed["steps"][1]
    assert (align["label"], align["class"], align["gate"]) == ("align", "gpu-bound", None)
    assert align["demand"]["gpus"] == 2
    assert align["resume"] == "item"
    assert printed["edges"][0] == {
        "parent": "2",
        "child": "5",
        "where": "$[1].inputMovies",
        "output": "outputMovies",
        "data": True,
    }
    assert printed["counts"]["edges"] == 3
    assert {warning["where"] for warning in printed["warnings"]} >= {'$[2]["object.className"]'}


def test_the_document_is_spelled_as_todays_loader_wants() -> None:
    movies, align, ctf = json.loads(scipion_document(WORKFLOW))
    assert (movies["runMode"], movies["_useQueue"]) == (0, False)
    assert align["inputMovies"] == "2.outputMovies"
    assert align["_prerequisites"] == "2"
    assert align["_queueParams"] is None
    assert align["gpuList"] == "0 1"
    assert (ctf["object.className"], ctf["inputMicrographs"]) == ("CistemProtCTFFind", "5.3")


def test_the_steps_keep_the_values_of_the_file() -> None:
    assert [step.params for step in WORKFLOW.steps] == OLD


def test_a_part_refers_to_nothing_outside_unless_the_project_has_it() -> None:
    part = selected(WORKFLOW, (), (), ["5"])
    (alone,) = json.loads(scipion_document(part))
    assert (alone["_prerequisites"], alone["inputMovies"]) == ("", None)
    (into_project,) = json.loads(scipion_document(part, partial=True))
    assert into_project["inputMovies"] == "2.outputMovies"


def test_only_the_missing_ones_of_a_list_are_left_out() -> None:
    monitor = {
        "object.className": "ProtMonitorSummary",
        "object.id": "9",
        "inputProtocols": ["2", "77"],
        "filesPath": "77.outputs",
    }
    raw = json.dumps([OLD[0], monitor]).encode()
    document = json.loads(scipion_document(read_workflow(raw, filename="w.json")))
    assert document[1]["inputProtocols"] == ["2"]
    assert document[1]["filesPath"] == "77.outputs"
