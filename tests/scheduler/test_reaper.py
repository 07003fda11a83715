"""Strangers are ended, healthy nodes never, whatever the listings say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster.provider import NodeState, Seen, Traits
from scsched.scheduler import reaper
from scsched.scheduler.fleet import Census
from scsched.scheduler.reaper import Memory, Sighting, Sweep, believable, sweep, too_many
from scsched.steps.state import StepState
from tests.db.rows import NOW
from tests.scheduler.test_launching import stray
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
CLOUD = Traits(remote=False, listing_lag_s=60.0, stranger_grace_s=300.0)
TRUTH = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)
SWEEPS = 1000


def seen(token: str, state: NodeState = NodeState.RUNNING, **values: object) -> Seen:
    return replace(Seen(token, f"i-{token}", state), **values)  # type: ignore[arg-type]


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_a_stranger_is_ended_in_its_second_listing_after_its_grace() -> None:
    first = sweep([seen("s")], 1, {"mine"}, Memory(), CLOUD, NOW)
    assert (first.memory.strangers, first.due) == ({"s": Sighting(NOW, 1)}, ())
    early = sweep([seen("s")], 2, {"mine"}, first.memory, CLOUD, later(300))
    assert early.due == ()
    same = sweep([seen("s")], 1, {"mine"}, first.memory, CLOUD, later(999))
    assert same.due == ()
    assert sweep([seen("s")], 2, {"mine"}, early.memory, CLOUD, later(301)).due == ("s",)


def test_the_provider_s_word_on_its_age_counts() -> None:
    old = seen("s", launched_at=later(-3600))
    before = sweep([old], 1, set(), Memory(), CLOUD, NOW).memory
    assert sweep([old], 2, set(), before, CLOUD, later(1)).due == ("s",)
    young = seen("s", launched_at=later(3600))
    assert sweep([young], 2, set(), before, CLOUD, later(3700)).due == ()


def test_one_that_was_not_listed_in_between_is_a_new_stranger() -> None:
    before = Memory({"s": Sighting(NOW, 1)})
    assert sweep([], 2, set(), before, CLOUD, later(200)).memory.strangers == {}


@pytest.mark.parametrize("known", ["s", "i-s"])
def test_a_node_is_known_by_its_token_or_the_provider_s_id(known: str) -> None:
    assert sweep([seen("s")], 1, {known}, Memory(), TRUTH, NOW).due == ()


def test_where_listings_are_the_truth_a_stranger_is_ended_at_first_sight() -> None:
    assert sweep([seen("s")], 1, set(), Memory(), TRUTH, NOW).due == ("s",)


def test_one_that_is_ending_is_ended_again_and_one_that_has_ended_left_alone() -> None:
    both = [seen("s", NodeState.STOPPING), seen("t", NodeState.TERMINATED)]
    assert sweep(both, 1, set(), Memory(), CLOUD, NOW).due == ("s",)


@pytest.mark.parametrize(
    ("strange", "fleet", "stops"), [(1, 5, False), (2, 5, True), (4, 4, False)]
)
def test_a_sweep_that_would_take_a_fifth_of_a_fleet_takes_none(
    strange: int, fleet: int, stops: bool
) -> None:
    nodes = [seen(str(number)) for number in range(fleet)]
    known = {str(number) for number in range(strange, fleet)}
    before = Memory({node.token: Sighting(later(-999), 1) for node in nodes})
    found = sweep(nodes, 2, known, before, CLOUD, NOW)
    assert bool(found.alarm) is stops
    assert len(found.due) == (0 if stops else strange)


@pytest.mark.parametrize(
    ("missing", "known", "answering", "word"),
    [
        (1, 5, 0, ""),
        (4, 4, 0, ""),
        (2, 5, 0, "lacks 2 of 5"),
        (1, 1, 1, "1 of 1 nodes missing from the list answer"),
    ],
)
def test_a_listing_is_believed_within_reason(
    missing: int, known: int, answering: int, word: str
) -> None:
    found = believable(missing, known, answering)
    assert word in found
    assert bool(found) == bool(word)


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_fifth_is_a_fifth(some: int, fleet: int) -> None:
    assert too_many(some, fleet) == (fleet >= 5 and 5 * some > fleet)


def test_a_listing_that_lacks_most_of_a_fleet_does_not_make_it_small() -> None:
    nodes = [seen(str(number)) for number in range(20)]
    first = sweep(nodes, 1, set(), Memory(), CLOUD, NOW)
    partial = sweep(nodes[:2], 2, set(), first.memory, CLOUD, later(150))
    found = sweep(nodes[:2], 3, set(), partial.memory, CLOUD, later(301))
    assert found.due == ("0", "1"), "by then nobody else was seen for a whole grace"
    again = sweep(nodes, 2, set(), first.memory, CLOUD, later(299))
    found = sweep(nodes[:2], 3, set(), again.memory, CLOUD, later(301))
    assert (found.due, bool(found.alarm)) == ((), True)


def test_an_alarm_is_told_once_and_ends_nobody(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=20))
    world.cloud.traits = CLOUD
    world.submit(step("1", width=2), step("2", width=2))
    world.until(lambda: all(world.at(ref) is StepState.RUNNING for ref in ("1", "2")))
    for number in range(3):
        stray(world, f"s{number}")
        found = world.cloud.nodes[f"s{number}"]
        world.cloud.nodes[f"s{number}"] = replace(found, state=NodeState.RUNNING)
    world.tick(20, seconds=30.0)
    assert len(world.cloud.up()) == 7
    told = [event for event in world.events() if event.kind == "reaper_stopped"]
    assert len(told) == 1
    assert "3 of 7 nodes are nobody's" in told[0].text
    assert "fake" in world.services.scale.reaper.alarms
    world.cloud.reclaim("s1")
    world.cloud.reclaim("s2")
    world.until(lambda: "s0" not in world.cloud.up())
    assert world.services.scale.reaper.alarms == {}
    assert len([event for event in world.events() if event.kind == "stranger_ended"]) == 1


# The campaign


@dataclass
class Fleet:
    """What is really there, what is recorded, and how it is listed."""

    random: Random
    now: datetime = NOW
    real: dict[str, datetime] = field(default_factory=dict)
    """Launch time by token."""
    recorded: dict[str, datetime] = field(default_factory=dict)
    """From when the record is seen: one that was read a moment ago lacks the newest."""
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
            self.real[token] = self.now
            if self.random.random() < 0.06 and not orphaned:
                self.orphans += 1
                continue
            late_s = self.random.choice([0, 0, 0, 5, 120])
            self.recorded[token] = self.now + timedelta(seconds=late_s)
        if self.random.random() < 0.003:
            self.lost_records_until = self.now + timedelta(seconds=1500)

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

    def _told(self, at: datetime) -> datetime | None:
        return at if self.random.random() < 0.5 else None

    def _without_id(self, one: Seen) -> Seen:
        """As an address that the cloud leaves out for a while."""
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


def campaign(sweeper: Sweeper, seed: int = 1, sweeps: int = SWEEPS) -> Fleet:
    fleet, memory = Fleet(Random(seed)), Memory()  # noqa: S311 - not for secrets
    for _ in range(sweeps):
        fleet.live()
        number, listed = fleet.listing()
        found = sweeper(listed, number, fleet.known(), memory, CLOUD, fleet.now)
        memory = found.memory
        fleet.alarms += bool(found.alarm)
        fleet.end(found.due)
    return fleet


def without_grace(
    listed: Sequence[Seen],
    number: int,
    known: set[str],
    before: Memory,
    traits: Traits,
    now: datetime,
) -> Sweep:
    return sweep(listed, number, known, before, replace(traits, stranger_grace_s=1e-9), now)


def by_id(listed: Sequence[Seen], number: int, known: set[str], *others: object) -> Sweep:
    """Knows nodes by what the provider calls them, which comes late."""
    called = [replace(one, token=one.provider_id) for one in listed]
    found = sweep(called, number, known, *others)  # type: ignore[arg-type]
    token_of = {one.provider_id: one.token for one in listed}
    return replace(found, due=tuple(token_of[one] for one in found.due))


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "too_many", lambda some, fleet: False)


def test_a_thousand_sweeps_end_no_healthy_node_and_leave_no_orphan() -> None:
    fleet = campaign(sweep)
    assert fleet.healthy_ended == 0
    assert fleet.launched > 120
    assert fleet.orphans_ended > 5
    assert fleet.alarms > 5
    assert len(fleet.orphaned()) <= 1


@pytest.mark.parametrize("mutant", [without_grace, by_id])
def test_a_reaper_that_believes_more_is_caught(mutant: Sweeper) -> None:
    assert campaign(mutant).healthy_ended > 0


@pytest.mark.usefixtures("unguarded")
def test_a_reaper_that_knows_no_share_is_caught() -> None:
    assert campaign(sweep).healthy_ended > 0


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(50))
def test_fifty_thousand_sweeps_end_no_healthy_node(seed: int) -> None:
    assert campaign(sweep, seed).healthy_ended == 0


def test_a_census_without_listings_is_not_swept(make_world: MakeWorld) -> None:
    world = make_world()
    nothing = Census(seen={}, silent=frozenset({"fake"}), notices={})
    world.services.scale.reaper.tick(world.now, nothing, [])
    assert world.cloud.calls["terminate"] == 0
