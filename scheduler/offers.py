"""What dispatch may give: new nodes as the fleet would ask for them, and the room of one tick."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from scsched.cluster.pools import Pool
from scsched.db.exposure import Lives
from scsched.db.gangs import NewNode
from scsched.db.nodes import NodeRec
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.room import Room, room_of
from scsched.scheduler.survival import Exposure

HISTORY = timedelta(days=7)
"""How far back the lives of spot nodes are looked at."""


def nodes_of(fleet: Fleet, pool: Pool, zone: str, tokens: Iterable[str]) -> tuple[NewNode, ...]:
    """New nodes of one kind in one zone: what the fleet would ask for first.

    :param zone: where they have to be; empty: anywhere.
    """
    candidate, usd_per_hour = fleet.first_candidate(pool, zone)
    return tuple(
        NewNode(
            token=token,
            provider=pool.provider,
            cores=pool.cores,
            memory_gib=pool.memory_gib,
            gpus=pool.gpus,
            usd_per_hour=usd_per_hour,
            kind=candidate.kind,
            zone=candidate.zone,
        )
        for token in tokens
    )


def room_at(live: Iterable[NodeRec], fleet: Fleet, awaiting: Iterable[int], now: datetime) -> Room:
    """What is there now. `exposure` is left for those who need it.

    :param awaiting: steps that cannot start yet and will want the nodes asked for them.
    """
    room = room_of(live)
    room.awaiting = frozenset(awaiting)
    room.held = {name: (hold.reason, hold.sentence) for name, hold in fleet.holds(now).items()}
    room.closed = frozenset(_closed(room, fleet))
    room.prices = fleet.costs()
    return room


def exposures(lives: Mapping[str, Lives]) -> dict[str, Exposure]:
    return {name: Exposure(one.reclaims, one.node_hours) for name, one in lives.items()}


def _closed(room: Room, fleet: Fleet) -> Iterable[tuple[str, str]]:
    """Zones with idle nodes beside which the provider has just refused to give more."""
    for (name, _), idle in room.idle.items():
        pool = fleet.pool(name)
        for zone in {node.zone for node in idle} if pool is not None else ():
            if zone and pool is not None and fleet.next_candidate(pool, zone) is None:
                yield name, zone
