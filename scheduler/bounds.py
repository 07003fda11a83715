"""What a driver reports, made fit to be kept. It is a program of its user: it may say anything.

A number that is out of range is brought into it, and what no database takes is left out, rather
than that a report is refused: the run whose end it tells would stay open for ever.
"""

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

MOST = 2**31 - 1
"""The largest number that an INTEGER column of Postgres takes."""
LONGEST = 1e10
"""Seconds, three centuries; moments in progress are seconds since 1970."""
DEPTH = 8
"""What is nested deeper in a report is left out; progress has three levels."""

Count = Annotated[int, AfterValidator(lambda value: max(0, min(value, MOST)))]
Code = Annotated[int, AfterValidator(lambda value: max(-MOST, min(value, MOST)))]
"""An exit code: Python writes a signal as a negative one."""
Bytes = Annotated[int, AfterValidator(lambda value: max(0, min(value, 2**63 - 1)))]

Words = Annotated[str, AfterValidator(lambda text: text[-8000:])]
"""What is said last counts."""


def storable(value: object, depth: int = DEPTH) -> object:
    """JSON as both databases keep it: texts without NUL, numbers that are finite.

    A program's last words may hold any byte, and RELION writes resolutions that are infinite.
    """
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return _mapping(value, depth) if depth else None
    if isinstance(value, list | tuple):
        return [storable(one, depth - 1) for one in value] if depth else None
    return value


def storable_progress(value: object) -> object:
    """The same, and numbers that can be counted with: iterations, and seconds that are added to a
    moment or divided by."""
    if isinstance(value, float):
        return _seconds(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-MOST, min(value, MOST))
    if isinstance(value, Mapping):
        return {name: storable_progress(one) for name, one in value.items()}
    return [storable_progress(one) for one in value] if isinstance(value, list) else value


def _seconds(value: float) -> float | None:
    if abs(value) > LONGEST:
        return None
    return value if abs(value) > 1 / LONGEST else 0.0


def _mapping(value: Mapping[object, object], depth: int) -> dict[object, object]:
    return {_text(str(name)): storable(one, depth - 1) for name, one in value.items()}


def _text(value: str) -> str:
    return value.replace("\0", "").encode("utf-8", "replace").decode()
