"""What is asked for first: the cheapest, of what was not refused lately."""

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster.pools import ANY, Candidate
from scsched.scheduler import candidates
from scsched.scheduler.candidates import REFUSAL_LASTS
from tests.db.rows import NOW
from tests.scheduler.world import pool

POOL = pool(
    types=("big", "small"), zones=("a", "b"), prices={"big": Decimal(3), "small": Decimal(2)}
)
BIG_A, BIG_B, SMALL_A, SMALL_B = (
    Candidate("big", "a"), Candidate("big", "b"), Candidate("small", "a"), Candidate("small", "b"),
)  # fmt: skip
AGO = timedelta(minutes=1)


def test_the_cheapest_comes_first_and_equals_as_configured() -> None:
    assert candidates.order(POOL, {}, {}, NOW) == (SMALL_A, SMALL_B, BIG_A, BIG_B)


def test_the_provider_s_own_price_goes_before_the_configured_one() -> None:
    prices = {BIG_B: Decimal("0.5"), SMALL_A: Decimal(9)}
    assert candidates.order(POOL, prices, {}, NOW) == (BIG_B, SMALL_B, BIG_A, SMALL_A)
    assert candidates.price_of(POOL, BIG_B, prices) == Decimal("0.5")
    assert candidates.price_of(POOL, BIG_A, prices) == 3
    assert candidates.price_of(pool(), ANY, prices) == 1


def test_what_has_no_price_is_not_taken_for_free() -> None:
    bare = pool(types=("big", "small"), zones=("a", "b"), usd_per_hour=Decimal(0))
    prices = {BIG_B: Decimal(4), SMALL_B: Decimal(5)}
    assert candidates.order(bare, prices, {}, NOW) == (BIG_B, SMALL_B, BIG_A, SMALL_A)
    assert candidates.order(bare, {}, {}, NOW) == bare.candidates()


def test_what_was_refused_lately_comes_last_the_longest_ago_first() -> None:
    refused = {SMALL_A: NOW - AGO, SMALL_B: NOW - 2 * AGO}
    assert candidates.order(POOL, {}, refused, NOW) == (BIG_A, BIG_B, SMALL_B, SMALL_A)
    assert candidates.untried(POOL, {}, refused, NOW) == (BIG_A, BIG_B)


def test_a_refusal_is_forgotten_after_ten_minutes() -> None:
    refused = {SMALL_A: NOW - REFUSAL_LASTS}
    assert candidates.untried(POOL, {}, refused, NOW)[0] == SMALL_A


def test_a_gang_that_takes_over_nodes_stays_in_their_zone() -> None:
    assert candidates.order(POOL, {}, {}, NOW, zone="b") == (SMALL_B, BIG_B)


def test_a_pool_without_zones_has_no_other() -> None:
    assert candidates.order(pool(types=("x",)), {}, {}, NOW, zone="b") == (Candidate("x"),)
    assert candidates.order(pool(), {}, {}, NOW) == (ANY,)


@given(
    prices=st.dictionaries(st.sampled_from(POOL.candidates()), st.decimals(0, 9, places=2)),
    ages=st.dictionaries(st.sampled_from(POOL.candidates()), st.integers(0, 20)),
    zone=st.sampled_from(["", "a", "b"]),
)
def test_nothing_is_left_out_and_nothing_comes_twice(
    prices: dict[Candidate, Decimal], ages: dict[Candidate, int], zone: str
) -> None:
    refused = {one: NOW - timedelta(minutes=age) for one, age in ages.items()}
    found = candidates.order(POOL, prices, refused, NOW, zone=zone)
    assert sorted(map(str, found)) == sorted(
        str(one) for one in POOL.candidates() if one.zone == zone or not zone
    )
    untried = candidates.untried(POOL, prices, refused, NOW, zone=zone)
    assert found[: len(untried)] == untried
    costs = [candidates.price_of(POOL, one, prices) for one in untried]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("values", "choice"),
    [({}, False), ({"types": ("x",)}, True), ({"zones": ("a",)}, True)],
)
def test_a_choice_is_what_a_configuration_names(values: dict[str, object], choice: bool) -> None:
    assert candidates.has_choice(pool("cpu", **values)) is choice
