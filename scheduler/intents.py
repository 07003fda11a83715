"""Nodes that are intended and not launched yet, by the gangs in which they are asked for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scsched.cluster.pools import Candidate, Pool
from scsched.cluster.provider import Join, LaunchRequest, Owner, Seen, gang_of
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.tickets import Tickets

Joining = Callable[[NodeRec], tuple[Owner, Join] | None]
"""Whom a node belongs to and which Dask scheduler it joins; None until the driver is there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Nodes that are asked for together, one of them at least not launched yet.

    All of them are in the requests: a cloud takes the same token for a smaller gang as a mistake.
    """

    key: str
    nodes: tuple[NodeRec, ...]
    pool: Pool
    requests: tuple[LaunchRequest, ...]
    zone: str
    """The only one that will do; empty: any."""

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.nodes[0].kind, self.nodes[0].zone)


class Intents:
    """Makes requests of rows."""

    def __init__(self, fleet: Fleet, joining: Joining, tickets: Tickets, deployment: str) -> None:
        self._fleet = fleet
        self._joining = joining
        self._tickets = tickets
        self._deployment = deployment

    def asked(self, live: Sequence[NodeRec]) -> list[Asked]:
        """Gangs with an intent that somebody still wants, and whose driver is there.

        One with a node that is to end is not wanted: its run is ending.
        """
        groups: dict[str, list[NodeRec]] = {}
        for node in live:
            groups.setdefault(gang_of(node.token), []).append(node)
        return [
            asked
            for key, nodes in groups.items()
            if any(is_intent(node) for node in nodes)
            and all(node.terminate_asked_at is None for node in nodes)
            and (asked := self._gang(key, nodes, live))
        ]

    def _gang(self, key: str, nodes: Sequence[NodeRec], live: Iterable[NodeRec]) -> Asked | None:
        pool = self._fleet.pool(nodes[0].pool)
        if pool is None:
            return None
        requests = [request for node in nodes if (request := self._request(node, pool)) is not None]
        if len(requests) < len(nodes):
            return None
        zone = _zone(key, nodes, live) if pool.one_zone else ""
        return Asked(key, tuple(nodes), pool, tuple(requests), zone)

    def _request(self, node: NodeRec, pool: Pool) -> LaunchRequest | None:
        """None until its driver listens."""
        joining = self._joining(node)
        if joining is None or (pool.remote and joining[1].desk is None):
            return None
        owner, join = joining
        return LaunchRequest(
            token=node.token,
            name=node.name,
            pool=pool,
            owner=owner,
            join=join,
            deployment=self._deployment,
            candidate=Candidate(node.kind, node.zone),
            ticket=self._tickets.ticket(node.token) if pool.remote else "",
        )


def is_intent(node: NodeRec) -> bool:
    """Not launched yet, and wanted by a run or kept in reserve for a step."""
    wanted = node.run_id is not None or node.spare_for is not None
    return node.state is NodeState.REQUESTED and wanted


def is_asked(node: NodeRec, seen: Seen) -> bool:
    """Whether its launch is under way, and only the answer to it tells what becomes of it."""
    return is_intent(node) and node.terminate_asked_at is None and not seen.built


def _zone(key: str, nodes: Sequence[NodeRec], live: Iterable[NodeRec]) -> str:
    """Where the run's other nodes are: all of a gang are in one zone. A spare stays where those
    are that it is for."""
    first = nodes[0]
    if first.spare_for is not None:
        return first.zone
    others = (
        node.zone
        for node in live
        if first.run_id is not None
        and node.run_id == first.run_id
        and gang_of(node.token) != key
        and node.zone
    )
    return next(others, "")
