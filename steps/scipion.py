"""Turns a Scipion export into a checked `Workflow`, and back into what Scipion's loader takes.

    bytes ── loader ── ids, classes ── pointers ── dangling? ── graph ──► Workflow

A reference to a protocol that the file lacks is dangling. Scipion's loader leaves it empty unless
the project already has a protocol of that id. So:

- `_prerequisites`: a warning; Scipion ignores it too.
- A step with other inputs from this file: the export is a part of a larger project. A warning, and
  the step becomes a gate: it waits until a person has set that input.
- A step with nothing else to wait for would start at once with nothing to work on: an error,
  unless it waits for a person anyway.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scsched.steps import classes, demand, graph, loader, pointers
from scsched.steps.classes import ClassInfo
from scsched.steps.errors import WorkflowError
from scsched.steps.export import scipion_document, to_json
from scsched.steps.jsonpath import path, shown
from scsched.steps.pointers import Reference
from scsched.steps.spec import Edge, ResourceClass, Shape, Step, Warned, Workflow

__all__ = ["read_workflow", "scipion_document", "selected", "to_json"]

MAX_REFERENCES = 100_000
_ID = re.compile(r"[0-9]{1,12}")
_CLASS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ID_KEY, _CLASS_KEY, _LABEL_KEY = "object.id", "object.className", "object.label"
_STARTS_OTHERS = "ProtMonitor2dStreamer"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the submitter and the site say about protocol classes."""

    maps: Mapping[str, ResourceClass]
    site: Mapping[str, ClassInfo]


@dataclass(slots=True, kw_only=True)
class _Box:
    """One protocol of the file while it is read."""

    id: str
    at: str
    params: dict[str, object]
    info: ClassInfo
    edges: list[Edge] = field(default_factory=list)
    dangling: list[Reference] = field(default_factory=list)


