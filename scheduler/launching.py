"""Launch what was intended, a gang at a time: all of its nodes or none.

REQUESTED ──► asked ──► launched
                │  └──► no answer, not now: asked again under the same tokens, after a pause
                └─────► refused: another candidate under new tokens; when there is none left
                        the nodes end, and the run that waits for them as NO_CAPACITY
"""

import logging
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain

from scsched.cluster.pools import Candidate
from scsched.cluster.provider import (
    BadRequest,
    InProgress,
    Launched,
    NoCapacity,
    ProviderError,
    Refused,
    Throttled,
    Unreachable,
)
from scsched.cluster.provider import NodeState as Existence
from scsched.db import gangs
from scsched.db import nodes as node_rows
from scsched.db.gangs import Target
from scsched.db.nodes import Birth, NodeRec
from scsched.db.session import Store
from scsched.scheduler import caps, holds
from scsched.scheduler.candidates import has_choice
from scsched.scheduler.caps import Alive
from scsched.scheduler.fleet import Census, Fleet
from scsched.scheduler.intents import Asked, Intents, Joining, is_intent
from scsched.scheduler.limiter import pause_s
from scsched.scheduler.tickets import Tickets

log = logging.getLogger("scsched.launching")

_UNCLEAR = (InProgress, Throttled, Unreachable)
"""After these the same token is asked for again, before anything else is."""


@dataclass(slots=True)
class _Pause:
    until: datetime
    times: int = 0


