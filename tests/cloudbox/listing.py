"""What DescribeInstances shows: late, partial or empty when told so, else the truth."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Hidden:
    """One new instance that listings do not show yet."""

    calls: int
    until: float
    """Monotonic."""

    def counts_down(self) -> bool:
        """One more listing; whether it is still hidden in it."""
        hidden = self.calls > 0 or time.monotonic() < self.until
        self.calls = max(0, self.calls - 1)
        return hidden


@dataclass(slots=True)
class View:
    """How listings lie. `late_*` holds for instances launched from now on."""

    late_calls: int = 0
    late_s: float = 0.0
    empty_calls: int = 0
    partial_calls: int = 0
    partial_share: float = 0.5
    page_size: int | None = None
    _random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311
    _hidden: dict[str, Hidden] = field(default_factory=dict)

    def born(self, instance_id: str) -> None:
        if self.late_calls or self.late_s:
            until = time.monotonic() + self.late_s
            self._hidden[instance_id] = Hidden(self.late_calls, until)

    def partial(self, *, share: float, calls: int, seed: int) -> None:
        """Each instance is in each of the next `calls` listings with that probability."""
        self.partial_share, self.partial_calls = share, calls
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def known(self, ids: Sequence[str]) -> Sequence[str]:
        """Those which the listing knows already; counts as one call."""
        late = {one for one, hidden in list(self._hidden.items()) if hidden.counts_down()}
        self._hidden = {one: self._hidden[one] for one in late}
        return [one for one in ids if one not in late]

    def shown(self, ids: Sequence[str]) -> Sequence[str]:
        """What a listing of all shows of them; counts as one call."""
        known = self.known(ids)
        if self.empty_calls > 0:
            self.empty_calls -= 1
            return []
        if self.partial_calls > 0:
            self.partial_calls -= 1
            return [one for one in known if self._random.random() < self.partial_share]
        return known
