"""Finds, in the parameters of a protocol, the references to other protocols.

    "2.outputMovies"            an output of protocol 2
    "1234.outputVol.4"          item 4 of a set
    "79."                       protocol 79 itself
    ["480.outputCoords", "77"]  several; in a list a bare id is a protocol
    "1548.boxSizeExtraction"    a number that another protocol finds
    "40.__attribute__outputMovies", "N.__itemid__3", "420"     spellings of Scipion 1
    _prerequisites: "190,135"   order only

Everywhere else a bare number is a number: gpuList "2" is no protocol.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from scsched.steps.jsonpath import path

PREREQUISITES = "_prerequisites"
_MARKERS = ("__attribute__", "__itemid__")
# \w excludes the dot, so there is one way only to match: linear in the text.
_POINTER = re.compile(r"([0-9]{1,12})\.([A-Za-z_]\w*(?:\.\w+)*)?", re.ASCII)
_ID = re.compile(r"[0-9]{1,12}")
_OWN_KEYS = frozenset(
    {"object.className", "object.id", "object.label", "object.comment", "_queueParams", "_useQueue"}
)
_PROTOCOL_KEYS = frozenset(
    {
        "continueRun",
        "protRefine",
        "protPrepare",
        "inputPostprocess",
        "inputProtocol",
        "inputProtocols",
        "triggerProt",
        "xmippParticlePicking",
    }
)
"""Parameters that point to a protocol, where Scipion 1 wrote its bare id."""

_FILE_KEY = re.compile(r"file|path|pattern|dir(?:ectory)?$|suffix|prefix", re.IGNORECASE)
_EXTENSION = re.compile(
    r"ali|am|cif|csv|dat|db|dm[34]|eer|em|ent|h5|hdf5?|img|jpg|json|log|map|mdoc|mod|mrcs?|mtf|ndjson|"
    r"pdb|png|raw|rec|smp|spi|sqlite|st|star|stk|tbl|tiff?|tlt|txt|vol|xf|xmd|xml|yaml|zip",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reference:
    """The protocol `parent` is wanted by the parameter at `where`."""

    parent: str
    where: str
    output: str = ""
    data: bool = True
    doubtful: bool = False
    """In a parameter for file names: a reference only if there is such a protocol."""


def references(protocol: Mapping[str, object], *, at: str) -> Iterator[Reference]:
    """The references of one protocol, in the order of its parameters. `at`: its JSON path."""
    for key, value in protocol.items():
        if key == PREREQUISITES:
            for parent in prerequisites(value):
                yield Reference(parent=parent, where=path(at, key), data=False)
        elif isinstance(value, str):
            yield from _in_text(key, value, at)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from _in_list(item, path(at, key, index))


def dangles(key: str, value: object, ids: Collection[str]) -> bool:
    """Whether the parameter refers to data of a protocol that is not among the ids."""
    found = references({key: value}, at="$")
    return any(ref.data and not ref.doubtful and ref.parent not in ids for ref in found)


def today(value: object) -> object:
    """The value with Scipion 1's markers taken out of its pointers."""
    if isinstance(value, list):
        return [today(item) for item in value]
    if isinstance(value, str) and "__" in value and _POINTER.fullmatch(value):
        return _unmarked(value)
    return value


def is_old(value: object) -> bool:
    """Whether the value is a pointer as only Scipion 1 wrote it."""
    return isinstance(value, str) and value != today(value)


def prerequisites(value: object) -> tuple[str, ...]:
    """The ids in a `_prerequisites`; old exports also hold free text there."""
    items = value if isinstance(value, list) else str(value or "").split(",")
    found = [str(item).strip() for item in items]
    return tuple(item for item in found if _ID.fullmatch(item))


def _in_text(key: str, text: str, at: str) -> Iterator[Reference]:
    if key not in _OWN_KEYS and text[:1].isdigit():
        parent, output = _parsed(text, bare=key in _PROTOCOL_KEYS)
        if parent:
            doubtful = _FILE_KEY.search(key) is not None
            yield Reference(parent=parent, where=path(at, key), output=output, doubtful=doubtful)


def _in_list(item: object, where: str) -> Iterator[Reference]:
    if isinstance(item, str):
        parent, output = _parsed(item, bare=True)
        if parent:
            yield Reference(parent=parent, where=where, output=output)


def _parsed(text: str, *, bare: bool) -> tuple[str, str]:
    """Protocol id and output; an empty id where the text is no pointer."""
    if bare and _ID.fullmatch(text):
        return text, ""
    match = _POINTER.fullmatch(text)
    if match is None or _EXTENSION.fullmatch(match[2] or ""):
        return "", ""
    return match[1], _unmarked(match[2] or "")


def _unmarked(text: str) -> str:
    for marker in _MARKERS:
        text = text.replace(marker, "")
    return text
