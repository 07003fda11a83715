"""The providers of all pools behind one face: launch by intent, list by tag, terminate by id."""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    Launched,
    LaunchRequest,
    Notice,
    Provider,
    ProviderError,
    Refused,
    Seen,
)

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


class Fleet:
    """All pools of the site, and the provider that each belongs to."""

    def __init__(self, pools: Sequence[Pool], providers: Mapping[str, Provider]) -> None:
        self.pools = tuple(pools)
        self._by_name = {pool.name: pool for pool in pools}
        self._providers = providers
        self._census: Census | None = None
        self._taken_at = 0.0
        self._asked: set[str] = set()

    def pool(self, name: str) -> Pool | None:
        """None for a pool that was taken out of the configuration while nodes of it live."""
        return self._by_name.get(name)

    def census(self, age_s: float = 0.0) -> Census:
        """The last one while it is younger than `age_s` and nothing was asked for since."""
        if self._census is None or time.monotonic() - self._taken_at >= age_s:
            self._taken_at, self._census = time.monotonic(), self._counted()
        return self._census

    def _counted(self) -> Census:
        seen: dict[str, Seen] = {}
        notices: dict[str, Notice] = {}
        provider_of: dict[str, str] = {}
        silent = set()
        for name, provider in self._providers.items():
            try:
                listed = {node.token: node for node in provider.list()}
                seen |= listed
                provider_of |= dict.fromkeys(listed, name)
                notices |= {notice.token: notice for notice in provider.notices()}
            except ProviderError as exc:
                log.warning("provider %s does not answer: %s", name, exc)
                silent.add(name)
        return Census(seen=seen, silent=frozenset(silent), notices=notices, provider_of=provider_of)

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

    def terminate(self, tokens: Mapping[str, Sequence[str]]) -> None:
        """Ask for nodes to end, by provider name. Already gone is done."""
        self._census = None
        for name, group in tokens.items():
            try:
                self._providers[name].terminate(group)
            except ProviderError as exc:
                log.warning("provider %s: terminate: %s", name, exc)


def _grouped(requests: Iterable[LaunchRequest]) -> dict[str, list[LaunchRequest]]:
    groups: dict[str, list[LaunchRequest]] = {}
    for request in requests:
        groups.setdefault(request.pool.provider, []).append(request)
    return groups
