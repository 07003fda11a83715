"""Prices of the box and the bill it writes itself: pure, with decimal dollars.

The cloud's rule: an on-demand instance costs its list price per second from launch to the moment it
is told to end; a spot instance costs, in each hour counted from its launch, the spot price that
was in force when that hour began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

HOUR = timedelta(hours=1)
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
"""Since when the first price of a type holds."""
USD_PER_VCPU_HOUR = Decimal("0.05")
SPOT_SHARE = Decimal("0.3")
"""What a type costs whose price nobody set: so much a vCPU, and this share of it on spot."""


@dataclass(frozen=True, slots=True)
class SpotPrice:
    """A spot price and since when it holds."""

    since: datetime
    usd_per_hour: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How long one instance was up. `ended_at` None: it still is."""

    instance_id: str
    kind: str
    zone: str
    spot: bool
    launched_at: datetime
    ended_at: datetime | None = None


@dataclass(slots=True)
class PriceBook:
    """Prices by type, and of spot by type and zone, with all their changes."""

    vcpus: Mapping[str, int] = field(default_factory=dict)
    _list: dict[str, Decimal] = field(default_factory=dict)
    _spot: dict[tuple[str, str], list[SpotPrice]] = field(default_factory=dict)

    def set_on_demand(self, kind: str, usd_per_hour: Decimal) -> None:
        self._list[kind] = usd_per_hour

    def set_spot(self, kind: str, zone: str, usd_per_hour: Decimal, since: datetime) -> None:
        """From `since`, cut to the whole second as the cloud's answers are."""
        moment = since.replace(microsecond=0)
        others = [price for price in self._spot.get((kind, zone), []) if price.since != moment]
        changes = sorted([*others, SpotPrice(moment, usd_per_hour)], key=lambda one: one.since)
        self._spot[kind, zone] = changes

    def on_demand(self, kind: str) -> Decimal:
        return self._list.get(kind, USD_PER_VCPU_HOUR * self.vcpus.get(kind, 2))

    def spot(self, kind: str, zone: str, at: datetime) -> Decimal:
        """The spot price in force at `at`."""
        return self._in_force(kind, zone, at).usd_per_hour

    def history(
        self, kind: str, zone: str, since: datetime, until: datetime
    ) -> Sequence[SpotPrice]:
        """The price in force at `since` and the changes up to `until`, the newest first."""
        later = [one for one in self._spot.get((kind, zone), []) if since < one.since <= until]
        return [*reversed(later), self._in_force(kind, zone, since)]

    def kinds(self) -> Sequence[str]:
        """Types whose price somebody set."""
        return sorted({*self._list, *(kind for kind, _ in self._spot)})

    def usd(self, interval: Interval, now: datetime) -> Decimal:
        """What one instance has cost until its end, or until `now`."""
        end = interval.ended_at or now
        if not interval.spot:
            return _share(interval.launched_at, end) * self.on_demand(interval.kind)
        total, hour = Decimal(0), interval.launched_at
        while hour < end:
            price = self.spot(interval.kind, interval.zone, hour)
            total += _share(hour, min(hour + HOUR, end)) * price
            hour += HOUR
        return total

    def _in_force(self, kind: str, zone: str, at: datetime) -> SpotPrice:
        first = SpotPrice(EPOCH, self.on_demand(kind) * SPOT_SHARE)
        held = [one for one in self._spot.get((kind, zone), []) if one.since <= at]
        return held[-1] if held else first


def _share(start: datetime, end: datetime) -> Decimal:
    """Of an hour."""
    return Decimal((end - start) // timedelta(microseconds=1)) / (HOUR // timedelta(microseconds=1))
