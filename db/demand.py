"""A step's demand as JSON, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from scsched.steps.spec import Demand, Shape

_FIELDS = tuple(field.name for field in fields(Demand))


def to_json(demand: Demand) -> dict[str, object]:
    return {name: getattr(demand, name) for name in _FIELDS} | {"shape": str(demand.shape)}


def from_json(stored: Mapping[str, Any]) -> Demand:
    """Fields that an older version did not know have their defaults."""
    known = {name: stored[name] for name in _FIELDS if name in stored}
    return Demand(**{**known, "shape": Shape(stored.get("shape", Shape.SERIAL))})
