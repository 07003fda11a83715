"""Pools in which nothing may be launched for a while, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
)
from scsched.steps.state import PendingReason

OVER_CAP = timedelta(seconds=20)
_FOR: Mapping[type[ProviderError], tuple[PendingReason, timedelta]] = {
    NoCapacity: (PendingReason.SPOT_CAPACITY, timedelta(seconds=60)),
    QuotaExceeded: (PendingReason.QUOTA_VCPU, timedelta(minutes=5)),
    Credentials: (PendingReason.RESOURCES, timedelta(minutes=1)),
    BadRequest: (PendingReason.RESOURCES, timedelta(minutes=5)),
}
"""How long a refusal of each kind speaks for the whole pool."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is launched in a pool until then."""

    reason: PendingReason
    sentence: str
    until: datetime


class Holds:
    """By pool. Any thread may ask; one writes."""

    def __init__(self) -> None:
        self._held: Mapping[str, Hold] = {}
        self._capped: Mapping[str, str] = {}
        self._silent: Mapping[str, str] = {}

    def put(self, pool: str, hold: Hold) -> None:
        self._held = {**self._held, pool: hold}

    def set_capped(self, capped: Mapping[str, str]) -> None:
        self._capped = dict(capped)

    def set_silent(self, silent: Mapping[str, str]) -> None:
        self._silent = dict(silent)

    def at(self, now: datetime) -> Mapping[str, Hold]:
        """What a provider said goes before what our own caps say, and its silence before both."""
        capped, silent = self._capped, self._silent
        return {
            **{pool: Hold(PendingReason.QUOTA_VCPU, word, now) for pool, word in capped.items()},
            **{pool: hold for pool, hold in self._held.items() if hold.until > now},
            **{pool: Hold(PendingReason.RESOURCES, word, now) for pool, word in silent.items()},
        }


def after(error: ProviderError, pool: str, now: datetime) -> Hold | None:
    """How a definite refusal holds the pool; None: it does not."""
    for kind, (reason, lasts) in _FOR.items():
        if isinstance(error, kind):
            return Hold(reason, f"pool {pool}: {error}", now + lasts)
    return None


def over_cap(word: str, now: datetime) -> Hold:
    return Hold(PendingReason.QUOTA_VCPU, word, now + OVER_CAP)


def unpriced(pool: str, provider: str, now: datetime) -> Hold:
    """Until a price is told."""
    sentence = (
        f"pool {pool}: {provider} has not told its spot prices yet; "
        "with usd_per_hour the pool need not wait for them"
    )
    return Hold(PendingReason.RESOURCES, sentence, now)