def read_workflow(
    raw: bytes,
    *,
    filename: str,
    params: Mapping[str, str] | None = None,
    maps: Mapping[str, ResourceClass] | None = None,
    site: Mapping[str, ClassInfo] | None = None,
    environ: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Workflow:
    """The workflow in the file, its steps in an order in which they may run.

    :param params: values for the fields of a template, by alias.
    :param maps: resource classes for this workflow's protocol classes.
    :param site: the site's additions to the table of classes.
    :param environ: what `%(NAME)s` of a template stands for.
    :param partial: it goes into a project that may hold the protocols which the file lacks.
    :raises WorkflowError: one line with file, JSON path and what to do.
    """
    known = _Known(maps=maps or {}, site=site or {})
    try:
        loaded = loader.load(raw, filename=filename, params=params, environ=environ)
        return _checked(loaded, known, partial=partial)
    except WorkflowError as exc:
        raise _named(exc, filename) from exc


def selected(
    workflow: Workflow,
    from_: Sequence[str] = (),
    until: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Workflow:
    """The part of the workflow to run; see `graph.select`."""
    return graph.select(workflow, from_=from_, until=until, only=only)


def _named(exc: WorkflowError, filename: str) -> WorkflowError:
    """The error with the file's name in front."""
    name = "".join(letter if letter.isprintable() else "?" for letter in filename) or "workflow"
    named = WorkflowError(exc.where, exc.problem, hint=exc.hint)
    named.args = (f"{name}: {exc}",)
    return named


def _checked(loaded: loader.Loaded, known: _Known, *, partial: bool) -> Workflow:
    warnings = list(loaded.warnings)
    boxes = _boxes(loaded, known, warnings)
    _connect(boxes)
    gates = {box.id: _gate(box, warnings, partial=partial) for box in boxes.values()}
    edges = tuple(edge for box in boxes.values() for edge in box.edges)
    steps = tuple(
        _step(boxes[step], gates[step], warnings) for step in graph.order(tuple(boxes), edges)
    )
    return Workflow(steps=steps, edges=edges, warnings=tuple(warnings))


def _boxes(loaded: loader.Loaded, known: _Known, warnings: list[Warned]) -> dict[str, _Box]:
    ids = _ids(loaded, warnings)
    names = [_class_name(params, path(loaded.base, i)) for i, params in enumerate(loaded.protocols)]
    infos = {name: classes.find(name, maps=known.maps, site=known.site) for name in names}
    boxes = {}
    for index, (step, name) in enumerate(zip(ids, names, strict=True)):
        info = infos[name]
        if info is None:
            raise _unknown_class(name, path(loaded.base, index, _CLASS_KEY), infos, known)
        at = path(loaded.base, index)
        boxes[step] = _Box(id=step, at=at, params=loaded.protocols[index], info=info)
    return boxes


def _class_name(params: Mapping[str, object], at: str) -> str:
    name = params.get(_CLASS_KEY)
    if isinstance(name, str) and _CLASS.fullmatch(name):
        return name
    problem = f"{shown(name)} is no protocol class; write its name" if name else "missing; write it"
    raise WorkflowError(path(at, _CLASS_KEY), problem)


def _unknown_class(
    name: str, where: str, infos: Mapping[str, ClassInfo | None], known: _Known
) -> WorkflowError:
    others = [other for other, info in infos.items() if info is None and other != name]
    near = classes.near(name, site=known.site)
    parts = [f"unknown protocol class {name}"]
    parts += [f"did you mean {' or '.join(near)}?"] if near else []
    parts += [f"if it is right, give --map {name}=cpu-bound (or another resource class)"]
    parts += [f"unknown too: {', '.join(others[:8])}"] if others else []
    return WorkflowError(where, "; ".join(parts))


def _ids(loaded: loader.Loaded, warnings: list[Warned]) -> list[str]:
    """The ids of the protocols, in the file's order, all different."""
    ids = [_id(params, path(loaded.base, i)) for i, params in enumerate(loaded.protocols)]
    last = {step: index for index, step in enumerate(ids)}
    if len(last) == len(ids):
        return ids
    old = any(pointers.is_old(value) for params in loaded.protocols for value in params.values())
    free = max(map(int, ids)) + 1
    for index, step in enumerate(ids):
        if last[step] == index:
            continue
        where = path(loaded.base, last[step], _ID_KEY)
        first = path(loaded.base, index)
        if not old:
            raise WorkflowError(where, f'id "{step}" again, after {first}; give it another id')
        # Scipion 1 wrote such files; its references mean the later one, as for Scipion's loader.
        problem = f'id "{step}" of Scipion 1 twice; references mean this one, {first} is {free} now'
        warnings.append(Warned(where, problem))
        ids[index] = str(free)
        free += 1
    return ids


def _id(params: Mapping[str, object], at: str) -> str:
    value = params.get(_ID_KEY)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and _ID.fullmatch(text):
        return text
    problem = f"{shown(value)} is no id; write digits" if value is not None else "missing; write it"
    raise WorkflowError(path(at, _ID_KEY), problem)


def _connect(boxes: Mapping[str, _Box]) -> None:
    seen = 0
    for box in boxes.values():
        for reference in pointers.references(box.params, at=box.at):
            seen += 1
            if seen > MAX_REFERENCES:
                raise WorkflowError(
                    reference.where, f"more than {MAX_REFERENCES} references; split the workflow"
                )
            if reference.parent in boxes:
                box.edges.append(_edge(reference, box.id))
            elif not reference.doubtful:
                box.dangling.append(reference)


def _edge(reference: Reference, child: str) -> Edge:
    return Edge(
        parent=reference.parent,
        child=child,
        where=reference.where,
        output=reference.output,
        data=reference.data,
    )


def _gate(box: _Box, warnings: list[Warned], *, partial: bool) -> str:
    """What a person has to do before the step; its dangling references are judged here."""
    missing = [reference for reference in box.dangling if reference.data]
    for reference in box.dangling:
        if not reference.data:
            problem = f"waits for {reference.parent}, which the file lacks; Scipion ignores it too"
            warnings.append(Warned(reference.where, problem))
    if not missing:
        return box.info.gate
    wanted = ", ".join(_wanted(reference) for reference in missing[:4])
    fed = any(edge.data for edge in box.edges)
    if not partial and not fed and not box.info.gate:
        problem = (
            f"wants {wanted}, and the file has no such protocol: the step would run on nothing; "
            "export its parents too, or take the step out"
        )
        raise WorkflowError(missing[0].where, problem)
    then = "the project has to have it" if partial else "the step waits for a person"
    warnings += [
        Warned(reference.where, f"wants {_wanted(reference)}, which the file lacks; {then}")
        for reference in missing
    ]
    if partial or box.info.gate:
        return box.info.gate
    return f"Set the input that the file lacks ({wanted}) in Scipion, then release the step."


def _wanted(reference: Reference) -> str:
    return f"{reference.parent}.{reference.output}" if reference.output else reference.parent


def _step(box: _Box, gate: str, warnings: list[Warned]) -> Step:
    needs = demand.derive(box.info, box.params)
    warnings += _remarks(box, gate)
    resource_class = box.info.resource_class
    if needs.gpus and resource_class is not ResourceClass.INTERACTIVE:
        resource_class = ResourceClass.GPU
    label = box.params.get(_LABEL_KEY)
    return Step(
        id=box.id,
        label=label if isinstance(label, str) and label.strip() else box.info.protocol,
        protocol=box.info.protocol,
        resource_class=resource_class,
        demand=needs,
        resume=box.info.resume,
        gate=gate,
        long_lived=box.info.long_lived or demand.switch(box.params.get("dataStreaming")),
        parents=tuple(dict.fromkeys(edge.parent for edge in box.edges)),
        params=box.params,
    )


def _remarks(box: _Box, gate: str) -> Iterator[Warned]:
    if box.info.today:
        problem = f"{box.info.protocol} is {box.info.today} in today's Scipion, and runs as that"
        yield Warned(path(box.at, _CLASS_KEY), problem)
    if box.info.protocol == _STARTS_OTHERS:
        yield Warned(box.at, "starts protocols itself; scsched does not see those")
    asked = demand.count(box.params.get("numberOfMpi"))
    if box.info.shape is Shape.SPLIT_HALVES and asked is not None and (asked < 3 or asked % 2 == 0):
        problem = f"{asked} ranks; auto-refine runs with an odd number, 3 or more"
        yield Warned(path(box.at, "numberOfMpi"), problem)
    if not gate and not box.edges:
        for key, value in box.params.items():
            if value is None and key.startswith("input"):
                yield Warned(path(box.at, key), "no input chosen; Scipion may refuse the step")
