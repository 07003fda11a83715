"""What intervals cost. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Something paid by the hour, from `started_at` to `ended_at`, or still (None)."""

    started_at: datetime
    ended_at: datetime | None
    usd_per_hour: Decimal


def usd(intervals: Iterable[Interval], now: datetime) -> Decimal:
    """Their cost, pro rata to the microsecond.

    Time is added up exactly for each price and divided once, so the parts of a node's life cost
    together what its whole life costs.
    """
    paid: dict[Decimal, int] = defaultdict(int)
    for interval in intervals:
        paid[interval.usd_per_hour] += _microseconds(interval, now)
    total = sum((price * spent for price, spent in paid.items()), Decimal(0))
    return total / _MICROSECONDS_PER_HOUR


def hours(intervals: Iterable[Interval], now: datetime) -> float:
    """Their length together."""
    return sum(_microseconds(interval, now) for interval in intervals) / _MICROSECONDS_PER_HOUR


def _microseconds(interval: Interval, now: datetime) -> int:
    """Never negative: a clock may have been set back since."""
    return max(0, ((interval.ended_at or now) - interval.started_at) // _MICROSECOND)
