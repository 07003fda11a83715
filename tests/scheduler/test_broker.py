"""A step is matched to a pool and to nodes by rules; each test is one rule."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.cluster.pools import Market, Pool
from scsched.scheduler.broker import Placement, Unplaceable, Want, feasible, place
from scsched.scheduler.room import Idle, Room
from scsched.steps.spec import Demand, ResourceClass, Shape
from scsched.steps.state import PendingReason
from tests.scheduler.world import pool

SPOT = pool("spot", market=Market.SPOT, usd_per_hour=Decimal("0.3"))
STEADY = pool("steady")
SERVICE = pool("service", service=True, cores=1, memory_gib=2.0)


def idle(*ids: int, **values: object) -> list[Idle]:
    return [Idle(node, **values) for node in ids]  # type: ignore[arg-type]


def want(width: int = 1, **values: object) -> Want:
    given_values: dict[str, object] = {
        "step_id": 1,
        "workflow_id": 7,
        "resource_class": ResourceClass.CPU,
        "demand": Demand(shape=Shape.MPI, ranks=width + 1),
        "market": Market.ON_DEMAND,
    }
    return Want(**(given_values | values))  # type: ignore[arg-type]


def placed(found: Placement | Unplaceable) -> Placement:
    assert isinstance(found, Placement), found
    return found


def refused(found: Placement | Unplaceable) -> Unplaceable:
    assert isinstance(found, Unplaceable), found
    return found


def test_the_cheapest_pool_wins() -> None:
    cheap = pool("cheap", usd_per_hour=Decimal("0.5"))
    assert placed(feasible(want(), [STEADY, cheap])).pool is cheap


def test_spot_is_taken_by_who_asked_for_it_also_where_it_is_dearer() -> None:
    dear = pool("dear", market=Market.SPOT, usd_per_hour=Decimal(5))
    assert placed(feasible(want(market=Market.SPOT), [STEADY, dear])).pool is dear


def test_who_asked_for_on_demand_never_gets_spot() -> None:
    found = refused(feasible(want(), [SPOT]))
    assert found.reason is PendingReason.NO_CLASS_FITS
    assert "--spot" in found.detail


def test_spot_steps_go_to_on_demand_nodes_where_spot_is_full() -> None:
    room = Room(alive={"spot": SPOT.max_nodes})
    assert placed(place(want(market=Market.SPOT), [SPOT, STEADY], room)).pool is STEADY


def test_a_step_that_lost_spot_nodes_in_vain_gets_none_again() -> None:
    found = feasible(want(market=Market.SPOT, allow_spot=False), [SPOT, STEADY])
    assert placed(found).pool is STEADY


def test_a_pool_of_other_classes_is_passed_over() -> None:
    gpu_only = pool("gpu", classes=frozenset({ResourceClass.GPU}), usd_per_hour=Decimal(0))
    assert placed(feasible(want(), [gpu_only, STEADY])).pool is STEADY
    assert "cpu-bound" in refused(feasible(want(), [gpu_only])).detail


def test_light_steps_go_to_the_service_pool_and_dear_ones_never() -> None:
    light = want(resource_class=ResourceClass.LIGHT, demand=Demand())
    free = pool("free", usd_per_hour=Decimal(0))
    assert placed(feasible(light, [free, SERVICE])).pool is SERVICE
    assert placed(feasible(want(), [SERVICE, STEADY])).pool is STEADY


def test_a_light_step_does_without_a_service_pool_but_a_monitor_does_not() -> None:
    light = want(resource_class=ResourceClass.LIGHT, demand=Demand())
    assert placed(feasible(light, [STEADY])).pool is STEADY
    monitor = want(long_lived=True, demand=Demand())
    assert "service = true" in refused(feasible(monitor, [STEADY])).detail


def test_a_gpu_step_waits_for_the_gpu_pool_but_runs_on_the_cpu_where_none_exists() -> None:
    on_gpu = want(resource_class=ResourceClass.GPU, demand=Demand(gpus=1))
    gpu = pool("gpu", gpus=1, usd_per_hour=Decimal(9))
    assert placed(feasible(on_gpu, [STEADY, gpu])).pool is gpu
    full = Room(alive={"gpu": gpu.max_nodes})
    assert refused(place(on_gpu, [STEADY, gpu], full)).pools == ("gpu",)
    assert placed(feasible(on_gpu, [STEADY])).pool is STEADY


def test_too_large_a_step_says_what_it_needs() -> None:
    found = refused(feasible(want(demand=Demand(memory_gib=99.0)), [STEADY]))
    assert found.reason is PendingReason.NO_CLASS_FITS
    assert "99.0 GiB" in found.detail
    assert "steady" in found.detail


def test_after_out_of_memory_only_the_largest_nodes_will_do() -> None:
    big = pool("big", memory_gib=64.0, usd_per_hour=Decimal(9))
    assert placed(feasible(want(larger=True), [STEADY, big])).pool is big


def test_warm_nodes_of_the_same_workflow_come_first() -> None:
    room = Room(alive={"steady": 1}, idle={("steady", 7): idle(12)})
    found = placed(place(want(width=2), [STEADY], room))
    assert (found.reuse, found.new) == ((12,), 1)


def test_warm_nodes_of_another_workflow_are_not_taken() -> None:
    room = Room(alive={"steady": 2}, idle={("steady", 8): idle(12, 13)})
    assert refused(place(want(), [STEADY], room)).reason is PendingReason.RESOURCES


def test_of_like_pools_the_one_with_warm_nodes_wins() -> None:
    other = pool("a-first")
    room = Room(alive={"steady": 1}, idle={("steady", 7): idle(12)})
    assert placed(place(want(), [other, STEADY], room)).pool is STEADY


def test_a_new_step_waits_for_its_best_width() -> None:
    found = place(want(width=2), [STEADY], Room(alive={"steady": 1}))
    assert refused(found).reason is PendingReason.RESOURCES


def test_an_interrupted_step_goes_on_with_the_nodes_that_are_left() -> None:
    wide = pool("wide", max_nodes=4)
    room = Room(alive={"wide": 3}, idle={("wide", 7): idle(1, 2, 3)})
    found = placed(place(want(width=4, interrupted=True), [wide], room))
    assert (found.reuse, found.new, found.layout.nodes) == ((1, 2, 3), 0, 3)


def test_an_interrupted_step_with_no_node_left_launches_its_best_width() -> None:
    found = placed(feasible(want(width=2, interrupted=True), [STEADY]))
    assert (found.new, found.layout.nodes) == (2, 2)


def test_an_interrupted_auto_refine_keeps_an_odd_number_of_ranks() -> None:
    halves = want(demand=Demand(shape=Shape.SPLIT_HALVES, ranks=5), interrupted=True)
    wide = pool("wide", max_nodes=4)
    for left in ([1], [1, 2], [1, 2, 3]):
        room = Room(alive={"wide": 4}, idle={("wide", 7): idle(*left)})
        found = placed(place(halves, [wide], room))
        assert found.layout.ranks >= 3
        assert found.layout.ranks % 2 == 1


def test_nobody_takes_the_nodes_that_a_more_urgent_step_waits_for() -> None:
    room = Room(reserved={"steady"}, idle={("steady", 7): idle(1)}, alive={"steady": 1})
    found = refused(place(want(), [STEADY], room))
    assert found.reason is PendingReason.PRIORITY
    assert found.pools == ()


def test_a_step_waits_only_for_pools_that_are_open_to_it() -> None:
    """Else its idle nodes there would be kept from the more urgent step."""
    other = pool("other")
    room = Room(reserved={"steady"}, alive={"other": 2})
    assert refused(place(want(), [STEADY, other], room)).pools == ("other",)


demands = st.builds(
    Demand,
    shape=st.sampled_from(Shape),
    ranks=st.integers(1, 9),
    threads=st.integers(1, 8),
    gpus=st.integers(0, 1),
    memory_gib=st.floats(0.1, 40.0),
)
wants = st.builds(
    want,
    workflow_id=st.integers(1, 3),
    resource_class=st.sampled_from(ResourceClass),
    demand=demands,
    market=st.sampled_from(Market),
    long_lived=st.booleans(),
    allow_spot=st.booleans(),
    larger=st.booleans(),
    interrupted=st.booleans(),
)
pools = st.lists(
    st.builds(
        pool,
        name=st.sampled_from(["a", "b", "c", "d"]),
        market=st.sampled_from(Market),
        max_nodes=st.integers(1, 5),
        cores=st.integers(1, 8),
        memory_gib=st.sampled_from([4.0, 16.0, 64.0]),
        gpus=st.integers(0, 1),
        service=st.booleans(),
        usd_per_hour=st.decimals(0, 10, places=2),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.name,
)


def crowd(some: list[Pool], many: list[Want], room: Room) -> list[tuple[Want, Placement]]:
    """What one tick places, as dispatch does it."""
    found = []
    for one in many:
        answer = place(one, some, room)
        if isinstance(answer, Unplaceable):
            room.reserved.update(answer.pools)
            continue
        room.take(answer.pool.name, one.workflow_id, answer.reuse, answer.new)
        found.append((one, answer))
    return found


@given(some=pools, many=st.lists(wants, max_size=8), alive=st.integers(0, 5))
def test_there_are_never_more_nodes_than_a_pool_may_have(
    some: list[Pool], many: list[Want], alive: int
) -> None:
    room = Room(alive={one.name: min(alive, one.max_nodes) for one in some})
    crowd(some, many, room)
    for one in some:
        assert room.alive[one.name] <= one.max_nodes


@given(some=pools, many=st.lists(wants, max_size=8))
def test_no_idle_node_is_given_to_two_steps_or_to_another_workflow(
    some: list[Pool], many: list[Want]
) -> None:
    there = {(p.name, w): [100 * w + i for i in range(2)] for p in some for w in (1, 2, 3)}
    given_away: set[tuple[str, int]] = set()
    nodes = {key: idle(*ids) for key, ids in there.items()}
    room = Room(alive={p.name: p.max_nodes for p in some}, idle=nodes)
    for one, answer in crowd(some, many, room):
        for node in answer.reuse:
            assert node in there[answer.pool.name, one.workflow_id]
            assert (answer.pool.name, node) not in given_away
            given_away.add((answer.pool.name, node))


@given(some=pools, one=wants)
def test_what_is_placed_fits_and_obeys_the_rules(some: list[Pool], one: Want) -> None:
    answer = feasible(one, some)
    if isinstance(answer, Unplaceable):
        assert answer.reason is PendingReason.NO_CLASS_FITS
        assert answer.detail
        return
    chosen, layout = answer.pool, answer.layout
    assert len(answer.reuse) + answer.new == layout.nodes <= chosen.max_nodes
    assert layout.memory_gib_per_node <= chosen.memory_gib
    if chosen.market is Market.SPOT:
        assert chosen.service or (one.market is Market.SPOT and one.allow_spot)
    if one.long_lived:
        assert chosen.service
    if one.demand.gpus and any(pool_.gpus for pool_ in some):
        assert chosen.gpus
    if one.demand.shape is Shape.SPLIT_HALVES:
        assert layout.ranks >= 3
        assert layout.ranks % 2 == 1


@given(busy=st.integers(1, 5), width=st.integers(2, 5))
def test_a_wide_gang_is_not_starved_by_narrow_steps_behind_it(busy: int, width: int) -> None:
    """Nodes come free one by one, and narrow steps never stop coming."""
    shared = pool("shared", max_nodes=5, service=False)
    alive = busy
    for _ in range(10):
        room = Room(alive={"shared": alive})
        gang = place(want(width=width), [shared], room)
        if isinstance(gang, Placement):
            return
        room.reserved.update(gang.pools)
        behind = place(want(workflow_id=9), [shared], room)
        alive += behind.new if isinstance(behind, Placement) else 0
        alive -= 1
    pytest.fail("the gang never started")
