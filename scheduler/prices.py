"""What nodes cost as time goes on: the order of candidates, and the charges of spot nodes.

A spot node is billed hour by hour from its launch, each hour at the price that was in force when
the hour began (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/billing-for-spot-instances.html).
Prices become known late, so an hour is charged anew some minutes after it began, the first one too:
what was known when the node was asked for may be minutes old by its launch. A broker that was down
charges all the hours that it missed.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import Price, ProviderError
from scsched.db import pricing
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Fleet

log = logging.getLogger("scsched.prices")

HOUR = timedelta(hours=1)
LATE = timedelta(minutes=10)
"""By then the price at the beginning of an hour is known."""
EVERY = timedelta(seconds=60)


def in_force(
    prices: Iterable[Price], candidate: Candidate, market: Market, at: datetime
) -> Decimal | None:
    """What the candidate costs at that moment; None: the provider does not tell."""
    past = [
        price
        for price in prices
        if price.candidate == candidate and price.market is market and price.since <= at
    ]
    return max(past, key=lambda price: price.since).usd_per_hour if past else None


def hours_due(node: NodeRec, now: datetime) -> list[datetime]:
    """Beginnings of its hours that are to be charged by the price then."""
    if node.launched_at is None:
        return []
    until = min(now - LATE, node.ended_at or now)
    hour = node.launched_at + HOUR * max(0, (_done(node) - node.launched_at) // HOUR + 1)
    due = []
    while hour < until:
        due.append(hour)
        hour += HOUR
    return due


def newest(prices: Iterable[Price], now: datetime) -> dict[Market, dict[Candidate, Decimal]]:
    """What each candidate costs now, by market."""
    found: dict[Market, dict[Candidate, Decimal]] = {}
    for price in sorted(prices, key=lambda price: price.since):
        if price.since <= now:
            found.setdefault(price.market, {})[price.candidate] = price.usd_per_hour
    return found


class Prices:
    """Asks the providers now and then; charges what has changed."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._next: datetime | None = None

    def tick(self, now: datetime) -> None:
        if self._next is not None and now < self._next:
            return
        self._next = now + EVERY
        with self._store.read() as session:
            nodes = pricing.unpriced(session)
        for provider in self._fleet.providers:
            mine = [node for node in nodes if node.provider == provider]
            self._look(provider, mine, now)

    def _look(self, provider: str, nodes: Sequence[NodeRec], now: datetime) -> None:
        pools = [pool for pool in self._fleet.pools if pool.provider == provider and pool.types]
        late = [node for node in nodes if hours_due(node, now) or _is_over(node, now)]
        if not pools and not late:
            return
        since = min((hour for node in late for hour in hours_due(node, now)), default=now - HOUR)
        try:
            prices = self._fleet.prices(provider, pools, min(since, now - HOUR))
        except ProviderError as exc:
            self._next = now + timedelta(seconds=5)
            log.info("provider %s: %s", provider, exc)
            return
        if prices:
            self._fleet.set_prices(provider, newest(prices, now))
        if late:
            self._charge(late, prices, now)

    def _charge(self, nodes: Iterable[NodeRec], prices: Sequence[Price], now: datetime) -> None:
        until: list[tuple[int, datetime]] = []
        with self._store.write() as session:
            for node in nodes:
                candidate = Candidate(node.kind, node.zone)
                due = hours_due(node, now)
                for hour in due:
                    usd = in_force(prices, candidate, Market(node.market), hour)
                    if usd is not None:
                        pricing.reprice(session, node, hour, usd, now)
                done = node.ended_at if _is_over(node, now) else max(due, default=None)
                if done is not None:
                    until.append((node.id, done))
            pricing.priced(session, until)


def _done(node: NodeRec) -> datetime:
    return node.priced_until or node.launched_at or node.created_at


def _is_over(node: NodeRec, now: datetime) -> bool:
    """It has ended, and the price of its last hour is known by now."""
    return node.ended_at is not None and node.ended_at + LATE < now
