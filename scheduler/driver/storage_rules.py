"""What the driver makes of what is seen of a storage: pure, no file is touched here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scsched.cluster.storage_look import GIB, Found, Word, advice
from scsched.cluster.storage_watch import State

UNBEARABLE = frozenset({Word.STALE, Word.UNMOUNTED, Word.FOREIGN, Word.READ_ONLY, Word.BROKEN})
"""Where it is so, every program fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checks of some nodes came to."""

    bad: Mapping[str, str] = field(default_factory=dict)
    """By node, in a sentence, what is wrong with its storage alone: send it away."""
    held: str = ""
    """What is wrong with the storage itself: nodes do not help, no work may start."""

    @property
    def ok(self) -> bool:
        return not self.bad and not self.held


def judge(found: Iterable[Found], own: Word) -> Verdict:
    """Whose fault it is: the storage's if it is full, or if the driver sees the same."""
    wrong = [one for one in found if one.word is not Word.OK]
    shared = [one for one in wrong if one.word is Word.FULL or one.word is own]
    if shared:
        return Verdict(held=shared[0].problem)
    return Verdict(bad={one.node: one.problem for one in wrong})


def problem_of(state: State, min_free_gib: float) -> str:
    """Why no new work may start, its word first; empty: it may."""
    if state.word is Word.STALLED:
        return f"stalled since {state.since:%H:%M:%SZ}: it does not answer; {advice(state.word)}"
    if state.word is not Word.OK:
        return f"{state.word}: {state.detail}; {advice(state.word)}"
    if state.free is not None and state.free < min_free_gib * GIB:
        return f"full: {state.free / GIB:.1f} GiB free, {min_free_gib:g} wanted"
    return ""


class Stalls:
    """When the storage stalled, by who found it so; times of one monotonic clock."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float | None]]] = {}

    def tell(self, source: str, *, stalled: bool, for_s: float, now: float) -> None:
        """It has been so for `for_s`; may be repeated."""
        spans = self._spans.setdefault(source, [])
        is_open = bool(spans) and spans[-1][1] is None
        if stalled and not is_open:
            spans.append((now - for_s, None))
        if not stalled and is_open:
            spans[-1] = (spans[-1][0], max(spans[-1][0], now - for_s))

    def seconds(self, start: float, end: float, sources: Iterable[str]) -> float:
        """How much of the time from `start` to `end` any of `sources` found it stalled."""
        spans = sorted(
            (max(start, begun), end if over is None else min(end, over))
            for source in sources
            for begun, over in self._spans.get(source, ())
        )
        total, reached = 0.0, start
        for begun, over in spans:
            total += max(0.0, over - max(begun, reached))
            reached = max(reached, over)
        return total
