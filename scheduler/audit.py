"""The ledger against the providers' own lists, as they are this moment.

unknown    listed as alive, and no live record knows it: paid for by nobody
missing    on record as launched, and its provider does not list it: paid for in vain
state      on record as alive, and its provider says that it has ended
price      its provider names another price than the ledger
interval   its provider bills from or until another moment than the ledger
silent     its provider does not answer, or is not configured: nothing can be said
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

from scsched.cluster.provider import NodeState, ProviderError, Seen
from scsched.db import audit as records
from scsched.db import nodes as node_rows
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Census, Fleet

log = logging.getLogger("scsched.audit")

CLOSE = timedelta(seconds=1)
"""Clouds tell whole seconds."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that the records and a provider's list do not say alike."""

    kind: str
    sentence: str
    provider: str
    node: NodeRec | None = None
    seen: Seen | None = None
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What an audit found. `nodes` and `usd_per_hour` are of all that is listed as alive."""

    ok: bool
    nodes: int
    usd_per_hour: Decimal
    unpriced: int
    """Of the nodes: those of which nobody tells a price."""
    differences: tuple[Difference, ...]


class Audit:
    """Looks, and mends what can be mended. Any thread may run one."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet

    def run(self, now: datetime, *, fix: bool = False) -> Found:
        """Compare once.

        :param fix: end what nobody knows, and close what is gone.
        """
        census = self._fleet.fresh()
        with self._store.read() as session:
            live = node_rows.live(session)
            listed = records.by_token(session, census.seen)
        known = {**listed, **{node.token: node for node in live}}
        found = [
            *_silent(census),
            *self._unconfigured(live),
            *_listed(census, known),
            *self._unlisted(census, live, now),
        ]
        if fix:
            found = [self._fixed(one, now) for one in found]
        alive = {token: one for token, one in census.seen.items() if _is_alive(one)}
        prices = [self._price(one, known.get(token)) for token, one in alive.items()]
        told = [price for price in prices if price is not None]
        return Found(
            ok=not found,
            nodes=len(alive),
            usd_per_hour=sum(told, Decimal(0)),
            unpriced=len(prices) - len(told),
            differences=tuple(found),
        )

    def _price(self, seen: Seen, node: NodeRec | None) -> Decimal | None:
        """As its provider says, else as recorded; of a stranger, that of the pool in its tag."""
        if seen.usd_per_hour is not None:
            return seen.usd_per_hour
        return node.usd_per_hour if node else self._fleet.price(seen.pool, seen.candidate)

    def _unconfigured(self, live: Iterable[NodeRec]) -> Iterable[Difference]:
        """Nodes whose provider was taken out of the configuration: nobody lists or ends them."""
        for node in live:
            if node.launched_at is not None and self._fleet.traits(node.provider) is None:
                text = f"provider {node.provider} of {node.name} ({node.provider_id})"
                yield Difference("silent", f"{text} is not configured", node.provider, node)

    def _unlisted(
        self, census: Census, live: Iterable[NodeRec], now: datetime
    ) -> Iterable[Difference]:
        """Nodes on record as launched that their provider does not list, though it had time to."""
        for node in live:
            traits = self._fleet.traits(node.provider)
            if node.launched_at is None or node.token in census.seen:
                continue
            if traits is None or node.provider in census.silent:
                continue
            if (now - node.launched_at).total_seconds() > traits.listing_lag_s:
                text = f"{node.name} ({node.provider_id}) is on record and not listed"
                yield Difference("missing", text, node.provider, node)

    def _fixed(self, one: Difference, now: datetime) -> Difference:
        """The intent is written down before the provider is called."""
        if one.kind == "unknown" and one.seen is not None:
            with self._store.write() as session:
                text = f"{one.seen.provider_id} ({one.seen.token}) is ended by an audit"
                records.tell(session, "stranger_ended", text, now, one.node)
            return self._ended(one, one.seen.token)
        if one.kind in ("missing", "state") and one.node is not None:
            ended_at = one.seen.ended_at if one.seen else None
            why = (one.seen.reason if one.seen else "") or "lost"
            with self._store.write() as session:
                node_rows.ended(session, [node_rows.Death(one.node.id, why, ended_at)], now)
            return replace(one, fixed=True)
        return one

    def _ended(self, one: Difference, token: str) -> Difference:
        """Mended only where its provider has taken it."""
        try:
            self._fleet.end(one.provider, [token])
        except ProviderError as exc:
            log.warning("%s: %s", one.sentence, exc)
            return replace(one, sentence=f"{one.sentence}; it could not be ended: {exc}")
        return replace(one, fixed=True)


def _silent(census: Census) -> Iterable[Difference]:
    for name in sorted(census.silent):
        why = f": {census.errors[name]}" if name in census.errors else ""
        yield Difference("silent", f"provider {name} does not answer{why}", name)


def _listed(census: Census, known: Mapping[str, NodeRec]) -> Iterable[Difference]:
    for token, seen in census.seen.items():
        node, provider = known.get(token), census.provider_of[token]
        if node is None or node.ended_at is not None:
            if _is_alive(seen):
                was = f"was {node.name}, which has ended" if node else "is on no record"
                text = f"{seen.provider_id} is {seen.state} and {was}"
                yield Difference("unknown", text, provider, node, seen)
        elif seen.state is NodeState.TERMINATED:
            text = f"{node.name} ({seen.provider_id}) has ended and is {node.state} on record"
            yield Difference("state", text, provider, node, seen)
        if node is not None:
            yield from _money(node, seen, provider)


def _money(node: NodeRec, seen: Seen, provider: str) -> Iterable[Difference]:
    """As far as the provider tells."""
    if node.ended_at is None and seen.usd_per_hour not in (None, node.usd_per_hour):
        text = f"{node.name}: ${seen.usd_per_hour} an hour, ${node.usd_per_hour} on record"
        yield Difference("price", text, provider, node, seen)
    told = ((node.launched_at, seen.launched_at, "from"), (node.ended_at, seen.ended_at, "until"))
    for recorded, billed, word in told:
        if recorded and billed and abs(recorded - billed) > CLOSE:
            text = f"{node.name}: billed {word} {billed:%H:%M:%S}, recorded {recorded:%H:%M:%S}"
            yield Difference("interval", text, provider, node, seen)


def _is_alive(seen: Seen) -> bool:
    return seen.state in (NodeState.PENDING, NodeState.RUNNING)
