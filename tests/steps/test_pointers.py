"""What is a reference to another protocol, and what only looks like one."""

import pytest

from scsched.steps import pointers


def found(key: str, value: object) -> list[tuple[str, str, bool]]:
    references = pointers.references({key: value}, at="$[0]")
    return [(reference.parent, reference.output, reference.data) for reference in references]


@pytest.mark.parametrize(
    ("key", "value", "parents"),
    [
        ("inputMovies", "2.outputMovies", [("2", "outputMovies", True)]),
        ("inputVolume", "1234.outputVol.4", [("1234", "outputVol.4", True)]),
        ("continueRun", "79.", [("79", "", True)]),
        ("continueRun", "79", [("79", "", True)]),
        ("boxSize", "1548.boxSizeExtraction", [("1548", "boxSizeExtraction", True)]),
        ("inputMicrographs", "40.__attribute__outputMics", [("40", "outputMics", True)]),
        ("inputVolume", "40.outputVols.__itemid__3", [("40", "outputVols.3", True)]),
        ("inputSets", ["1.a", "2.b"], [("1", "a", True), ("2", "b", True)]),
        ("inputProtocols", ["2", "77"], [("2", "", True), ("77", "", True)]),
        ("_prerequisites", "190,135", [("190", "", False), ("135", "", False)]),
        ("_prerequisites", "190, 135", [("190", "", False), ("135", "", False)]),
        ("_prerequisites", "Cutting out subtomograms.", []),
        ("_prerequisites", None, []),
        ("gpuList", "2", []),
        ("search5DStep", "2", []),
        ("overlapPatches", "0.33 0.33", []),
        ("extraParams", "2.5", []),
        ("extraParams", "2.outputMovies --x", []),
        ("extraParams", "2.outputMovies\n", []),
        ("filesPath", "2.mrcs", []),
        ("anything", "2.tif", []),
        ("object.label", "2.outputMovies", []),
        ("object.comment", "79.", []),
        ("voltage", 2, []),
        ("inputMovies", None, []),
        ("x", "٢.outputMovies", []),
    ],
)
def test_references(key: str, value: object, parents: list[tuple[str, str, bool]]) -> None:
    assert found(key, value) == parents


def test_the_place_of_a_reference_in_a_list() -> None:
    references = list(pointers.references({"in": ["x", "2.a"]}, at="$[3]"))
    assert [reference.where for reference in references] == ["$[3].in[1]"]


def test_todays_spelling() -> None:
    assert pointers.today("40.__attribute__outputMics") == "40.outputMics"
    assert pointers.today(["7.__itemid__3", "8"]) == ["7.3", "8"]
    assert pointers.today("a __attribute__ b") == "a __attribute__ b"
    assert pointers.today(5) == 5
