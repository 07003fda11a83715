"""Match a step to a pool and to nodes in it. Pure: reads its arguments, returns a decision."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from os.path import normpath
from pathlib import PurePosixPath

from scsched.cluster.pools import Market, Pool
from scsched.scheduler.room import Idle, Room
from scsched.scheduler.survival import Exposure, likely
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
    iteration_thread_s: float | None = None
    """Seconds of one thread that an iteration takes, as its last run went; None: not known."""
    project: str | None = None
    """Path of its project, where it is known."""


@dataclass(frozen=True, slots=True)
class Placement:
    pool: Pool
    layout: Layout
    reuse: tuple[int, ...]
    """Idle nodes of the same workflow, by id."""
    new: int
    """Nodes to launch."""
    booting: int = 0
    """Of the reused nodes, those that are on their way still."""
    zone: str = ""
    """Where new nodes have to be, beside the reused ones; empty: anywhere."""


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Why no pool will do now."""

    reason: PendingReason
    detail: str
    pools: tuple[str, ...] = ()
    """Pools that would do if they had room; none that a more urgent step waits for."""


def place(want: Want, pools: Sequence[Pool], room: Room) -> Placement | Unplaceable:
    """The cheapest pool and the best width that can start now.

    A step gets the width that its demand likes best, warm nodes before new ones. Only an
    interrupted step goes on with fewer nodes, those that are left, if its rank rules allow it and
    an iteration of theirs is likely to be done before one of them goes too.
    """
    able = [pool for pool in pools if accepts(pool, want)]
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
        return min(offers, key=lambda offer: _rank(want, room, *offer))[1]
    return _refusal(fitting, misfits, room)


def _refusal(fitting: Sequence[str], misfits: dict[str, str], room: Room) -> Unplaceable:
    """Why none of the fitting pools will do now."""
    if not fitting:
        words = "; ".join(f"{name}: {word}" for name, word in sorted(misfits.items()))
        return Unplaceable(PendingReason.NO_CLASS_FITS, words)
    if room.reserved.issuperset(fitting):
        names = ", ".join(sorted(fitting))
        return Unplaceable(PendingReason.PRIORITY, f"more urgent steps wait for {names}")
    open_to_it = tuple(name for name in fitting if name not in room.reserved)
    launching = [name for name in open_to_it if name not in room.held]
    if not launching:
        reason, sentence = room.held[min(open_to_it)]
        return Unplaceable(reason, sentence)
    names = ", ".join(sorted(fitting))
    return Unplaceable(PendingReason.RESOURCES, f"waits for nodes in {names}", tuple(launching))


def feasible(
    want: Want, pools: Sequence[Pool], prices: Mapping[str, Decimal] | None = None
) -> Placement | Unplaceable:
    """What `place` would say if nothing else were running: for the plan before a submission.

    :param prices: US dollars an hour of a node, by pool name, where it is not as configured.
    """
    return place(want, pools, Room(prices=prices or {}))


def layout_within(want: Want, pool: Pool, pools: Sequence[Pool], nodes: int) -> Layout | None:
    """The layout that the demand likes best of those in that pool with at most so many nodes."""
    gpus_exist = any(one.gpus for one in pools)
    able = _layouts(want, pool, {}, gpus_exist=gpus_exist)
    return next((layout for layout in able if layout.nodes <= nodes), None)


def accepts(pool: Pool, want: Want) -> bool:
    """Whether such a step may run on nodes of that pool at all, whatever their size."""
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
    if outside := _outside(want.project, pool):
        misfits[pool.name] = outside
        return
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


def _outside(project: str | None, pool: Pool) -> str:
    """Why other machines would not see the project; empty: they do, or nothing is known."""
    if project is None or not pool.remote or pool.storage is None:
        return ""
    shared = pool.storage.path
    if PurePosixPath(normpath(project)).is_relative_to(normpath(shared)):
        return ""
    return f"its nodes see {shared} and not {project}; submit with a --project below {shared}"


def _offers(
    want: Want, pool: Pool, layouts: Sequence[Layout], room: Room
) -> Iterable[tuple[int, Placement]]:
    """Placements with the rank of their width; 0 is what the demand likes best.

    Narrower ones only on nodes that are there: nothing is launched for half a gang.
    """
    if pool.name in room.reserved:
        return
    groups = room.together(pool, want.workflow_id, want.step_id)
    for liking, layout in enumerate(layouts):
        for group in (*groups, ()):
            offer = _gang(pool, layout, group, room)
            if offer is None:
                continue
            if liking == 0 or (offer.new == 0 and _lasts(want, pool, layout, room)):
                yield liking, offer


def _gang(pool: Pool, layout: Layout, group: Sequence[Idle], room: Room) -> Placement | None:
    """That many nodes, of the group as far as it goes; None: there is no room for the others."""
    reuse = group[: layout.nodes]
    new = layout.nodes - len(reuse)
    zone = reuse[0].zone if reuse and pool.one_zone else ""
    free = pool.max_nodes - room.alive.get(pool.name, 0)
    shut = pool.name in room.held or (pool.name, zone) in room.closed
    if new and (new > free or shut):
        return None
    return Placement(
        pool=pool,
        layout=layout,
        reuse=tuple(node.id for node in reuse),
        new=new,
        booting=sum(not node.up for node in reuse),
        zone=zone,
    )


def _lasts(want: Want, pool: Pool, layout: Layout, room: Room) -> bool:
    """Whether an iteration on so few nodes fits into a likely unbroken stretch."""
    if pool.market is not Market.SPOT or want.iteration_thread_s is None:
        return True
    seconds = want.iteration_thread_s / threads_at_work(layout.ranks, layout.threads)
    seen = room.exposure.get(pool.name, Exposure())
    return likely(seen, nodes=layout.nodes, seconds=seconds)


def threads_at_work(ranks: int, threads: int) -> int:
    """Of a layout: its leader only hands out work."""
    return max(1, ranks - 1) * max(1, threads)


def _rank(
    want: Want, room: Room, liking: int, offer: Placement
) -> tuple[bool, bool, bool, int, Decimal, int, int, str]:
    """Smaller is better. For an interrupted step what can begin at once comes first."""
    light = _is_light(want)
    spot = offer.pool.market is Market.SPOT
    wants_spot = want.market is Market.SPOT and want.allow_spot
    return (
        light and not offer.pool.service,
        wants_spot and not spot and not offer.pool.service,
        want.interrupted and (offer.new > 0 or offer.booting > 0),
        liking,
        offer.layout.nodes * room.prices.get(offer.pool.name, offer.pool.usd_per_hour),
        offer.new,
        offer.booting,
        offer.pool.name,
    )
