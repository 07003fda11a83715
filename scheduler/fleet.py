"""The providers of all pools behind one face: launch by intent, list by tag, terminate by id."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from scsched.cluster.pools import ANY, Candidate, Market, Pool
from scsched.cluster.provider import (
    InProgress,
    Launched,
    LaunchRequest,
    Notice,
    Price,
    Provider,
    ProviderError,
    Refused,
    Seen,
    Traits,
)
from scsched.scheduler import candidates, holds
from scsched.scheduler.background import Background
from scsched.scheduler.caps import Limits
from scsched.scheduler.holds import Hold, Holds
from scsched.scheduler.watcher import Listing

log = logging.getLogger("scsched.fleet")


@dataclass(frozen=True, slots=True)
class Census:
    """What the providers say exists, at one moment."""

    seen: Mapping[str, Seen]
    """By launch token."""
    silent: frozenset[str]
    """Providers that did not answer: nothing may be concluded about their nodes."""
    notices: Mapping[str, Notice]
    provider_of: Mapping[str, str] = field(default_factory=dict)
    """Name of the provider that listed the node, by launch token."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """What kept a silent provider from answering, where it is known."""
    listing: Mapping[str, int] = field(default_factory=dict)
    """Number of each provider's listing. The same number in two censuses is one and the same
    listing, which proves nothing twice."""


class Fleet:
    """All pools of the site, and the provider that each belongs to."""

    def __init__(
        self,
        pools: Sequence[Pool],
        providers: Mapping[str, Provider],
        limits: Limits | None = None,
    ) -> None:
        self.pools = tuple(pools)
        self.limits = limits or Limits()
        self._by_name = {pool.name: pool for pool in pools}
        self._providers = providers
        self._census: Census | None = None
        self._taken_at = 0.0
        self._known_news = 0
        self._asked: set[str] = set()
        self._listings = 0
        self._silent: frozenset[str] = frozenset()
        """As last told: a silence is logged once."""
        self._holds = Holds()
        self._refused: dict[str, dict[Candidate, datetime]] = {}
        self._prices: dict[str, dict[Market, dict[Candidate, Decimal]]] = {}
        self._now = datetime.min.replace(tzinfo=UTC)

    def pool(self, name: str) -> Pool | None:
        """None for a pool that was taken out of the configuration while nodes of it live."""
        return self._by_name.get(name)

    @property
    def providers(self) -> tuple[str, ...]:
        return tuple(self._providers)

    def traits(self, provider: str) -> Traits | None:
        """None for a provider that was taken out of the configuration."""
        found = self._providers.get(provider)
        return found.traits if found is not None else None

    # Nodes

    def census(self, age_s: float = 0.0) -> Census:
        """The last one while it is younger than `age_s`, and nothing was asked for or has become
        known since: who is woken by news finds it."""
        news = self._news()
        old = time.monotonic() - self._taken_at >= age_s
        if self._census is None or old or news != self._known_news:
            self._taken_at, self._known_news = time.monotonic(), news
            self._census = self._counted()
        return self._census

    def _news(self) -> int:
        """How often there was some, at all remote providers."""
        providers = self._providers.values()
        return sum(one.news for one in providers if isinstance(one, Background))

    def fresh(self) -> Census:
        """The providers' own lists as they are now, without notices. Blocks, for any thread."""
        seen: dict[str, Seen] = {}
        provider_of: dict[str, str] = {}
        errors: dict[str, str] = {}
        for name, provider in self._providers.items():
            try:
                listed = provider.fresh() if isinstance(provider, Background) else provider.list()
            except ProviderError as exc:
                log.warning("provider %s does not answer: %s", name, exc)
                errors[name] = str(exc)
                continue
            seen |= {node.token: node for node in listed}
            provider_of |= dict.fromkeys((node.token for node in listed), name)
        return Census(
            seen=seen,
            silent=frozenset(errors),
            notices={},
            provider_of=provider_of,
            errors=errors,
        )

    def _counted(self) -> Census:
        seen: dict[str, Seen] = {}
        notices: dict[str, Notice] = {}
        provider_of: dict[str, str] = {}
        listing: dict[str, int] = {}
        silent: dict[str, str] = {}
        for name, provider in self._providers.items():
            try:
                found = self._look(provider)
            except InProgress as exc:
                silent[name] = f"provider {name} was just asked: {exc}"
                continue
            except ProviderError as exc:
                if name not in self._silent:
                    log.warning("provider %s does not answer: %s", name, exc)
                silent[name] = f"provider {name} does not answer: {exc}"
                continue
            listed = {node.token: node for node in found.seen}
            seen |= listed
            provider_of |= dict.fromkeys(listed, name)
            listing[name] = found.number
            notices |= {notice.token: notice for notice in found.notices}
        self._holds.set_silent(
            {one.name: silent[one.provider] for one in self.pools if one.provider in silent}
        )
        self._silent = frozenset(silent)
        return Census(seen, self._silent, notices, provider_of, listing=listing)

    def _look(self, provider: Provider) -> Listing:
        """Its nodes, notices and their listing's number, all of one moment.

        :raises ProviderError: nothing can be said.
        """
        if isinstance(provider, Background):
            return provider.listing()
        self._listings += 1
        return Listing(provider.list(), provider.notices(), self._listings)

    def launch(self, requests: Iterable[LaunchRequest]) -> list[Launched | Refused]:
        """Ask for nodes. Safe to repeat: a token launches once."""
        self._census = None
        answers: list[Launched | Refused] = []
        for name, group in _grouped(requests).items():
            self._asked.update(request.token for request in group)
            try:
                answers += self._providers[name].launch(group)
            except ProviderError as exc:
                log.warning("provider %s: launch: %s", name, exc)
        return answers

    def has_asked(self, token: str) -> bool:
        """Whether a provider has heard of this intent since the broker started."""
        return token in self._asked

    def under_way(self, provider: str, token: str) -> bool:
        """Whether a launch of it that we have asked for may still happen."""
        found = self._providers.get(provider)
        return isinstance(found, Background) and found.under_way(token)

    def terminate(self, tokens: Mapping[str, Sequence[str]]) -> None:
        """Ask for nodes to end, by provider name. Already gone is done."""
        self._census = None
        for name, group in tokens.items():
            try:
                self._providers[name].terminate(group)
            except ProviderError as exc:
                log.warning("provider %s: terminate: %s", name, exc)

    def end(self, provider: str, tokens: Sequence[str]) -> None:
        """End nodes and hear how that went. Blocks, for any thread but the one that ticks.

        :raises ProviderError: any of them may still run.
        """
        found = self._providers[provider]
        if isinstance(found, Background):
            found.end(tokens)
        else:
            found.terminate(tokens)

    def close(self) -> None:
        """Stop the threads that call remote providers."""
        for provider in self._providers.values():
            if isinstance(provider, Background):
                provider.close()

    # What to ask for

    def first_candidate(self, pool: Pool, zone: str | None = None) -> tuple[Candidate, Decimal]:
        """What a new gang of the pool is to be asked for first, and its price an hour.

        :param zone: of the nodes that the gang takes over; None or empty: any will do.
        """
        prices, refused = self._known(pool)
        wanted = zone or ""
        ordered = candidates.order(pool, prices, refused, self._now, zone=wanted)
        first = ordered[0] if ordered else Candidate(next(iter(pool.types), ""), wanted)
        return first, candidates.price_of(pool, first, prices)

    def costs(self) -> dict[str, Decimal]:
        """US dollars an hour of one more node now, by pool name. For any thread."""
        return {pool.name: self.first_candidate(pool)[1] for pool in self.pools}

    def price(self, name: str, candidate: Candidate) -> Decimal | None:
        """US dollars an hour of a node of the pool; None: nobody tells. For any thread."""
        if (pool := self.pool(name)) is None:
            return None
        if candidate == ANY:
            usd_per_hour = self.first_candidate(pool)[1]
        else:
            usd_per_hour = candidates.price_of(pool, candidate, self._known(pool)[0])
        return usd_per_hour if usd_per_hour or not pool.remote else None

    def next_candidate(self, pool: Pool, zone: str = "") -> tuple[Candidate, Decimal] | None:
        """One that was not refused lately; None: there is none left."""
        prices, refused = self._known(pool)
        left = candidates.untried(pool, prices, refused, self._now, zone=zone)
        return (left[0], candidates.price_of(pool, left[0], prices)) if left else None

    def refused(self, pool: Pool, candidate: Candidate, now: datetime) -> None:
        """The provider has none of these now."""
        self._refused.setdefault(pool.name, {})[candidate] = now

    def tick(self, now: datetime) -> None:
        """What is remembered of refusals is as of `now`."""
        self._now = now

    def prices(self, provider: str, pools: Sequence[Pool], since: datetime) -> Sequence[Price]:
        """See `Provider.prices`.

        :raises ProviderError: nothing can be said about prices.
        """
        found = self._providers.get(provider)
        return found.prices(pools, since) if found is not None else ()

    def set_prices(self, provider: str, prices: Mapping[Market, dict[Candidate, Decimal]]) -> None:
        """What the provider's candidates cost now."""
        self._prices[provider] = dict(prices)

    def _known(self, pool: Pool) -> tuple[candidates.Prices, Mapping[Candidate, datetime]]:
        prices = self._prices.get(pool.provider, {}).get(pool.market, {})
        return prices, self._refused.get(pool.name, {})

    # Pools in which nothing may be launched now

    def hold(self, pool: str, hold: Hold) -> None:
        """Launch nothing in the pool until then."""
        log.warning("pool %s is held: %s", pool, hold.sentence)
        self._holds.put(pool, hold)

    def set_capped(self, capped: Mapping[str, str]) -> None:
        """Pools in which caps leave no room for one more node, and why; until the next call."""
        self._holds.set_capped(capped)

    def holds(self, now: datetime) -> Mapping[str, Hold]:
        """Pools in which nothing is launched now, and why."""
        return {**self._unpriced(now), **self._holds.at(now)}

    def _unpriced(self, now: datetime) -> dict[str, Hold]:
        """Spot pools of which nobody has told a price yet: nothing could be capped or compared."""
        return {
            pool.name: holds.unpriced(pool.name, pool.provider, now)
            for pool in self.pools
            if pool.market is Market.SPOT
            and not (pool.usd_per_hour or any(pool.prices.values()))
            and not self._prices.get(pool.provider, {}).get(Market.SPOT)
            and (traits := self.traits(pool.provider)) is not None
            and traits.tells_spot_prices
        }


def _grouped(requests: Iterable[LaunchRequest]) -> dict[str, list[LaunchRequest]]:
    groups: dict[str, list[LaunchRequest]] = {}
    for request in requests:
        groups.setdefault(request.pool.provider, []).append(request)
    return groups
