"""What is known of each Scipion protocol class: the table `classes.tsv`, and a site's additions.

Columns: class = resource class when it computes on the CPU; gpu = none, optional (a switch of the
protocol decides) or required; items = Scipion runs its items in parallel threads; model = memory
model (`steps.demand`); today = the name the class has in the Scipion of today.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path

from scsched.steps.errors import ConfigError, UsageError
from scsched.steps.spec import ResourceClass, Resume, Shape


class GpuNeed(StrEnum):
    """Whether a protocol computes on a GPU."""

    NONE = "none"
    OPTIONAL = "optional"
    """As its parameters say: doGpu or useGpu, else a list of GPUs."""
    REQUIRED = "required"


class MemoryModel(StrEnum):
    """How the memory of a protocol follows from the box size."""

    FLAT = ""
    """It does not, or nobody measured it."""
    REFINE_2D = "2d"
    REFINE_3D = "3d"
    """relion_refine with padding 2, or 1 where `skipPadding` is set."""
    REFINE_3D_UNPADDED = "3d-pad1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """What scsched has to know of a protocol class."""

    protocol: str
    resource_class: ResourceClass
    gpu: GpuNeed = GpuNeed.OPTIONAL
    gate: str = ""
    """What a person has to do; empty for protocols that run by themselves."""
    long_lived: bool = False
    resume: Resume = Resume.NONE
    shape: Shape = Shape.SERIAL
    ranks_only: bool = False
    """Its program takes MPI ranks but no threads."""
    items: bool = False
    memory: MemoryModel = MemoryModel.FLAT
    today: str = ""
    """Its class in today's Scipion, if that has another name."""


_MAPPED_SHAPES = {
    ResourceClass.MEMORY: Shape.THREADS,
    ResourceClass.GPU: Shape.THREADS,
    ResourceClass.CPU: Shape.THREADS,
}
_MAPPED_GATE = "Do this step in Scipion, then release it."
_RANKS = "ranks"
_YES = {"yes": True, "items": True, "": False}
_SITE_WORDS: Mapping[str, tuple[str, ...]] = {
    "class": tuple(ResourceClass),
    "gpu": tuple(GpuNeed),
    "resume": tuple(reversed(Resume)),
    "shape": (*Shape, _RANKS),
}
"""What a site may write; for keys that are not here, any text, and long_lived is true or false."""
_SITE_KEYS = ("class", "gpu", "gate", "long_lived", "resume", "shape", "today")


@cache
def table() -> Mapping[str, ClassInfo]:
    """The shipped table, by protocol class."""
    with Path(__file__).with_name("classes.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, dialect="excel-tab", quoting=csv.QUOTE_NONE)
        return {row["protocol"]: _from_row(row) for row in rows}


def find(
    protocol: str,
    *,
    maps: Mapping[str, ResourceClass] | None = None,
    site: Mapping[str, ClassInfo] | None = None,
) -> ClassInfo | None:
    """What is known of the class; None: nothing.

    :param maps: resource classes that the submitter gave for this workflow; they win.
    :param site: additions and changes of the site; they win over the table.
    """
    known = (site or {}).get(protocol) or table().get(protocol)
    word = (maps or {}).get(protocol)
    if word is None:
        return known
    mapped = _mapped(protocol, word)
    if known is None:
        return mapped
    gate = known.gate or mapped.gate
    return replace(known, resource_class=word, gpu=mapped.gpu, gate=gate)


def near(protocol: str, *, site: Iterable[str] = ()) -> tuple[str, ...]:
    """Known classes with a similar name, best first."""
    return tuple(get_close_matches(protocol, {*table(), *site}, n=3, cutoff=0.75))


def parse_map(text: str) -> tuple[str, ResourceClass]:
    """`CLASS=cpu-bound` as a pair. :raises UsageError:"""
    protocol, _, word = text.partition("=")
    try:
        return protocol.strip(), ResourceClass(word.strip())
    except ValueError as exc:
        words = ", ".join(ResourceClass)
        raise UsageError(f"--map {text}: give CLASS=WORD, where WORD is one of {words}") from exc


def from_site(protocol: str, values: Mapping[str, object], *, where: str) -> ClassInfo:
    """A class of the site's config: a table with the keys class, gpu, gate, long_lived, resume, ...

    :param where: file and key, for the error.
    :raises ConfigError: for a key or a word that does not exist.
    """
    for key, value in values.items():
        if key not in _SITE_KEYS:
            raise ConfigError(f"{where}.{key}: no such key; use {', '.join(_SITE_KEYS)}")
        if not _fits(key, value):
            raise ConfigError(f"{where}.{key}: {value!r}; write {_words(key)}")
    if "class" not in values:
        raise ConfigError(f"{where}.class: is missing; write {_words('class')}")
    long_lived = "yes" if values.get("long_lived") else ""
    row = {key: str(value) for key, value in values.items()}
    return _from_row(row | {"protocol": protocol, "long_lived": long_lived})


def _fits(key: str, value: object) -> bool:
    if key == "long_lived":
        return isinstance(value, bool)
    return isinstance(value, str) and value in _SITE_WORDS.get(key, (value,))


def _words(key: str) -> str:
    if key == "long_lived":
        return "true or false"
    *words, last = _SITE_WORDS.get(key, ("text in quotes",))
    return f"{', '.join(words)} or {last}" if words else last


def _mapped(protocol: str, resource_class: ResourceClass) -> ClassInfo:
    is_person = resource_class is ResourceClass.INTERACTIVE
    is_gpu = resource_class is ResourceClass.GPU
    return ClassInfo(
        protocol=protocol,
        resource_class=resource_class,
        gpu=GpuNeed.REQUIRED if is_gpu else GpuNeed.NONE,
        gate=_MAPPED_GATE if is_person else "",
        shape=_MAPPED_SHAPES.get(resource_class, Shape.SERIAL),
    )


def _from_row(row: Mapping[str, str]) -> ClassInfo:
    shape = row.get("shape", Shape.SERIAL)
    return ClassInfo(
        protocol=row["protocol"],
        resource_class=ResourceClass(row["class"]),
        gpu=GpuNeed(row.get("gpu", GpuNeed.OPTIONAL)),
        gate=row.get("gate", ""),
        long_lived=_YES[row.get("long_lived", "")],
        resume=Resume(row.get("resume", Resume.NONE)),
        shape=Shape.THREADS if shape == _RANKS else Shape(shape),
        ranks_only=shape == _RANKS,
        items=_YES[row.get("items", "")],
        memory=MemoryModel(row.get("model", "")),
        today=row.get("today", ""),
    )
