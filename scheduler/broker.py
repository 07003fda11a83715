"""Match a step to a pool and to nodes in it. Pure: reads its arguments, returns a decision."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from scsched.cluster.pools import Market, Pool
from scsched.steps.layout import Layout, Misfit, lay_out, widths
from scsched.steps.spec import Demand, ResourceClass
from scsched.steps.state import PendingReason


@dataclass(frozen=True, slots=True)
class Want:
    """A step that could start now."""

    step_id: int
    workflow_id: int
    resource_class: ResourceClass
    demand: Demand
    market: Market
    long_lived: bool = False
    allow_spot: bool = True
    """False: it lost spot nodes too often in vain."""
    larger: bool = False
    """It ran out of memory once: only the largest nodes will do."""
    interrupted: bool = False
    """A run of it has lost its nodes: go on at once with what is there."""


@dataclass(frozen=True, slots=True)
class Placement:
    pool: Pool
    layout: Layout
    reuse: tuple[int, ...]
    """Idle nodes of the same workflow, by id."""
    new: int
    """Nodes to launch."""

    @property
    def usd_per_hour(self) -> Decimal:
        return self.layout.nodes * self.pool.usd_per_hour


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Why no pool will do now."""

    reason: PendingReason
    detail: str
    pools: tuple[str, ...] = ()
    """Pools that would do if they had room; none that a more urgent step waits for."""


@dataclass(slots=True)
class Room:
    """What is taken and what is idle, counted down while one tick places its steps."""

    alive: dict[str, int] = field(default_factory=dict)
    """Nodes that count against a pool's limit, by pool name."""
    idle: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    """Idle node ids by (pool name, workflow id)."""
    reserved: set[str] = field(default_factory=set)
    """Pools that a more urgent step waits for: nobody behind it may take their nodes."""

    def take(self, placement: Placement, workflow_id: int) -> None:
        name = placement.pool.name
        idle = self.idle.get((name, workflow_id), [])
        self.idle[name, workflow_id] = [n for n in idle if n not in placement.reuse]
        self.alive[name] = self.alive.get(name, 0) + placement.new


def place(want: Want, pools: Sequence[Pool], room: Room) -> Placement | Unplaceable:
    """The cheapest pool and the best width that can start now.

    A step gets the width that its demand likes best, warm nodes before new ones; only an
    interrupted step goes on with fewer nodes, those that are left, if its rank rules allow.
    """
    able = [pool for pool in pools if _accepts(pool, want)]
    if want.larger and able:
        most_gib = max(pool.memory_gib for pool in able)
        able = [pool for pool in able if pool.memory_gib == most_gib]
    if not able:
        return Unplaceable(PendingReason.NO_CLASS_FITS, _nobody_accepts(want, pools))
    misfits: dict[str, str] = {}
    fitting: list[str] = []
    offers: list[tuple[int, Placement]] = []
    gpus_exist = any(pool.gpus for pool in pools)
    for pool in able:
        layouts = list(_layouts(want, pool, misfits, gpus_exist=gpus_exist))
        if layouts:
            fitting.append(pool.name)
            offers += _offers(want, pool, layouts if want.interrupted else layouts[:1], room)
    if offers:
        return min(offers, key=lambda offer: _rank(want, *offer))[1]
    if not fitting:
        words = "; ".join(f"{name}: {word}" for name, word in sorted(misfits.items()))
        return Unplaceable(PendingReason.NO_CLASS_FITS, words)
    names = ", ".join(sorted(fitting))
    if room.reserved.issuperset(fitting):
        return Unplaceable(PendingReason.PRIORITY, f"more urgent steps wait for {names}")
    open_to_it = tuple(name for name in fitting if name not in room.reserved)
    return Unplaceable(PendingReason.RESOURCES, f"waits for nodes in {names}", open_to_it)


def feasible(want: Want, pools: Sequence[Pool]) -> Placement | Unplaceable:
    """What `place` would say if nothing else were running: for the plan before a submission."""
    return place(want, pools, Room())


def _accepts(pool: Pool, want: Want) -> bool:
    light = _is_light(want)
    if pool.service:
        return light
    if want.long_lived:
        return False
    if not pool.takes(want.resource_class):
        return False
    spot_wanted = want.market is Market.SPOT and want.allow_spot
    return pool.market is not Market.SPOT or spot_wanted


def _is_light(want: Want) -> bool:
    """Also a step that a person has done: it only has to be taken over."""
    return want.long_lived or want.resource_class in (
        ResourceClass.LIGHT,
        ResourceClass.INTERACTIVE,
    )


def _nobody_accepts(want: Want, pools: Iterable[Pool]) -> str:
    if want.long_lived:
        return "no service pool for long-lived steps; add `service = true` to a pool"
    if any(pool.market is Market.SPOT for pool in pools) and want.market is not Market.SPOT:
        return f"no on-demand pool takes {want.resource_class}; submit with --spot or add one"
    return f"no pool takes class {want.resource_class}"


def _layouts(
    want: Want, pool: Pool, misfits: dict[str, str], *, gpus_exist: bool
) -> Iterable[Layout]:
    """Where no pool has a GPU at all, a step that wants one runs on the CPU."""
    if gpus_exist and want.demand.gpus > pool.gpus == 0:
        misfits[pool.name] = "no GPU"
        return
    if gpus_exist and want.demand.gpus and want.demand.vram_gib > pool.vram_gib:
        misfits[pool.name] = f"VRAM {pool.vram_gib:.0f} GiB < {want.demand.vram_gib:.0f} GiB"
        return
    for nodes in widths(want.demand, pool.max_nodes):
        found = lay_out(
            want.demand,
            nodes=nodes,
            cores_per_node=pool.cores,
            memory_gib_per_node=pool.memory_gib,
        )
        if isinstance(found, Misfit):
            misfits[pool.name] = str(found)
        else:
            yield found


def _offers(
    want: Want, pool: Pool, layouts: Sequence[Layout], room: Room
) -> Iterable[tuple[int, Placement]]:
    """Placements with the rank of their width; 0 is what the demand likes best.

    Narrower ones only on nodes that are there: nothing is launched for half a gang.
    """
    idle = room.idle.get((pool.name, want.workflow_id), [])
    free = pool.max_nodes - room.alive.get(pool.name, 0)
    if pool.name in room.reserved:
        return
    for liking, layout in enumerate(layouts):
        reuse = tuple(idle[: layout.nodes])
        new = layout.nodes - len(reuse)
        narrower = liking > 0
        if new <= free and not (narrower and new):
            yield liking, Placement(pool=pool, layout=layout, reuse=reuse, new=new)


def _rank(
    want: Want, liking: int, offer: Placement
) -> tuple[bool, bool, bool, int, Decimal, int, str]:
    """Smaller is better."""
    light = _is_light(want)
    spot = offer.pool.market is Market.SPOT
    wants_spot = want.market is Market.SPOT and want.allow_spot
    return (
        light and not offer.pool.service,
        wants_spot and not spot and not offer.pool.service,
        want.interrupted and offer.new > 0,
        liking,
        offer.usd_per_hour,
        offer.new,
        offer.pool.name,
    )
