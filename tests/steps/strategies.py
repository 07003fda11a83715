"""Workflows for Hypothesis: most of them whole, some with one thing wrong."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from scsched.steps import classes

Document = list[dict[str, Any]]

_CLASSES = st.sampled_from(sorted(classes.table()))
_OUTPUTS = st.sampled_from(["outputParticles", "outputVolume", "outputVol.4", "average", ""])
_TEXT = st.text(
    alphabet=st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\t"), max_size=20
)
_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-9, 9999), st.floats(-1e6, 1e6), _TEXT, st.just("0.5 0.5")
)
_PLAIN_KEYS = st.sampled_from(
    ["extraParams", "symmetryGroup", "maskDiameterA", "doCTF", "threshold"]
)


@st.composite
def documents(draw: st.DrawFn, *, most: int = 10) -> Document:
    """A workflow that has to load: ids differ, references go back only; the file's order is any."""
    ids = draw(st.lists(st.integers(1, 99_999).map(str), min_size=1, max_size=most, unique=True))
    steps = [_step(draw, step, ids[:index]) for index, step in enumerate(ids)]
    return draw(st.permutations(steps))


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """The bytes of a workflow file; more than half of them are whole."""
    document = draw(documents())
    if draw(st.integers(0, 9)) < 6:
        return draw(_WRAPPERS)(document)
    draw(st.sampled_from(_FAULTS))(document, draw)
    raw = json.dumps(document).encode()
    if draw(st.booleans()):
        return raw
    cut = draw(st.integers(0, len(raw)))
    return raw[:cut] + draw(st.binary(max_size=4)) + raw[cut + 1 :]


def _step(draw: st.DrawFn, step: str, before: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "object.className": draw(_CLASSES),
        "object.id": step,
        "object.label": draw(_TEXT),
        "_useQueue": draw(st.booleans()),
        "numberOfMpi": draw(st.integers(0, 9)),
        "numberOfThreads": draw(st.integers(1, 9)),
        "gpuList": draw(st.sampled_from(["0", "0 1", "0,1:2", "1,5-8", "99", "", "x"])),
    }
    if before:
        parents = st.sampled_from(before)
        values["inputParticles"] = f"{draw(parents)}.{draw(_OUTPUTS)}"
        values["inputProtocols"] = draw(st.lists(parents, max_size=2))
        values["_prerequisites"] = ",".join(draw(st.lists(parents, max_size=2)))
    values |= draw(st.dictionaries(_PLAIN_KEYS, _SCALARS, max_size=3))
    return values


def _dump(document: Document) -> bytes:
    return json.dumps(document).encode()


def _wrap(document: Document) -> bytes:
    return json.dumps({"version": 1, "content": document}, ensure_ascii=False).encode()


_WRAPPERS: st.SearchStrategy[Callable[[Document], bytes]] = st.sampled_from([_dump, _dump, _wrap])


def _dangle(document: Document, draw: st.DrawFn) -> None:
    draw(st.sampled_from(document))["inputVolume"] = "123456.outputVolume"


def _close_circle(document: Document, draw: st.DrawFn) -> None:
    first, second = draw(st.sampled_from(document)), draw(st.sampled_from(document))
    first["inputVolume"] = second["object.id"] + ".outputVolume"


def _repeat_id(document: Document, draw: st.DrawFn) -> None:
    document.append(dict(draw(st.sampled_from(document))))


def _misname(document: Document, draw: st.DrawFn) -> None:
    draw(st.sampled_from(document))["object.className"] = draw(st.text(max_size=12))


def _break_a_value(document: Document, draw: st.DrawFn) -> None:
    bad = st.sampled_from([float("nan"), "\x00", "\ud800", [[[]]] * 3, {"a": {}}, 10**400])
    draw(st.sampled_from(document))[draw(st.text(max_size=5))] = draw(bad)


_FAULTS = [_dangle, _close_circle, _repeat_id, _misname, _break_a_value]
