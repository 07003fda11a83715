"""Does a value have the shape that `schema` promises? For tests of the broker and the commands."""

from types import NoneType, UnionType
from typing import Literal, NotRequired, Union, get_args, get_origin, get_type_hints


def misfit(value: object, shape: object, where: str = "$") -> list[str]:
    """Where `value` is not of `shape`, a type of `schema`; empty: it fits."""
    origin = get_origin(shape)
    if hasattr(shape, "__required_keys__"):
        return _misfit_object(value, shape, where)
    if origin in (Union, UnionType):
        if any(not misfit(value, one, where) for one in get_args(shape)):
            return []
        return [f"{where}: {value!r} is none of {shape}"]
    if origin is Literal:
        return [] if value in get_args(shape) else [f"{where}: {value!r} is not in {shape}"]
    if origin in (NotRequired,):
        return misfit(value, get_args(shape)[0], where)
    if origin is list:
        return _misfit_list(value, get_args(shape)[0], where)
    if origin is dict:
        return [] if isinstance(value, dict) else [f"{where}: {value!r} is no object"]
    return [] if _is_plain(value, shape) else [f"{where}: {value!r} is no {shape}"]


def _misfit_object(value: object, shape: object, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    hints = get_type_hints(shape, include_extras=False)
    required: frozenset[str] = getattr(shape, "__required_keys__", frozenset())
    found = [f"{where}.{key}: missing" for key in sorted(required - set(value))]
    for key, hint in hints.items():
        if key in value:
            found += misfit(value[key], hint, f"{where}.{key}")
    return found


def _misfit_list(value: object, item: object, where: str) -> list[str]:
    if not isinstance(value, list):
        return [f"{where}: {value!r} is no list"]
    return [line for i, one in enumerate(value) for line in misfit(one, item, f"{where}[{i}]")]


def _is_plain(value: object, shape: object) -> bool:
    if shape is object:
        return True
    if shape in (None, NoneType):
        return value is None
    if isinstance(value, bool):
        return shape is bool
    if shape is float:
        return isinstance(value, int | float)
    return isinstance(shape, type) and isinstance(value, shape)
