"""A thousand sweeps over listings that are late, partial, empty, old: no healthy node is ended.

And a reaper that believes more than the real one does is caught: in age, in ids, in addresses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

import pytest

from scsched.cluster.provider import NodeState, Seen, Traits
from scsched.scheduler import reaper
from scsched.scheduler.reaper import Memory, Sweep, sweep
from tests.db.rows import NOW
from tests.scheduler.test_reaper import CLOUD

SWEEPS = 1000
ADDRESSES = 16


@dataclass
class Fleet:
    """What is really there, what is recorded, and how it is listed."""

    random: Random
    now: datetime = NOW
    real: dict[str, datetime] = field(default_factory=dict)
    """Launch time by token."""
    recorded: dict[str, datetime] = field(default_factory=dict)
    """From when the record is seen: one that was read a moment ago lacks the newest."""
    addresses: dict[str, int] = field(default_factory=dict)
    """By token, also of nodes that have ended: the lowest that was free."""
    stale: list[list[Seen]] = field(default_factory=list)
    number: int = 0
    lost_records_until: datetime = NOW
    launched: int = 0
    healthy_ended: int = 0
    orphans: int = 0
    orphans_ended: int = 0
    alarms: int = 0

    def live(self) -> None:
        """One minute of a fleet: nodes come and go, some of them without a record."""
        self.now += timedelta(seconds=self.random.choice([1, 15, 60]))
        for token in [t for t in self.real if self.random.random() < 0.012]:
            self.forget(token)
        while len(self.real) < 12:
            self.launched += 1
            token = f"{self.launched}-0"
            orphaned = self.orphaned()
            self.addresses[token] = self._free_address()
            self.real[token] = self.now
            if self.random.random() < 0.06 and not orphaned:
                self.orphans += 1
                continue
            late_s = self.random.choice([0, 0, 0, 5, 120])
            self.recorded[token] = self.now + timedelta(seconds=late_s)
        if self.random.random() < 0.003:
            self.lost_records_until = self.now + timedelta(seconds=1500)

    def holder(self, address: int) -> str | None:
        """Who has it now."""
        return next((one for one in self.real if self.addresses[one] == address), None)

    def orphaned(self) -> set[str]:
        return set(self.real) - set(self.recorded)

    def forget(self, token: str) -> None:
        del self.real[token]
        self.recorded.pop(token, None)

    def known(self) -> set[str]:
        """Tokens and ids on record as far as they can be read now."""
        if self.now < self.lost_records_until:
            return set()
        tokens = {token for token, at in self.recorded.items() if at <= self.now}
        return tokens | {f"i-{token}" for token in tokens}

    def listing(self) -> tuple[int, list[Seen]]:
        """Late, partial, empty, doubled or old; a name and an id may come late."""
        full = [
            Seen(token, f"i-{token}", NodeState.RUNNING, launched_at=self._told(at))
            for token, at in self.real.items()
            if self.now - at > timedelta(seconds=self.random.choice([0, 0, 30]))
        ]
        self.stale.append(full)
        kind = self.random.choice(["full", "full", "partial", "empty", "doubled", "stale", "same"])
        if kind != "same":
            self.number += 1
        if kind == "partial":
            return self.number, [one for one in full if self.random.random() < 0.6]
        if kind == "empty":
            return self.number, []
        if kind == "doubled":
            return self.number, [*full, *full]
        if kind == "stale" and len(self.stale) > 5:
            return self.number, self.stale[-5]
        return self.number, [self._without_id(one) for one in full]

    def _free_address(self) -> int:
        return min(set(range(ADDRESSES)) - {self.addresses[one] for one in self.real})

    def _told(self, at: datetime) -> datetime | None:
        return at if self.random.random() < 0.5 else None

    def _without_id(self, one: Seen) -> Seen:
        """As the cloud leaves out for a while what it has not made up yet."""
        return replace(one, provider_id="") if self.random.random() < 0.2 else one

    def end(self, tokens: Sequence[str]) -> None:
        for token in set(tokens):
            if token in self.recorded:
                self.healthy_ended += 1
            elif token in self.real:
                self.orphans_ended += 1
            if token in self.real:
                self.forget(token)


Sweeper = Callable[..., Sweep]
"""Given the fleet, and what `sweep` is given."""


def honest(_: Fleet, *look: object) -> Sweep:
    return sweep(*look)  # type: ignore[arg-type]


def campaign(sweeper: Sweeper, seed: int = 1, sweeps: int = SWEEPS) -> Fleet:
    fleet, memory = Fleet(Random(seed)), Memory()  # noqa: S311 - not for secrets
    for _ in range(sweeps):
        fleet.live()
        number, listed = fleet.listing()
        found = sweeper(fleet, listed, number, fleet.known(), memory, CLOUD, fleet.now)
        memory = found.memory
        fleet.alarms += bool(found.alarm)
        fleet.end(found.due)
    return fleet


def without_grace(
    _: Fleet,
    listed: Sequence[Seen],
    number: int,
    known: set[str],
    before: Memory,
    traits: Traits,
    now: datetime,
) -> Sweep:
    return sweep(listed, number, known, before, replace(traits, stranger_grace_s=1e-9), now)


def by_id(_: Fleet, listed: Sequence[Seen], number: int, known: set[str], *others: object) -> Sweep:
    """Knows nodes by what the provider calls them, which comes late."""
    called = [replace(one, token=one.provider_id) for one in listed]
    found = sweep(called, number, known, *others)  # type: ignore[arg-type]
    token_of = {one.provider_id: one.token for one in listed}
    return replace(found, due=tuple(token_of[one] for one in found.due))


def by_address(
    fleet: Fleet, listed: Sequence[Seen], number: int, known: set[str], *others: object
) -> Sweep:
    """Knows nodes by their addresses, which are used again, and ends whoever has one now."""
    called = [replace(one, token=str(fleet.addresses[one.token]), provider_id="") for one in listed]
    recorded = {str(fleet.addresses[one]) for one in known if one in fleet.addresses}
    found = sweep(called, number, recorded, *others)  # type: ignore[arg-type]
    holders = [fleet.holder(int(address)) for address in found.due]
    return replace(found, due=tuple(one for one in holders if one is not None))


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "too_many", lambda some, fleet: False)


def test_a_thousand_sweeps_end_no_healthy_node_and_leave_no_orphan() -> None:
    fleet = campaign(honest)
    assert fleet.healthy_ended == 0
    assert fleet.launched > 120
    assert fleet.orphans_ended > 5
    assert fleet.alarms > 5
    assert len(fleet.orphaned()) <= 1


@pytest.mark.parametrize("mutant", [without_grace, by_id, by_address])
def test_a_reaper_that_believes_more_is_caught(mutant: Sweeper) -> None:
    assert campaign(mutant).healthy_ended > 0


@pytest.mark.usefixtures("unguarded")
def test_a_reaper_that_knows_no_share_is_caught() -> None:
    assert campaign(honest).healthy_ended > 0


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(50))
def test_fifty_thousand_sweeps_end_no_healthy_node(seed: int) -> None:
    assert campaign(honest, seed).healthy_ended == 0
