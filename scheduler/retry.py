"""What to do when a run has ended badly. Pure: no clock, no database."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scsched.steps.state import INFRASTRUCTURE, PROGRAM, EndReason

CAPACITY_BACKOFF_S = 600.0
"""A step that waits for a node to be had asks again at least so often, and never gives up."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a step may run again without asking a person."""

    max_failures: int = 2
    """Runs that the program itself may spoil before the step is given up."""
    max_stalls: int = 3
    max_timeouts: int = 5
    """Wall times that a resumable step may use up."""
    max_infrastructure_ends: int = 20
    max_preemptions_on_spot: int = 3
    """Preemptions in a row without one new iteration; then it moves to on-demand nodes."""
    backoff_s: float = 15.0
    max_backoff_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class Past:
    """One run of the step: why it ended, and whether it got further than the one before."""

    reason: EndReason
    gained: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """The endings of the step's runs so far, the one that has just ended last."""

    history: Sequence[Past]
    resumable: bool
    larger_exists: bool = False
    """A larger slot than the one it ran in is configured."""

    @property
    def reason(self) -> EndReason:
        return self.history[-1].reason

    def count(self, *reasons: EndReason) -> int:
        return sum(past.reason in reasons for past in self.history)

    def in_vain(self) -> int:
        """Infrastructure ends in a row, newest backwards, that gained no iteration."""
        n = 0
        for past in reversed(self.history):
            if past.gained or past.reason not in INFRASTRUCTURE:
                break
            n += 1
        return n

    def lost_in_vain(self) -> int:
        """The same, without those that never had a node: a market may be empty for days."""
        recent = self.history[len(self.history) - self.in_vain() :]
        return sum(past.reason is not EndReason.NO_CAPACITY for past in recent)


@dataclass(frozen=True, slots=True)
class Requeue:
    delay_s: float
    why: str
    allow_spot: bool | None = None
    """None: as it was."""
    larger: bool | None = None
    """None: as it was. What needed a larger slot once needs it after every interruption."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str


Decision = Requeue | GiveUp
Rule = tuple[Callable[[Ended, RetryPolicy], bool], Callable[[Ended, RetryPolicy], Decision]]


def _backoff_s(in_vain: int, policy: RetryPolicy) -> float:
    """Doubles with every loss in vain; the first loss costs no wait."""
    if in_vain <= 1:
        return 0.0
    return min(policy.backoff_s * 2.0 ** min(in_vain - 2, 16), policy.max_backoff_s)


def _go_on(ended: Ended, policy: RetryPolicy) -> Decision:
    in_vain = ended.in_vain()
    no_node = ended.reason is EndReason.NO_CAPACITY
    longest_s = CAPACITY_BACKOFF_S if no_node else policy.max_backoff_s
    return Requeue(
        min(_backoff_s(in_vain, policy), longest_s),
        f"{ended.reason}: goes on from its newest checkpoint",
        allow_spot=in_vain < policy.max_preemptions_on_spot,
    )


# The first rule whose condition holds decides.
_RULES: Sequence[Rule] = (
    (
        lambda e, _: e.reason is EndReason.CANCELLED,
        lambda _e, _p: GiveUp("cancelled by a person"),
    ),
    (
        lambda e, p: e.lost_in_vain() >= p.max_infrastructure_ends,
        lambda e, _: GiveUp(f"lost its nodes {e.lost_in_vain()} times without one new iteration"),
    ),
    (lambda e, _: e.reason in INFRASTRUCTURE, _go_on),
    (
        lambda e, _: e.reason is EndReason.OUT_OF_MEMORY and e.count(e.reason) == 1,
        lambda e, _: (
            Requeue(0.0, "out of memory: once more in a larger slot", larger=True)
            if e.larger_exists
            else GiveUp("out of memory, and no larger slot is configured")
        ),
    ),
    (
        lambda e, p: (
            e.reason is EndReason.TIMEOUT and e.resumable and e.count(e.reason) < p.max_timeouts
        ),
        lambda _e, _p: Requeue(0.0, "wall time used up: goes on from its newest checkpoint"),
    ),
    (
        lambda e, p: e.reason is EndReason.STALLED and e.count(e.reason) < p.max_stalls,
        lambda _e, _p: Requeue(0.0, "stalled: goes on from its newest checkpoint"),
    ),
    (
        lambda e, p: e.reason is EndReason.FAILED and e.count(*PROGRAM) < p.max_failures,
        lambda _e, p: Requeue(p.backoff_s, "failed: tried once more"),
    ),
)


def decide(ended: Ended, policy: RetryPolicy) -> Decision:
    """Requeue the step, or give up.

    :raises ValueError: the run COMPLETED, or there is none.
    """
    if not ended.history or ended.reason is EndReason.COMPLETED:
        raise ValueError("nothing to decide")
    for applies, decision in _RULES:
        if applies(ended, policy):
            return decision(ended, policy)
    return GiveUp(f"{ended.reason} {ended.count(ended.reason)} times")
