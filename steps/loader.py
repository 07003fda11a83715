"""Reads the bytes of a workflow file into checked JSON values, whatever they hold.

    bytes ── size ── UTF-8 ── template fields ── JSON ── walk ──► Loaded
                              (steps.template)          depth, count, control characters, numbers

Nothing but `WorkflowError` leaves this module, and the time taken grows with the size of the file.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scsched.steps import template
from scsched.steps.errors import WorkflowError
from scsched.steps.jsonpath import path, shown
from scsched.steps.spec import Warned

MAX_BYTES = 8 << 20
MAX_DEPTH = 24
MAX_STEPS = 5_000
MAX_VALUES = 1_000_000

# Line feed, tab and carriage return are legal: comments of real exports hold them.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_MAX_DIGITS = 18
_NOT_A_WORKFLOW = "a workflow is a list of protocols, or an object with that list under `content`"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The protocols of a file. `base` is the JSON path of their list."""

    protocols: tuple[dict[str, object], ...]
    base: str
    warnings: tuple[Warned, ...] = ()


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Stands where the JSON held something that the reader must refuse by its path."""

    problem: str


def load(
    raw: bytes,
    *,
    filename: str,
    params: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """The protocols of the file, template fields filled in.

    :param params: values for template fields, by alias.
    :param environ: what `%(NAME)s` of a template stands for.
    :raises WorkflowError: with the place as JSON path, or as line and column.
    """
    settings = template.Settings(params=dict(params or {}), environ=dict(environ or {}))
    text = _decode(raw)
    if not text.strip():
        raise WorkflowError("$", "an empty file; export the workflow again from Scipion")
    warnings: tuple[Warned, ...] = ()
    if template.is_template(text, filename=filename):
        text, warnings = template.fill(text, settings)
        settings = template.Settings()
    root = _parse(text)
    _walk(root)
    protocols, base = _protocols(root)
    left = template.fill_values(protocols, base=base, settings=settings)
    return Loaded(protocols=protocols, base=base, warnings=warnings + left)


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise WorkflowError(
            "$", f"{len(raw)} bytes; a workflow has at most {MAX_BYTES} (8 MiB): split it"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        raise WorkflowError(f"line {line}", "not UTF-8 text; save the file as UTF-8") from exc


def _parse(text: str) -> object:
    try:
        root: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as exc:
        where = f"line {exc.lineno} column {exc.colno}"
        problem = f"broken JSON: {exc.msg}; correct the file or export it again from Scipion"
        raise WorkflowError(where, problem) from exc
    except RecursionError as exc:
        raise WorkflowError("$", f"nested deeper than {MAX_DEPTH} levels; flatten it") from exc
    return root


def _object(pairs: list[tuple[str, object]]) -> object:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return _Flaw(f"key {shown(key)} twice in one object; remove one of them")
        seen.add(key)
    return values


def _constant(word: str) -> object:
    if word != "NaN":
        return float(word)  # Real exports hold `Infinity` where Scipion means "no limit".
    return _Flaw(f"{word} is not JSON; write a number or null")


def _integer(text: str) -> object:
    if len(text) > _MAX_DIGITS:
        return _Flaw(f"number of {len(text)} digits; at most {_MAX_DIGITS} are read")
    return int(text)


def _float(text: str) -> object:
    value = float(text)
    if math.isfinite(value):
        return value
    return _Flaw(f"{text[:20]} is too large a number; write a smaller one or null")


def _walk(root: object) -> None:
    """Refuse what the JSON grammar lets through, by its path."""
    todo: list[tuple[object, object, int]] = [(root, None, 1)]
    seen = 0
    while todo:
        container, trail, depth = todo.pop()
        children = _children(container, trail)
        seen += len(children)
        if depth > MAX_DEPTH:
            raise WorkflowError(_path(trail), f"deeper than {MAX_DEPTH} levels; flatten it")
        if seen > MAX_VALUES:
            raise WorkflowError("$", f"more than {MAX_VALUES} values; split the workflow")
        for key, child in children:
            if isinstance(child, dict | list):
                todo.append((child, (trail, key), depth + 1))
            elif isinstance(child, str):
                if _CONTROL.search(child):
                    raise WorkflowError(
                        _path((trail, key)), f"control character in {shown(child)}; remove it"
                    )
            elif isinstance(child, _Flaw):
                raise WorkflowError(_path((trail, key)), child.problem)


def _children(container: object, trail: object) -> list[tuple[str | int, object]]:
    if isinstance(container, _Flaw):
        raise WorkflowError("$", container.problem)
    if isinstance(container, list):
        return list(enumerate(container))
    if not isinstance(container, dict):
        raise WorkflowError("$", _NOT_A_WORKFLOW)
    for key in container:
        if _CONTROL.search(key):
            raise WorkflowError(_path(trail), f"control character in key {shown(key)}; remove it")
    return list(container.items())


def _path(trail: object) -> str:
    keys: list[str | int] = []
    while isinstance(trail, tuple):
        trail, key = trail
        keys.append(key)
    return path("$", *reversed(keys))


def _protocols(root: object) -> tuple[tuple[dict[str, object], ...], str]:
    base = "$"
    if isinstance(root, dict) and isinstance(root.get("content"), list):
        root, base = root["content"], "$.content"
    if not isinstance(root, list):
        raise WorkflowError("$", _NOT_A_WORKFLOW)
    if not root:
        raise WorkflowError(base, "no protocols; export a workflow with at least one")
    if len(root) > MAX_STEPS:
        raise WorkflowError(base, f"{len(root)} protocols; at most {MAX_STEPS}: split the workflow")
    return tuple(_dicts(root, base)), base


def _dicts(items: Iterable[object], base: str) -> Iterable[dict[str, object]]:
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise WorkflowError(
                path(base, index), f"{shown(item)} is no protocol; write an object here"
            )
        yield item
