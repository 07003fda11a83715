"""What to ask a provider for first, and what next. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from scsched.cluster.pools import Candidate, Pool

REFUSAL_LASTS = timedelta(minutes=10)
"""How long a candidate that was refused is left for last."""

Prices = Mapping[Candidate, Decimal]
"""US dollars an hour, of one market."""


def order(
    pool: Pool,
    prices: Prices,
    refused: Mapping[Candidate, datetime],
    now: datetime,
    *,
    zone: str = "",
) -> tuple[Candidate, ...]:
    """All candidates of the pool, the cheapest first; equally cheap ones as configured.

    Those refused in the last ten minutes come last, the one refused longest ago first.

    :param zone: the only one that will do; empty: any.
    """
    last = [one for one in _of_zone(pool, zone) if _lately(one, refused, now)]
    return (
        *untried(pool, prices, refused, now, zone=zone),
        *sorted(last, key=lambda one: refused[one]),
    )


def untried(
    pool: Pool,
    prices: Prices,
    refused: Mapping[Candidate, datetime],
    now: datetime,
    *,
    zone: str = "",
) -> tuple[Candidate, ...]:
    """As `order`, without those refused in the last ten minutes."""
    found = [one for one in _of_zone(pool, zone) if not _lately(one, refused, now)]
    return tuple(sorted(found, key=lambda one: _cost(pool, one, prices)))


def price_of(pool: Pool, candidate: Candidate, prices: Prices) -> Decimal:
    """As the provider says, else as configured for the type, else for the pool."""
    configured = pool.prices.get(candidate.kind, pool.usd_per_hour)
    return prices.get(candidate, configured)


def _cost(pool: Pool, candidate: Candidate, prices: Prices) -> tuple[bool, Decimal]:
    """What has no price where others have one is not free: it comes behind them."""
    usd_per_hour = price_of(pool, candidate, prices)
    return not usd_per_hour and candidate not in prices, usd_per_hour


def has_choice(pool: Pool) -> bool:
    """Whether its provider may be asked for one thing or another."""
    return bool(pool.types or pool.zones)


def _of_zone(pool: Pool, zone: str) -> list[Candidate]:
    return [one for one in pool.candidates() if not zone or one.zone in ("", zone)]


def _lately(candidate: Candidate, refused: Mapping[Candidate, datetime], now: datetime) -> bool:
    at = refused.get(candidate)
    return at is not None and now - at < REFUSAL_LASTS
