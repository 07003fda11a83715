"""What a remote provider says of nodes, notices and prices, asked for by a thread of its own."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    InProgress,
    Notice,
    Price,
    Provider,
    ProviderError,
    Seen,
    Unreachable,
)
from scsched.scheduler.limiter import Caller

log = logging.getLogger("scsched.watcher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """How often what is asked, in seconds."""

    list_s: float = 3.0
    hear_s: float = 1.0
    """Notices are asked for so often, between listings too: they leave two minutes at most."""
    stale_s: float = 60.0
    """A listing older than this says nothing any more."""
    prices_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What was heard last. `number` counts the listings, `news` how often something was new."""

    seen: Sequence[Seen] = ()
    notices: Sequence[Notice] = ()
    number: int = 0
    news: int = 0
    at: float = float("-inf")
    taken_at: datetime | None = None
    error: ProviderError | None = None


@dataclass(frozen=True, slots=True)
class _Prices:
    known: Sequence[Price] = ()
    since: datetime | None = None
    at: float = float("-inf")

    def cover(self, since: datetime) -> bool:
        return self.since is not None and self.since <= since


class Watcher:
    """Keeps the newest answers; `run` is its thread's."""

    def __init__(
        self,
        provider: Provider,
        caller: Caller,
        wake: Callable[[], None],
        every: Every,
        clock: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._caller = caller
        self._wake = wake
        self._every = every
        self._clock = clock
        self._poked = threading.Event()
        self._wish: tuple[Sequence[Pool], datetime] | None = None
        self._prices = _Prices()
        self.listing = Listing()
        """The newest one, whatever its age."""

    def poke(self) -> None:
        """Look now rather than at the end of the pause."""
        self._poked.set()

    def fresh_enough(self) -> Listing:
        """:raises InProgress: the first one is awaited.
        :raises Unreachable: there is none, or it is too old.
        """
        listing = self.listing
        if not listing.number and listing.error is None:
            raise InProgress("its first list of the nodes is awaited")
        if self._clock() - listing.at > self._every.stale_s:
            why = f": {listing.error}" if listing.error else ""
            raise Unreachable(f"there is no fresh list of the nodes{why}") from listing.error
        return listing

    def prices(self, pools: Sequence[Pool], since: datetime) -> Sequence[Price]:
        """:raises Unreachable: they are not there yet."""
        self._wish = (tuple(pools), since)
        prices = self._prices
        if prices.cover(since) and self._clock() - prices.at <= 3 * self._every.prices_s:
            return prices.known
        self.poke()
        raise Unreachable("the prices are not there yet")

    def run(self) -> None:
        """Until the caller is closed."""
        while not self._caller.closed.is_set():
            self._poked.clear()
            self.look()
            self.look_at_prices()
            self._rest()

    def _rest(self) -> None:
        """Until the next listing is due or wanted; notices are heard meanwhile."""
        times = max(1, round(self._every.list_s / self._every.hear_s))
        for left in reversed(range(times)):
            if self._poked.wait(self._every.list_s / times):
                return
            if left:
                self.hear()

    def look(self) -> None:
        """Ask for the nodes and the notices once."""
        before = self.listing
        asked_at, taken_at = self._clock(), datetime.now(UTC)
        try:
            seen = self._caller.call(self._provider.list)
        except ProviderError as exc:
            if not self._caller.closed.is_set():
                log.warning("no list of the nodes: %s", exc)
            self.listing = replace(before, error=exc)
            return
        notices = self._notices(before)
        self._tell(Listing(seen, notices, before.number + 1, before.news, asked_at, taken_at))

    def hear(self) -> None:
        """Ask for the notices once."""
        self._tell(replace(self.listing, notices=self._notices(self.listing)))

    def _tell(self, listing: Listing) -> None:
        """News is there before anybody is woken for it."""
        before = self.listing
        is_new = (before.seen, before.notices) != (listing.seen, listing.notices)
        self.listing = replace(listing, news=before.news + is_new)
        if is_new:
            self._wake()

    def _notices(self, before: Listing) -> Sequence[Notice]:
        """Nodes hear their own too, so a second ear that is deaf is no reason to stand still."""
        try:
            return self._caller.call(self._provider.notices)
        except ProviderError as exc:
            if not self._caller.closed.is_set():
                log.warning("no notices: %s", exc)
            return before.notices

    def look_at_prices(self) -> None:
        """Ask for the prices that somebody wants, if those at hand are old."""
        wish = self._wish
        if wish is None:
            return
        pools, since = wish
        asked_at = self._clock()
        if self._prices.cover(since) and asked_at - self._prices.at < self._every.prices_s:
            return
        try:
            known = self._caller.call(lambda: self._provider.prices(pools, since))
        except ProviderError as exc:
            log.warning("no prices: %s", exc)
            return
        self._prices = _Prices(known, since, asked_at)
