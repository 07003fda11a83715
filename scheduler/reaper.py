"""End nodes of ours that no record knows: the only thing that ends a node which nobody asked to.

A reaper is a machine that can lose data, so it believes little. A node is known by its token or
by the provider's own id for it, never by its name or address: those come late, and get used again
(https://github.com/aws/aws-parallelcluster-node/pull/694 ended healthy nodes so). It ends one that
is old enough and was a stranger in two listings; and nobody at all when strangers are many, as
then the records are what is wrong.

A provider whose listings are the plain truth of this moment says so with a grace of 0: there a
stranger is ended at first sight.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from scsched.cluster.provider import NodeState, Seen, Traits
from scsched.db import audit as records
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Census, Fleet

log = logging.getLogger("scsched.reaper")

SHARE = 0.2
"""More of a fleet than this is never ended, nor given up as lost, at once."""
SMALL = 5
"""Fleets with fewer nodes know no shares."""


def believable(missing: int, known: int, alive_by_beat: int) -> str:
    """Why a listing that lacks so many of the nodes on record proves nothing; empty: it may.

    :param missing: nodes on record that it lacks.
    :param known: nodes on record.
    :param alive_by_beat: how many of the missing ones answer their drivers all the same.
    """
    if alive_by_beat:
        return f"{alive_by_beat} of {missing} nodes missing from the list answer their drivers"
    if too_many(missing, known):
        return f"the list lacks {missing} of {known} nodes at once"
    return ""


def too_many(some: int, fleet: int) -> bool:
    """More than a fifth of a fleet of five or more."""
    return fleet >= SMALL and some > SHARE * fleet


@dataclass(frozen=True, slots=True)
class Sighting:
    """A stranger, as it was seen first."""

    at: datetime
    listing: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one provider's listings."""

    strangers: Mapping[str, Sighting] = field(default_factory=dict)
    """Those of the last listing."""
    fleet: Mapping[str, tuple[Seen, datetime]] = field(default_factory=dict)
    """Nodes that were listed as alive within the grace, and when last: a listing may lack most
    of a fleet, which then looks small."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look at one provider's listing makes of it."""

    memory: Memory
    due: tuple[str, ...]
    """To be ended now."""
    alarm: str = ""
    """Why nobody is ended though some are due."""


def sweep(
    listed: Sequence[Seen],
    listing: int,
    known: Collection[str],
    before: Memory,
    traits: Traits,
    now: datetime,
) -> Sweep:
    """Pure.

    :param known: tokens and provider ids of all live records.
    """
    strange = [one for one in listed if _is_up(one) and _is_strange(one, known)]
    strangers = {
        one.token: before.strangers.get(one.token, Sighting(now, listing)) for one in strange
    }
    memory = Memory(strangers, _fleet(listed, before, traits, now))
    due = [one.token for one in strange if _is_due(one, strangers[one.token], listing, traits, now)]
    nobodys = sum(_is_strange(one, known) for one, _ in memory.fleet.values())
    if due and traits.stranger_grace_s and too_many(nobodys, len(memory.fleet)):
        word = f"{nobodys} of {len(memory.fleet)} nodes are nobody's: too many to be true"
        return Sweep(memory, (), word)
    ending = [one for one in listed if one.state is NodeState.STOPPING]
    again = [one.token for one in ending if _is_strange(one, known)]
    return Sweep(memory, tuple(dict.fromkeys([*due, *again])))


def _fleet(
    listed: Iterable[Seen], before: Memory, traits: Traits, now: datetime
) -> dict[str, tuple[Seen, datetime]]:
    since = now - timedelta(seconds=traits.stranger_grace_s)
    fleet = {token: one for token, one in before.fleet.items() if one[1] >= since}
    for one in listed:
        if _is_up(one):
            fleet[one.token] = (one, now)
        else:
            fleet.pop(one.token, None)
    return fleet


def _is_up(seen: Seen) -> bool:
    return seen.state in (NodeState.PENDING, NodeState.RUNNING)


def _is_strange(seen: Seen, known: Collection[str]) -> bool:
    return seen.token not in known and seen.provider_id not in known


def _is_due(seen: Seen, first: Sighting, listing: int, traits: Traits, now: datetime) -> bool:
    if not traits.stranger_grace_s:
        return True
    age_s = (now - (seen.launched_at or first.at)).total_seconds()
    return listing != first.listing and age_s > traits.stranger_grace_s


class Reaper:
    """Sweeps every new listing."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._memory: dict[str, Memory] = {}
        self._told: set[str] = set()
        self.alarms: Mapping[str, str] = {}
        """Why nothing is swept now, by provider."""

    def tick(self, now: datetime, census: Census, live: Iterable[NodeRec]) -> None:
        """One sweep of each provider that answers."""
        known = {node.token for node in live} | {node.provider_id or "" for node in live} - {""}
        alarms = {}
        for provider, listing in census.listing.items():
            traits = self._fleet.traits(provider)
            if traits is None or provider in census.silent:
                continue
            listed = [seen for t, seen in census.seen.items() if census.provider_of[t] == provider]
            before = self._memory.get(provider, Memory())
            found = sweep(listed, listing, known, before, traits, now)
            self._memory[provider] = found.memory
            if found.alarm:
                alarms[provider] = found.alarm
            self._end(provider, [census.seen[token] for token in found.due], now)
        self._alarm(alarms, now)

    def _end(self, provider: str, due: Collection[Seen], now: datetime) -> None:
        """What is to be ended is written down before the provider is called."""
        new = [seen for seen in due if seen.token not in self._told]
        if new:
            with self._store.write() as session:
                were = records.by_token(session, [seen.token for seen in new])
                for seen in new:
                    text = f"{seen.provider_id} ({seen.token}) at {provider} is nobody's; ended"
                    log.warning("%s", text)
                    records.tell(session, "stranger_ended", text, now, were.get(seen.token))
            self._told |= {seen.token for seen in new}
        if due:
            self._fleet.terminate({provider: [seen.token for seen in due]})

    def _alarm(self, alarms: Mapping[str, str], now: datetime) -> None:
        """Told once, for as long as it lasts."""
        for provider, word in alarms.items():
            if provider not in self.alarms:
                text = f"provider {provider}: {word}; nothing is ended. Look: scsched audit"
                log.error("%s", text)
                with self._store.write() as session:
                    records.tell(session, "reaper_stopped", text, now)
        self.alarms = alarms
