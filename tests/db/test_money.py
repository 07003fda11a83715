"""Costs are computed from intervals, to the last digit."""

from datetime import timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from scsched.db.money import Interval, hours, usd
from tests.db.rows import NOW, later

prices = st.decimals(min_value=0, max_value=100, places=6)


def test_an_hour_costs_the_price_of_an_hour() -> None:
    assert usd([Interval(NOW, later(3600), Decimal("7.776"))], NOW) == Decimal("7.776")


def test_an_open_interval_is_paid_until_now() -> None:
    running = Interval(NOW, None, Decimal("3.6"))
    assert usd([running], later(10)) == Decimal("0.01")
    assert hours([running], later(1800)) == 0.5


def test_a_clock_set_back_never_pays_back() -> None:
    assert usd([Interval(NOW, None, Decimal(1))], later(-60)) == 0


def test_nothing_costs_nothing() -> None:
    assert usd([], NOW) == 0


@given(prices, st.lists(st.timedeltas(timedelta(0), timedelta(days=9)), min_size=1, max_size=20))
def test_the_parts_of_a_life_cost_what_the_life_costs(
    price: Decimal, lengths: list[timedelta]
) -> None:
    start, parts = NOW, []
    for length in lengths:
        parts.append(Interval(start, start + length, price))
        start += length
    assert usd(parts, NOW) == usd([Interval(NOW, start, price)], NOW)
