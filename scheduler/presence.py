"""What one look cannot tell of a node: since when it is missing, silent, or booting.

All of it is forgotten with the broker, and every clock here then starts anew: later, never sooner.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from scsched.cluster.provider import NodeState as Existence
from scsched.db.drivers import DriverRec
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun
from scsched.scheduler.fleet import Census
from scsched.scheduler.protocol import Beat

MISSING_GRACE = timedelta(seconds=20)
"""How long listings must lack a node until it counts as gone: clouds list late."""
WITNESSED_S = 10.0
"""The longest pause between two looks that counts: what is longer, the broker has slept through,
and the drivers' beats with it."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that one tick looks at."""

    now: datetime
    beats: Mapping[int, Beat]
    """Of drivers not given up, by workflow."""
    census: Census
    runs: Sequence[OpenRun]
    nodes: Mapping[int, NodeRec]
    """Live ones, by id."""
    drivers: Mapping[int, DriverRec]
    """Those not given up, by workflow."""

    def answers(self, node: NodeRec) -> bool:
        """Whether its own driver says that its worker is there."""
        beat = self.beats.get(node.workflow_id)
        return beat is not None and any(report.name == node.name for report in beat.nodes)

    def lacks(self, node: NodeRec) -> bool:
        """Whether its own driver has spoken and does not name it, or there is no driver."""
        if node.workflow_id in self.beats:
            return not self.answers(node)
        return node.workflow_id not in self.drivers


@dataclass(frozen=True, slots=True)
class _Absence:
    listing: int | None
    """Number of the listing at hand when it was missed first, which may be older than the node."""
    since: datetime | None = None
    """When the first one after that was there, and lacked it too; None: there is none yet."""


class Absences:
    """Since when listings have lacked a node. One that lacks it proves nothing: they come late, and
    the newest may be old."""

    def __init__(self) -> None:
        self._known: dict[str, _Absence] = {}
        self._newest: dict[str, tuple[int, datetime]] = {}
        """Number of each provider's newest listing, and when it was there first."""

    def note(self, sight: Sight, may_be_there: Callable[[NodeRec], bool]) -> None:
        """Of nodes that are launched or may be. A provider that does not answer says nothing, and
        a node whose worker answers is there, whatever the listings lack."""
        for provider, number in sight.census.listing.items():
            if self._newest.get(provider, (None, None))[0] != number:
                self._newest[provider] = (number, sight.now)
        self._known = {
            node.token: absence
            for node in sight.nodes.values()
            if (node.launched_at is not None or may_be_there(node))
            and node.token not in sight.census.seen
            and not sight.answers(node)
            and (absence := self._absence(node, sight)) is not None
        }

    def proves(self, node: NodeRec, sight: Sight, lag: timedelta) -> bool:
        """Whether two listings lacked it that are so far apart that it is gone.

        :param lag: how late its provider may list a node.
        """
        found = self._known.get(node.token)
        if found is None or found.since is None:
            return False
        _, newest_at = self._newest.get(node.provider, (None, sight.now))
        return newest_at - found.since >= max(MISSING_GRACE, lag)

    def _absence(self, node: NodeRec, sight: Sight) -> _Absence | None:
        before = self._known.get(node.token)
        if node.provider in sight.census.silent:
            return before
        listing = sight.census.listing.get(node.provider)
        if before is None:
            return _Absence(listing)
        if before.since is None and (listing is None or listing != before.listing):
            return _Absence(listing, sight.now)
        return before


class Leases:
    """For how long nodes have been silent, as far as the broker was there to hear."""

    def __init__(self) -> None:
        self._silent_s: dict[int, float] = {}
        self._missed: set[int] = set()
        self._last: datetime | None = None

    def note(self, sight: Sight) -> None:
        gap_s = 0.0 if self._last is None else (sight.now - self._last).total_seconds()
        gap_s = min(max(0.0, gap_s), WITNESSED_S)
        self._last = sight.now
        silent_s: dict[int, float] = {}
        for node in sight.nodes.values():
            if node.launched_at is None or sight.answers(node):
                continue
            lacks = sight.lacks(node)
            silent_s[node.id] = self._silent_s.get(node.id, 0.0) + (gap_s if lacks else 0.0)
            if lacks and node.up_at is not None:
                self._missed.add(node.id)
        self._silent_s = silent_s
        self._missed &= sight.nodes.keys()

    def silent_s(self, node: NodeRec) -> float:
        return self._silent_s.get(node.id, 0.0)

    def missed(self, node: NodeRec) -> bool:
        """Whether it has been silent since it came up, though it may answer again."""
        return node.id in self._missed


class Boots:
    """From when a node's boot is timed: jobs of a batch system wait for hours to begin at all."""

    def __init__(self) -> None:
        self._pending: dict[str, datetime] = {}
        self._began = datetime.max.replace(tzinfo=UTC)

    def note(self, sight: Sight) -> None:
        self._began = min(self._began, sight.now)
        for node in sight.nodes.values():
            seen = sight.census.seen.get(node.token)
            if seen is not None and seen.state is Existence.PENDING:
                self._pending[node.token] = sight.now
        known = {node.token for node in sight.nodes.values()}
        self._pending = {t: at for t, at in self._pending.items() if t in known}

    def began(self, node: NodeRec, launched_at: datetime, *, remote: bool) -> datetime:
        """Its launch, or the last moment at which its provider was known to let it wait; what a
        broker did not see before it started does not count against a remote node."""
        at = max(launched_at, self._pending.get(node.token, launched_at))
        return max(at, self._began) if remote else at
