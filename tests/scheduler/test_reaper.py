"""Strangers are ended, healthy nodes never. Thousands of sweeps: test_reaper_campaign.py."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster.provider import NodeState, Seen, Traits
from scsched.scheduler.fleet import Census
from scsched.scheduler.reaper import Memory, Sighting, believable, sweep, too_many
from scsched.steps.state import StepState
from tests.db.rows import NOW
from tests.scheduler.test_launching import stray
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]
CLOUD = Traits(remote=False, listing_lag_s=60.0, stranger_grace_s=300.0)
TRUTH = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)


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


def test_a_census_without_listings_is_not_swept(make_world: MakeWorld) -> None:
    world = make_world()
    nothing = Census(seen={}, silent=frozenset({"fake"}), notices={})
    world.services.scale.reaper.tick(world.now, nothing, [])
    assert world.cloud.calls["terminate"] == 0