class Launching:
    """Asks for gangs until each is launched or refused for good."""

    def __init__(self, store: Store, fleet: Fleet, joining: Joining, deployment: str) -> None:
        self._store = store
        self._fleet = fleet
        self._intents = Intents(fleet, joining, Tickets.of(store), deployment)
        self._pauses: dict[str, _Pause] = {}
        self._unclear: set[str] = set()
        """Gangs of whose launch we did not hear the end: it may have happened."""
        self._began = datetime.max.replace(tzinfo=UTC)

    def tick(self, now: datetime, census: Census, live: Sequence[NodeRec]) -> None:
        """Ask for all that is intended; write down the answers."""
        self._began = min(self._began, now)
        self._fleet.tick(now)
        found = self._intents.asked(live)
        self._forget({gang.key for gang in found})
        there = self._there(census, live)
        due = [gang for gang in found if self._is_due(gang, census, now)]
        asked = [gang for gang in due if self._fits(gang, there, now)]
        self._fleet.set_capped(
            caps.full(self._fleet.pools, there, self._fleet.limits, self._fleet.costs())
        )
        if not asked:
            return
        requests = chain.from_iterable(gang.requests for gang in asked)
        answers = {answer.token: answer for answer in self._fleet.launch(requests)}
        self._record(asked, answers, now)
        for gang in asked:
            self._judge(gang, answers, census, now)

    def _is_due(self, gang: Asked, census: Census, now: datetime) -> bool:
        """Not while nobody can count what is there, and not while it has to pause."""
        pause = self._pauses.get(gang.key)
        return gang.pool.provider not in census.silent and (pause is None or pause.until <= now)

    def _there(self, census: Census, live: Iterable[NodeRec]) -> dict[str, Alive]:
        """What counts against the caps."""
        recorded = [
            Alive(node.token, node.pool, node.usd_per_hour)
            for node in live
            if node.launched_at is not None
            or node.token in census.seen
            or self._fleet.has_asked(node.token)
        ]
        return caps.alive(census.seen, recorded, self._fleet.costs())

    def _fits(self, gang: Asked, there: dict[str, Alive], now: datetime) -> bool:
        """Under the caps; then it counts against them from now on."""
        more = [Alive(node.token, node.pool, node.usd_per_hour) for node in gang.nodes]
        word = caps.over(gang.pool, more, there, self._fleet.limits)
        if not word:
            there.update({one.token: one for one in more})
            return True
        self._fleet.hold(gang.pool.name, holds.over_cap(word, now))
        self._give_up(gang, [node for node in gang.nodes if is_intent(node)], word, now)
        return False

    def _record(
        self, asked: Iterable[Asked], answers: Mapping[str, Launched | Refused], now: datetime
    ) -> None:
        births = [
            Birth(node.id, answer.provider_id, answer.launched_at, answer.usd_per_hour)
            for gang in asked
            for node in gang.nodes
            if isinstance(answer := answers.get(node.token), Launched) and node.launched_at is None
        ]
        if births:
            with self._store.write() as session:
                node_rows.launched(session, births, now)

    def _judge(
        self,
        gang: Asked,
        answers: Mapping[str, Launched | Refused],
        census: Census,
        now: datetime,
    ) -> None:
        """What becomes of a gang of which some nodes were not launched."""
        errors = {
            node.token: answer.error
            for node in gang.nodes
            if node.launched_at is None
            and isinstance(answer := answers.get(node.token), Refused)
            and not _is_alive(census, node.token)
        }
        unclear = [error for error in errors.values() if isinstance(error, _UNCLEAR)]
        if unclear:
            self._pause(gang, unclear, now)
            return
        self._pauses.pop(gang.key, None)
        if errors:
            self._refused(gang, errors, now)

    def _pause(self, gang: Asked, errors: Sequence[ProviderError], now: datetime) -> None:
        """Silence costs ever longer pauses; a call under way none."""
        if any(isinstance(error, Unreachable) for error in errors):
            self._unclear.add(gang.key)
        loud = [error for error in errors if not isinstance(error, InProgress)]
        if not loud:
            return
        log.warning("gang %s: %s", gang.key, loud[0])
        times = self._pauses[gang.key].times + 1 if gang.key in self._pauses else 1
        told_s = [error.retry_after_s for error in loud if isinstance(error, Throttled)]
        seconds = max(told_s) if told_s else pause_s(times, jitter=0.0)
        self._pauses[gang.key] = _Pause(now + timedelta(seconds=seconds), times)

    def _refused(self, gang: Asked, errors: Mapping[str, ProviderError], now: datetime) -> None:
        """For good: nothing was launched under these tokens, and nothing will be."""
        error = next(iter(errors.values()))
        log.warning("gang %s, %s: %s", gang.key, gang.candidate, error)
        if isinstance(error, NoCapacity):
            self._fleet.refused(gang.pool, gang.candidate, now)
            if found := self._fleet.next_candidate(gang.pool, gang.zone):
                self._retarget(gang, *found, now)
                return
        refused = [node for node in gang.nodes if node.token in errors]
        known = not (isinstance(error, BadRequest) and self._may_have_happened(gang))
        everywhere = has_choice(gang.pool) and not gang.zone
        speaks = everywhere or not isinstance(error, NoCapacity)
        if known and speaks and (hold := holds.after(error, gang.pool.name, now)):
            self._fleet.hold(gang.pool.name, hold)
        self._give_up(gang, refused, str(error), now, sure=known)

    def _retarget(
        self, gang: Asked, candidate: Candidate, usd_per_hour: Decimal, now: datetime
    ) -> None:
        """All of the gang, under new tokens; those of it that were launched are to be ended."""
        target = Target(secrets.token_hex(12), candidate.kind, candidate.zone, usd_per_hour)
        with self._store.write() as session:
            gangs.retarget(session, [node.id for node in gang.nodes], target, now)

    def _give_up(
        self,
        gang: Asked,
        nodes: Iterable[NodeRec],
        why: str,
        now: datetime,
        *,
        sure: bool | None = None,
    ) -> None:
        """The run that waits for them ends as NO_CAPACITY.

        :param sure: nothing was launched under their tokens; else the listings are to tell.
        """
        sure = not self._may_have_happened(gang) if sure is None else sure
        ids = [node.id for node in nodes]
        with self._store.write() as session:
            if sure:
                node_rows.ended(session, [(node_id, f"refused: {why}") for node_id in ids], now)
            else:
                node_rows.ask_terminate(session, ids, f"refused: {why}", now)

    def _may_have_happened(self, gang: Asked) -> bool:
        """A broker before us, or we without hearing the answer, may have launched it."""
        return gang.key in self._unclear or any(
            node.created_at < self._began for node in gang.nodes
        )

    def _forget(self, keys: Collection[str]) -> None:
        self._unclear &= set(keys)
        self._pauses = {key: pause for key, pause in self._pauses.items() if key in keys}


def _is_alive(census: Census, token: str) -> bool:
    seen = census.seen.get(token)
    return seen is not None and seen.built and seen.state is not Existence.TERMINATED
