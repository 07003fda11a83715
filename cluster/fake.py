"""A provider in memory, scripted: it refuses, forgets to answer, lists late, takes nodes back."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Price,
    ProviderError,
    Refused,
    Seen,
    Traits,
    Unreachable,
    by_gang,
    in_order,
)

_TRAITS = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)


@dataclass
class _Pending:
    error: ProviderError
    pool: str | None


@dataclass
class FakeProvider:
    """Keeps nodes in a dict. Script it with the methods below the contract, read `calls`."""

    deployment: str
    capacity: dict[str, int] = field(default_factory=dict)
    """Nodes a pool has to give; pools not named here give `max_nodes`."""
    nodes: dict[str, Seen] = field(default_factory=dict)
    requests: dict[str, LaunchRequest] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    price_list: list[Price] = field(default_factory=list)
    traits: Traits = _TRAITS
    _refusals: deque[_Pending] = field(default_factory=deque)
    _lost_replies: int = 0
    _errors: dict[str, deque[ProviderError]] = field(default_factory=dict)
    _listed_after: dict[str, int] = field(default_factory=dict)
    _listing_delay: int = 0
    _hidden: set[str] = field(default_factory=set)
    _notices: dict[str, Notice] = field(default_factory=dict)

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        self.calls["launch"] += 1
        gangs = by_gang(requests)
        return in_order(requests, (answer for gang in gangs for answer in self._launch(gang)))

    def list(self) -> tuple[Seen, ...]:
        self.calls["list"] += 1
        self._raise_scripted("list")
        return tuple(
            seen
            for token, seen in self.nodes.items()
            if token not in self._hidden and self._listed_after.get(token, 0) < self.calls["list"]
        )

    def terminate(self, tokens: Sequence[str]) -> None:
        self.calls["terminate"] += 1
        self._raise_scripted("terminate")
        for token in tokens:
            self._end(token, "")

    def notices(self) -> tuple[Notice, ...]:
        self.calls["notices"] += 1
        self._raise_scripted("notices")
        return tuple(n for n in self._notices.values() if self._is_up(n.token))

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        self.calls["prices"] += 1
        self._raise_scripted("prices")
        names = {kind for pool in pools for kind in pool.types}
        known = [price for price in self.price_list if price.candidate.kind in names]
        return tuple(sorted(known, key=lambda price: price.since))

    def refuse(self, error: ProviderError, *, pool: str | None = None, times: int = 1) -> None:
        """Answer the next `times` launches of a gang, of `pool` or any, with `error`."""
        self._refusals.extend(_Pending(error, pool) for _ in range(times))

    def lose_replies(self, times: int = 1) -> None:
        """The next `times` launches of a gang happen, but the caller hears `Unreachable`."""
        self._lost_replies += times

    def fail(self, verb: str, error: ProviderError, *, times: int = 1) -> None:
        """Raise `error` from the next `times` calls of `list`, `terminate` or `notices`."""
        self._errors.setdefault(verb, deque()).extend([error] * times)

    def delay_listing(self, listings: int) -> None:
        """Nodes launched from now on are missing from the next `listings` listings."""
        self._listing_delay = listings

    def hide(self, *tokens: str) -> None:
        """Leave these nodes out of listings until `show`."""
        self._hidden.update(tokens)

    def show(self, *tokens: str) -> None:
        """Undo `hide`."""
        self._hidden.difference_update(tokens)

    def notify(self, token: str, deadline: datetime) -> None:
        """Announce that the node will be taken back."""
        self._notices[token] = Notice(token, deadline)

    def reclaim(self, token: str, *, reason: str = "spot") -> None:
        """Take the node back now."""
        self._end(token, reason)

    def up(self) -> frozenset[str]:
        """Tokens of the nodes that run, whatever the listings say."""
        return frozenset(token for token in self.nodes if self._is_up(token))

    def _launch(self, gang: Sequence[LaunchRequest]) -> Sequence[Launched | Refused]:
        missing = [request for request in gang if request.token not in self.nodes]
        error = self._refusal(gang, missing) if missing else None
        if error is None:
            self._add(missing)
        answers = [self._answer(request, error) for request in gang]
        if self._lost_replies and not any(isinstance(answer, Refused) for answer in answers):
            self._lost_replies -= 1
            return [_unheard(request.token) for request in gang]
        return answers

    def _add(self, requests: Sequence[LaunchRequest]) -> None:
        for request in requests:
            token = request.token
            self.requests[token] = request
            self.nodes[token] = Seen(token, f"fake-{len(self.nodes) + 1}", NodeState.RUNNING)
            self._listed_after[token] = self.calls["list"] + self._listing_delay

    def _answer(self, request: LaunchRequest, error: ProviderError | None) -> Launched | Refused:
        token = request.token
        if token not in self.nodes:
            return Refused(token, error or BadRequest(f"{token}: was not launched"))
        if not self._is_up(token):
            return Refused(token, _ended(token))
        return Launched(token, self.nodes[token].provider_id)

    def _refusal(
        self, gang: Sequence[LaunchRequest], missing: Sequence[LaunchRequest]
    ) -> ProviderError | None:
        """Why the missing ones cannot be launched."""
        pool = missing[0].pool
        for request in gang:
            if request.deployment != self.deployment:
                return BadRequest(f"{request.token}: not of deployment {self.deployment}")
            if request.token in self.nodes and not self._is_up(request.token):
                return _ended(request.token)
        for scripted in self._refusals:
            if scripted.pool in (None, pool.name):
                self._refusals.remove(scripted)
                return scripted.error
        used = sum(self.requests[up].pool.name == pool.name for up in self.up())
        room = self.capacity.get(pool.name, pool.max_nodes)
        if used + len(missing) > room:
            return NoCapacity(f"pool {pool.name}: {used} of {room} nodes are in use")
        return None

    def _raise_scripted(self, verb: str) -> None:
        if errors := self._errors.get(verb):
            raise errors.popleft()

    def _is_up(self, token: str) -> bool:
        return self.nodes[token].state is not NodeState.TERMINATED

    def _end(self, token: str, reason: str) -> None:
        if token in self.nodes and self._is_up(token):
            ended = replace(self.nodes[token], state=NodeState.TERMINATED, reason=reason)
            self.nodes[token] = ended
            self._notices.pop(token, None)


def _ended(token: str) -> BadRequest:
    return BadRequest(f"the node of {token} has ended; use a new token")


def _unheard(token: str) -> Refused:
    return Refused(token, Unreachable(f"{token}: no answer to the launch; repeat it"))
