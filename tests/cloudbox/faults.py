"""What may go wrong with a call to the box's API: refused, slow, answered into the void.

A fault fits a call by action, type, zone and market, and strikes a number of times or with a
probability from a seed of its own, so that a run can be repeated.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "InsufficientHostCapacity": 500,
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
    "ServiceUnavailable": 503,
    "AuthFailure": 401,
    "UnauthorizedOperation": 403,
    "OptInRequired": 401,
}
"""HTTP status by code; others 400. Clients of the cloud repeat calls that end in 500 or 503."""


class Refusal(Exception):
    """The answer to a call is an error of the cloud."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message or f"{code} (injected)"

    @property
    def status(self) -> int:
        return STATUS.get(self.code, 400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call to the API, as far as faults look at it."""

    action: str
    kind: str = ""
    zone: str = ""
    market: str = ""


@dataclass(slots=True, kw_only=True)
class Fault:
    """`code` "" refuses nothing. `lost_reply`: it is done, but nobody hears of it."""

    number: int
    action: str = "RunInstances"
    code: str = ""
    message: str = ""
    kind: str = ""
    zone: str = ""
    market: str = ""
    times: int | None = None
    """How often it still strikes; None: always."""
    probability: float = 1.0
    delay_s: float = 0.0
    lost_reply: bool = False
    seed: int = 0
    struck: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable on purpose

    def strikes(self, call: Call) -> bool:
        """Whether it hits this call; counts when it does."""
        if not self._fits(call) or self.times == 0 or self._random.random() >= self.probability:
            return False
        self.struck += 1
        self.times = None if self.times is None else self.times - 1
        return True

    def _fits(self, call: Call) -> bool:
        wanted = (
            (self.action, call.action),
            (self.kind, call.kind),
            (self.zone, call.zone),
            (self.market, call.market),
        )
        return all(mine in ("", theirs) for mine, theirs in wanted)


@dataclass(slots=True)
class Faults:
    """All faults that are set; the first that refuses wins."""

    _numbers: Callable[[], int] = field(default_factory=lambda: itertools.count(1).__next__)
    _set: dict[int, Fault] = field(default_factory=dict)

    def add(self, options: Mapping[str, object]) -> int:
        """A new fault from its fields; its number."""
        fault = Fault(number=self._numbers(), **options)  # type: ignore[arg-type]
        self._set[fault.number] = fault
        return fault.number

    def remove(self, number: int) -> None:
        self._set.pop(number, None)

    def clear(self) -> None:
        self._set.clear()

    def struck(self) -> Mapping[int, int]:
        return {number: fault.struck for number, fault in self._set.items()}

    def hit(self, call: Call) -> Sequence[Fault]:
        """The faults that hit this call. One that refuses ends the row: the call is not done."""
        found = []
        for fault in list(self._set.values()):
            if fault.strikes(call):
                found.append(fault)
                if fault.code:
                    break
        return found
