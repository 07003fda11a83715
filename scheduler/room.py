"""What a tick has to give: the nodes that are taken, idle, or on their way. Counted down."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from scsched.cluster.pools import Pool
from scsched.db.models import NodeState
from scsched.db.nodes import NodeRec
from scsched.scheduler.survival import Exposure
from scsched.steps.state import PendingReason


@dataclass(frozen=True, slots=True)
class Idle:
    """A node without a run."""

    id: int
    kind: str = ""
    zone: str = ""
    up: bool = True
    """False: it was asked for, or boots."""
    spare_for: int | None = None
    """The step that it was asked for, when nodes of that step's run were under notice."""


@dataclass(slots=True)
class Room:
    """What is taken and what is idle, counted down while one tick places its steps."""

    alive: dict[str, int] = field(default_factory=dict)
    """Nodes that count against a pool's limit, by pool name."""
    idle: dict[tuple[str, int], list[Idle]] = field(default_factory=dict)
    """Idle nodes by (pool name, workflow id)."""
    reserved: set[str] = field(default_factory=set)
    """Pools that a more urgent step waits for: nobody behind it may take their nodes."""
    held: Mapping[str, tuple[PendingReason, str]] = field(default_factory=dict)
    """Pools in which nothing is launched now, and why."""
    closed: Collection[tuple[str, str]] = ()
    """(pool name, zone) in which nothing is launched now."""
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    """US dollars an hour of a new node, by pool name, where it is not as configured."""
    exposure: Mapping[str, Exposure] = field(default_factory=dict)
    """What pools have shown of their lives, by name."""
    awaiting: Collection[int] = ()
    """Steps that cannot start yet and will want the nodes that were asked for them."""

    def take(self, pool: str, workflow_id: int, reuse: Sequence[int], new: int) -> None:
        """Give these away."""
        idle = self.idle.get((pool, workflow_id), [])
        self.idle[pool, workflow_id] = [node for node in idle if node.id not in reuse]
        self.alive[pool] = self.alive.get(pool, 0) + new

    def together(self, pool: Pool, workflow_id: int, step_id: int) -> list[list[Idle]]:
        """Idle nodes that the step may have, in groups that can be one gang, each in the order
        in which they are taken: what is up, then what comes up for this very step.

        A group is of one kind, in one zone unless the pool says otherwise; what was asked for this
        step may be of another kind.
        """
        usable = [
            node
            for node in self.idle.get((pool.name, workflow_id), [])
            if node.spare_for == step_id
            or (node.up and (node.spare_for is None or node.spare_for not in self.awaiting))
        ]
        groups = []
        for kind, zone in sorted({(node.kind, _zone(node, pool)) for node in usable}):
            near = [node for node in usable if _zone(node, pool) == zone]
            alike = [node for node in near if node.kind == kind or node.spare_for == step_id]
            groups.append(sorted(alike, key=lambda node: _order(node, step_id)))
        return groups


def _zone(node: Idle, pool: Pool) -> str:
    return node.zone if pool.one_zone else ""


def _order(node: Idle, step_id: int) -> tuple[bool, bool, int]:
    return (not node.up, node.spare_for not in (None, step_id), node.id)


def room_of(live: Iterable[NodeRec]) -> Room:
    """Nodes that live, by pool; those without a run are idle for their own workflow.

    One under notice to be taken back, or asked to end, counts until it is gone.
    """
    room = Room()
    for node in live:
        room.alive[node.pool] = room.alive.get(node.pool, 0) + 1
        if node.run_id is None and node.terminate_asked_at is None and _is_of_use(node):
            room.idle.setdefault((node.pool, node.workflow_id), []).append(
                Idle(
                    node.id,
                    kind=node.kind,
                    zone=node.zone,
                    up=node.state is NodeState.UP,
                    spare_for=node.spare_for,
                )
            )
    return room


def _is_of_use(node: NodeRec) -> bool:
    coming = node.state in (NodeState.REQUESTED, NodeState.STARTING)
    return node.state is NodeState.UP or (coming and node.spare_for is not None)
