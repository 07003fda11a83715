"""The order of the steps of a workflow, and the part of it that a person wants to run."""

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

from scsched.steps.errors import UsageError, WorkflowError
from scsched.steps.jsonpath import shown
from scsched.steps.spec import Edge, Warned, Workflow

_NAMED = 8


def order(ids: Sequence[str], edges: Iterable[Edge]) -> tuple[str, ...]:
    """The ids with parents before children; otherwise in the order given.

    :raises WorkflowError: at a reference of the cycle, naming its steps.
    """
    edges = tuple(edges)
    place = {step: index for index, step in enumerate(ids)}
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(ids, ()))
    for edge in edges:
        sorter.add(edge.child, edge.parent)
    try:
        sorter.prepare()
    except CycleError as exc:
        raise _circle(exc.args[1], edges) from exc
    ready: list[int] = []
    result = []
    while sorter.is_active():
        for step in sorter.get_ready():
            heapq.heappush(ready, place[step])
        step = ids[heapq.heappop(ready)]
        result.append(step)
        sorter.done(step)
    return tuple(result)


def descendants(edges: Iterable[Edge], of: Collection[str]) -> frozenset[str]:
    """The steps `of` and all that wait for them."""
    children = defaultdict(list)
    for edge in edges:
        children[edge.parent].append(edge.child)
    return _reached(children, of)


def ancestors(edges: Iterable[Edge], of: Collection[str]) -> frozenset[str]:
    """The steps `of` and all that they wait for."""
    parents = defaultdict(list)
    for edge in edges:
        parents[edge.child].append(edge.parent)
    return _reached(parents, of)


def select(
    workflow: Workflow,
    *,
    from_: Collection[str] = (),
    until: Collection[str] = (),
    only: Collection[str] = (),
) -> Workflow:
    """The part of the workflow to run; nothing given: all of it.

    `from_`: those steps and all that wait for them. `until`: those and all that they wait for.
    `only`: those. Together: what all of them leave. A step whose data comes from a step left out
    is warned of: that output has to be in the Scipion project already.

    :raises UsageError: for an id that the workflow lacks, or when nothing is left.
    """
    chosen = {step.id for step in workflow.steps}
    for option, ids in (("--from", from_), ("--until", until), ("--only", only)):
        _check_ids(workflow, option, ids)
    if from_:
        chosen &= descendants(workflow.edges, from_)
    if until:
        chosen &= ancestors(workflow.edges, until)
    if only:
        chosen &= set(only)
    if not chosen:
        raise UsageError("no step is left by --from, --until and --only together; widen one")
    return workflow if len(chosen) == len(workflow.steps) else _part(workflow, chosen)


def _part(workflow: Workflow, chosen: Collection[str]) -> Workflow:
    steps = tuple(
        replace(step, parents=tuple(parent for parent in step.parents if parent in chosen))
        for step in workflow.steps
        if step.id in chosen
    )
    into = [edge for edge in workflow.edges if edge.child in chosen]
    left_out = [edge for edge in into if edge.parent not in chosen]
    warnings = tuple(_missing(edge) for edge in left_out if edge.data)
    return Workflow(
        steps=steps,
        edges=tuple(edge for edge in into if edge.parent in chosen),
        warnings=workflow.warnings + warnings,
    )


def _missing(edge: Edge) -> Warned:
    wanted = f"{edge.parent}.{edge.output}" if edge.output else f"step {edge.parent}"
    problem = f"step {edge.child} uses {wanted}, left out here; it has to be in the project already"
    return Warned(edge.where, problem)


def _check_ids(workflow: Workflow, option: str, ids: Iterable[str]) -> None:
    known = [step.id for step in workflow.steps]
    for step in ids:
        if step in known:
            continue
        near = get_close_matches(step, known, n=3, cutoff=0.5)
        all_of_them = len(known) <= _NAMED
        there = known if all_of_them else near or known[:_NAMED]
        said = "there are" if all_of_them else "near ones:" if near else "the first ones:"
        raise UsageError(f"{option} {shown(step)}: no such step; {said} {', '.join(there)}")


def _reached(neighbours: Mapping[str, Sequence[str]], start: Collection[str]) -> frozenset[str]:
    seen = set(start)
    todo = list(start)
    while todo:
        for step in neighbours.get(todo.pop(), ()):
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return frozenset(seen)


def _circle(steps: Sequence[str], edges: Iterable[Edge]) -> WorkflowError:
    # graphlib names each step before the one that waits for it, and the first one twice.
    parent, child = steps[0], steps[1]
    where = next(edge.where for edge in edges if (edge.parent, edge.child) == (parent, child))
    named = [*steps[:_NAMED], "..."] if len(steps) > _NAMED else steps
    problem = f"steps wait for each other in a circle, {' -> '.join(named)}; cut this reference"
    return WorkflowError(where, problem)
