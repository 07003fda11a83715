"""Which nodes are gone, which may be, and which may still be at work though they are silent."""

import logging
from datetime import UTC, datetime, timedelta

from scsched.cluster.provider import NodeState as Existence
from scsched.db.nodes import Death, NodeRec
from scsched.scheduler import reaper
from scsched.scheduler.fencing import FENCE_S, Former
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.presence import Absences, Leases, Sight

log = logging.getLogger("scsched.departures")


class Departures:
    """Remembers over several looks what one alone does not prove."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._absences = Absences()
        self._leases = Leases()
        self._began = datetime.max.replace(tzinfo=UTC)
        self._doubts: dict[str, str] = {}

    def note(self, sight: Sight) -> None:
        """Once a look, before anything is asked about it."""
        self._began = min(self._began, sight.now)
        self._absences.note(sight, self._may_be_there)
        self._leases.note(sight)

    def gone(self, sight: Sight) -> dict[int, Death]:
        """Live nodes that are gone, with their providers' word for why; intents of which nothing
        was made and that nobody wants any more."""
        found = {
            node.id: Death(node.id, _word(node, seen.reason), seen.ended_at)
            for node in sight.nodes.values()
            if (seen := sight.census.seen.get(node.token)) is not None
            and seen.state is Existence.TERMINATED
        }
        for provider in {node.provider for node in sight.nodes.values()} - sight.census.silent:
            for node in self._missing(provider, sight):
                found[node.id] = Death(node.id, _word(node, ""))
        for node in sight.nodes.values():
            if self._is_given_up(node, sight):
                found[node.id] = Death(node.id, "not needed any more")
        return found

    def is_out(self, node: NodeRec) -> bool:
        """Whether its run cannot count on it any more."""
        silent_s = self._leases.silent_s(node) if node.up_at is not None else 0.0
        return node.ended_at is not None or silent_s >= FENCE_S

    def is_doubtful(self, node: NodeRec, sight: Sight) -> bool:
        """Whether it worked for a run, works for none, and has not answered all the time."""
        free = node.run_id is None and node.last_run_id is not None
        answers = sight.answers(node) and not self._leases.missed(node)
        return free and node.launched_at is not None and not answers

    def former(self, node: NodeRec, step_id: int, sight: Sight) -> Former:
        """What is known of a doubtful one."""
        seen = sight.census.seen.get(node.token)
        return Former(
            name=node.name,
            step_id=step_id,
            answers=False,
            existence=seen.state if seen is not None else None,
            silent_s=self._leases.silent_s(node),
        )

    def _missing(self, provider: str, sight: Sight) -> list[NodeRec]:
        """Nodes that its listings have lacked for long; none where the list cannot be believed.

        What was to end may be missing, and what is as long silent too: two witnesses agree.
        """
        mine = [
            node
            for node in sight.nodes.values()
            if node.provider == provider and node.launched_at is not None
        ]
        lacking = [node for node in mine if node.token not in sight.census.seen]
        odd = [n for n in lacking if n.terminate_asked_at is None and not self.is_out(n)]
        answering = sum(sight.answers(node) for node in odd)
        doubt = reaper.believable(len(odd), len(mine), answering) if odd else ""
        if doubt and self._doubts.get(provider) != doubt:
            log.warning("provider %s: %s; none of them counts as gone", provider, doubt)
        self._doubts[provider] = doubt
        return [
            node
            for node in lacking
            if self._absences.proves(node, sight, self._lag(node)) and not (doubt and node in odd)
        ]

    def _is_given_up(self, node: NodeRec, sight: Sight) -> bool:
        """An intent that is not wanted any more, and of which nothing was made.

        If the provider may have heard of it, its launch may have happened with the answer lost:
        it is gone when listings have lacked it for a grace period, from the last moment for a
        launch on.
        """
        if not self._may_be_there(node) or node.token in sight.census.seen:
            return False
        if node.provider in sight.census.silent:
            return False
        if not (node.created_at < self._began or self._fleet.has_asked(node.token)):
            return True
        doubt = self._doubts.get(node.provider, "")
        return not doubt and self._absences.proves(node, sight, self._lag(node))

    def _may_be_there(self, node: NodeRec) -> bool:
        """Nobody wants it, no call of ours may launch it still, and one may have launched it."""
        return (
            node.launched_at is None
            and node.terminate_asked_at is not None
            and not self._fleet.under_way(node.provider, node.token)
        )

    def _lag(self, node: NodeRec) -> timedelta:
        traits = self._fleet.traits(node.provider)
        return timedelta(seconds=traits.listing_lag_s if traits is not None else 0.0)


def _word(node: NodeRec, reason: str) -> str:
    return reason or ("terminated" if node.terminate_asked_at is not None else "lost")
