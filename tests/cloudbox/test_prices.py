"""The box's own bill, by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.cloudbox.prices import HOUR, Interval, PriceBook

KIND, ZONE = "c5.xlarge", "us-east-1a"
LAUNCH = datetime(2026, 1, 1, 10, 20, tzinfo=UTC)


def interval(*, spot: bool, hours: float) -> Interval:
    end = LAUNCH + hours * HOUR
    return Interval(
        instance_id="i-1", kind=KIND, zone=ZONE, spot=spot, launched_at=LAUNCH, ended_at=end
    )


def book() -> PriceBook:
    found = PriceBook()
    found.set_on_demand(KIND, Decimal("0.2"))
    found.set_spot(KIND, ZONE, Decimal("0.06"), LAUNCH - 5 * HOUR)
    found.set_spot(KIND, ZONE, Decimal("0.08"), LAUNCH + timedelta(minutes=30))
    found.set_spot(KIND, ZONE, Decimal("0.10"), LAUNCH + HOUR + timedelta(seconds=1))
    return found


def test_on_demand_is_hours_times_its_price() -> None:
    assert book().usd(interval(spot=False, hours=2.5), LAUNCH) == Decimal("0.5")


def test_a_spot_hour_costs_the_price_at_its_beginning() -> None:
    """0.06 for the first hour, 0.08 for the second, half an hour at 0.10."""
    assert book().usd(interval(spot=True, hours=2.5), LAUNCH) == Decimal("0.19")


def test_an_instance_that_is_up_costs_until_now() -> None:
    up = Interval(instance_id="i-1", kind=KIND, zone=ZONE, spot=True, launched_at=LAUNCH)
    assert book().usd(up, LAUNCH + HOUR / 2) == Decimal("0.03")


def test_history_begins_with_the_price_in_force() -> None:
    rows = book().history(KIND, ZONE, LAUNCH, LAUNCH + HOUR)
    assert [row.usd_per_hour for row in rows] == [Decimal("0.08"), Decimal("0.06")]


def test_a_type_nobody_priced_has_a_price_everywhere() -> None:
    found = PriceBook({"t3.nano": 2})
    assert found.on_demand("t3.nano") == Decimal("0.10")
    assert found.spot("t3.nano", "anywhere", LAUNCH) == Decimal("0.03")
