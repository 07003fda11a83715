"""Names a place in a JSON document, and shows what stands there, on one line."""

import json
import re

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN = 80


def path(base: str, *keys: str | int) -> str:
    """JSON path below `base`: `$[3].numberOfMpi`, `$[3]["object.id"]`."""
    return base + "".join(_segment(key) for key in keys)


def shown(value: object) -> str:
    """`value` for a message: one line of ASCII in quotes, cut to 80 characters."""
    text = value if isinstance(value, str) else repr(value)
    return json.dumps(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _segment(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{shown(key)}]"
