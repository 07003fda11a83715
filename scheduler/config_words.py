"""What is wrong in a configuration, in words of the file instead of the validator's."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scsched.scheduler.config_pools import NAME, PLACE, PoolConfig

Values = Mapping[str, object]

_PATTERNS = {
    NAME: "write lower-case letters, digits, - and _, 32 at most, a letter or digit first",
    PLACE: "write an absolute path without spaces",
}
_KNOWN = 12
"""As many keys are named; of more the near ones only."""


def key(error: ErrorDetails, values: Values) -> str:
    """Where it is: `times.tick_s`; in a pool the pool's name and the key, `pool a: market`."""
    loc = error["loc"]
    if loc[:1] != ("pool",) or len(loc) < 2:
        return ".".join(str(part) for part in loc)
    return ": ".join([_pool(loc[1], values), *(str(part) for part in loc[2:3])])


def sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong and what to write.

    :param model: of the whole file, for the keys that it knows.
    """
    if error["type"] == "extra_forbidden":
        return unknown(str(error["loc"][-1]), _keys(model, error["loc"][:-1]))
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return "is missing"
    words = _SENTENCES.get(error["type"])
    return f"{_shown(error['input'])}; {words(error) if words else error['msg'].lower()}"


def unknown(word: str, known: Sequence[str]) -> str:
    """That there is no such key, and which one may be meant."""
    near = difflib.get_close_matches(word, known, n=2)
    if near:
        return f"no such key; did you mean {' or '.join(near)}?"
    if 0 < len(known) <= _KNOWN:
        return f"no such key; known: {', '.join(known)}"
    return "no such key; docs/reference/configuration.md has all of them"


def _pool(index: object, values: Values) -> str:
    pools = values.get("pool")
    found = pools[index] if isinstance(pools, Sequence) and isinstance(index, int) else None
    if isinstance(found, PoolConfig):
        return f"pool {found.name}"
    name = found.get("name") if isinstance(found, Mapping) else None
    if isinstance(name, str) and name.isprintable() and name:
        return f"pool {name}"
    return f"[[pool]] number {int(str(index)) + 1}"


def _keys(model: type[BaseModel], loc: Sequence[object]) -> list[str]:
    """The keys of the table at `loc`."""
    for part in loc:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else (model,)
        found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not found:
            return []
        model = found[0]
    return list(model.model_fields)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _table(error: ErrorDetails) -> str:
    return f"write a table, [{'.'.join(str(part) for part in error['loc'])}]"


def _list(error: ErrorDetails) -> str:
    if error["loc"] == ("pool",):
        return "write [[pool]] with two brackets: every pool is a table of its own"
    return 'write a list, such as ["a", "b"]'


def _one_of(error: ErrorDetails) -> str:
    return f"write {_limit(error, 'expected').replace(chr(39), '')}"


def _pattern(error: ErrorDetails) -> str:
    return _PATTERNS.get(_limit(error, "pattern"), "it has signs that are not allowed there")


def _limit(error: ErrorDetails, name: str) -> str:
    ctx: dict[str, Any] = error.get("ctx", {})
    found = ctx.get(name, "")
    return f"{found:g}" if isinstance(found, float) else str(found)


def _always(text: str) -> Callable[[ErrorDetails], str]:
    return lambda _: text


_NUMBER = _always("write a number")
_WHOLE = _always("write a whole number")
_TEXT = _always("write text in quotes")
_YES_OR_NO = _always("write true or false")

_SENTENCES: Mapping[str, Callable[[ErrorDetails], str]] = {
    "bool_parsing": _YES_OR_NO,
    "bool_type": _YES_OR_NO,
    "decimal_parsing": _NUMBER,
    "decimal_type": _NUMBER,
    "dict_type": _table,
    "enum": _one_of,
    "finite_number": _NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": lambda error: f"write more than {_limit(error, 'gt')}",
    "greater_than_equal": lambda error: f"write {_limit(error, 'ge')} or more",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_type": _WHOLE,
    "less_than_equal": lambda error: f"write {_limit(error, 'le')} or less",
    "mapping_type": _table,
    "model_attributes_type": _table,
    "model_type": _table,
    "path_type": _TEXT,
    "string_pattern_mismatch": _pattern,
    "string_type": _TEXT,
    "tuple_type": _list,
}
"""By pydantic's type of the error, https://docs.pydantic.dev/latest/errors/validation_errors/"""
