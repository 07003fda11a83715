"""Parents before children, otherwise the order of the file; and the part that a person asks for."""

from itertools import pairwise

import pytest

from scsched.steps import graph
from scsched.steps.errors import UsageError, WorkflowError
from scsched.steps.spec import Demand, Edge, ResourceClass, Resume, Step, Workflow


def edge(parent: str, child: str, *, data: bool = True) -> Edge:
    return Edge(parent=parent, child=child, where=f"$.{child}", output="out", data=data)


def step(name: str, *parents: str) -> Step:
    return Step(
        id=name,
        label=name,
        protocol="P",
        resource_class=ResourceClass.CPU,
        demand=Demand(),
        resume=Resume.NONE,
        parents=parents,
    )


# 1 ─ 2 ─ 4     1 ─ 3 ─ 4
DIAMOND = Workflow(
    steps=(step("1"), step("2", "1"), step("3", "1"), step("4", "2", "3")),
    edges=(edge("1", "2"), edge("1", "3"), edge("2", "4"), edge("3", "4", data=False)),
)


def ids(workflow: Workflow) -> list[str]:
    return [step.id for step in workflow.steps]


def test_independent_steps_keep_the_order_of_the_file() -> None:
    assert graph.order(["9", "1", "5"], []) == ("9", "1", "5")


def test_a_parent_after_its_child_moves_up_and_nothing_else() -> None:
    assert graph.order(["3", "9", "1"], [edge("1", "3")]) == ("9", "1", "3")


def test_two_edges_between_two_steps_are_one_order() -> None:
    assert graph.order(["2", "1"], [edge("1", "2"), edge("1", "2")]) == ("1", "2")


def test_a_circle_is_named_at_one_of_its_references() -> None:
    circle = [edge("1", "2"), edge("2", "3"), edge("3", "1"), edge("1", "4")]
    with pytest.raises(WorkflowError) as caught:
        graph.order(["1", "2", "3", "4"], circle)
    assert caught.value.where in ("$.1", "$.2", "$.3")
    named = caught.value.problem.split("circle, ")[1].split(";")[0].split(" -> ")
    assert named[0] == named[-1]
    assert set(named) == {"1", "2", "3"}
    pairs = {(edge.parent, edge.child) for edge in circle}
    assert all(pair in pairs for pair in pairwise(named))


def test_a_step_that_waits_for_itself_is_a_circle() -> None:
    with pytest.raises(WorkflowError, match="1 -> 1"):
        graph.order(["1"], [edge("1", "1")])


def test_a_long_circle_is_cut_in_the_message() -> None:
    names = [str(number) for number in range(5000)]
    circle = [edge(a, b) for a, b in zip(names, names[1:] + names[:1], strict=True)]
    with pytest.raises(WorkflowError) as caught:
        graph.order(names, circle)
    assert len(str(caught.value)) < 200


def test_descendants_and_ancestors_hold_the_start() -> None:
    assert graph.descendants(DIAMOND.edges, ["2"]) == {"2", "4"}
    assert graph.ancestors(DIAMOND.edges, ["2"]) == {"1", "2"}


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, ["1", "2", "3", "4"]),
        ({"from_": ["2"]}, ["2", "4"]),
        ({"until": ["3"]}, ["1", "3"]),
        ({"only": ["4", "1"]}, ["1", "4"]),
        ({"from_": ["2"], "until": ["2"]}, ["2"]),
        ({"from_": ["1"], "until": ["4"]}, ["1", "2", "3", "4"]),
    ],
)
def test_selection(options: dict[str, list[str]], left: list[str]) -> None:
    assert ids(graph.select(DIAMOND, **options)) == left


def test_a_step_forgets_the_parents_left_out_and_is_warned_of() -> None:
    part = graph.select(DIAMOND, from_=["2"])
    assert part.steps[0].parents == ()
    assert part.steps[1].parents == ("2",)
    assert [edge.parent for edge in part.edges] == ["2"]
    assert [warning.where for warning in part.warnings] == ["$.2"]
    assert "1.out" in part.warnings[0].problem


@pytest.mark.parametrize("option", ["from_", "until", "only"])
def test_an_unknown_id_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=r'--\w+ "5": no such step; there are 1, 2'):
        graph.select(DIAMOND, **{option: ["5"]})


def test_of_many_steps_the_near_ones_are_named() -> None:
    many = Workflow(steps=tuple(step(str(number)) for number in range(1, 13)), edges=())
    with pytest.raises(UsageError, match=r'--only "99": no such step; near ones: 9$'):
        graph.select(many, only=["99"])
    with pytest.raises(UsageError, match="no such step; the first ones: 1, 2, "):
        graph.select(many, only=["x"])


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(UsageError, match="no step is left"):
        graph.select(DIAMOND, from_=["2"], until=["3"])
