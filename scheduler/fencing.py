"""When a node that worked for a run that is over is proven to work for it no more. Pure.

A step must not start again while a node that was lost may still write for its last run. "It does
not answer" proves nothing: it may be cut off, or frozen, and wake. The proofs, any one of them:

    it ended                 its provider has said that it is gone
    its provider ends it     listed as TERMINATED or STOPPING
    it answers               its driver has ended the attempt on it
    its lease is over        nobody has heard of it for FENCE_S: a node whose Dask scheduler does
                             not answer ends itself within 15 to 33 s (measured), with all on it
"""

from collections.abc import Iterable
from dataclasses import dataclass

from scsched.cluster.provider import NodeState as Existence

FENCE_S = 60.0
"""Twice what a node takes to end itself."""

_ON_ITS_WAY = frozenset({Existence.TERMINATED, Existence.STOPPING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """A live node that worked for the last runs of a step, and works for nobody now."""

    name: str
    step_id: int
    answers: bool
    """Its driver's beats name it, and have since it came up."""
    existence: Existence | None
    """What its provider says; None: nothing."""
    silent_s: float
    """For how long no beat has named it, as witnessed."""


def is_proven(node: Former) -> bool:
    """Whether nothing of its former run can be left on it."""
    return node.answers or node.existence in _ON_ITS_WAY or node.silent_s >= FENCE_S


def unproven(nodes: Iterable[Former]) -> dict[int, str]:
    """Steps that have to wait, by id, each with the sentence that says for what."""
    waiting: dict[int, list[Former]] = {}
    for node in nodes:
        if not is_proven(node):
            waiting.setdefault(node.step_id, []).append(node)
    return {step_id: _sentence(found) for step_id, found in waiting.items()}


def _sentence(nodes: list[Former]) -> str:
    names = ", ".join(sorted(node.name for node in nodes))
    left_s = max(FENCE_S - node.silent_s for node in nodes)
    it = "it" if len(nodes) == 1 else "they"
    return (
        f"waits until {names} of its last run cannot write any more: "
        f"its provider says so, or {it} stayed silent for {left_s:.0f} s more"
    )
