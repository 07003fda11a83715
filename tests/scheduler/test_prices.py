"""Spot nodes cost what their provider asks at the beginning of each of their hours."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import Price, Unreachable
from scsched.db import queries
from scsched.scheduler import prices
from scsched.scheduler.prices import LATE, hours_due, in_force, newest
from scsched.steps.state import StepState
from tests.db.rows import NOW
from tests.scheduler.world import SPOT, World, pool

MakeWorld = Callable[..., World]
X, Y = Candidate("x", "a"), Candidate("y", "a")
POOL = pool(
    "spot", market=Market.SPOT, types=("x", "y"), zones=("a",), boot_s=1e9,
    prices={"x": Decimal(2), "y": Decimal(3)},
)  # fmt: skip


def price(usd: str, since: datetime, candidate: Candidate = X) -> Price:
    return Price(candidate, Market.SPOT, Decimal(usd), since)


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(POOL)


def running(world: World) -> World:
    world.submit(market=SPOT)
    world.until_state(StepState.RUNNING)
    return world


def spent(world: World) -> Decimal:
    with world.store.read() as session:
        return queries.receipt(session, 1, world.now).total_usd


def launched_at(world: World) -> datetime:
    (node,) = world.nodes()
    assert node.launched_at is not None
    return node.launched_at


def test_the_price_in_force_is_the_last_one_set() -> None:
    known = [price("3", NOW + minutes(9)), price("1", NOW), price("2", NOW + minutes(5))]
    assert in_force(known, X, Market.SPOT, NOW + minutes(6)) == 2
    assert in_force(known, X, Market.SPOT, NOW) == 1
    assert in_force(known, X, Market.SPOT, NOW - minutes(1)) is None
    assert in_force(known, Y, Market.SPOT, NOW) is None
    assert in_force(known, X, Market.ON_DEMAND, NOW) is None
    assert newest(known, NOW + minutes(6)) == {Market.SPOT: {X: Decimal(2)}}


def test_hours_are_due_when_their_price_is_known(world: World) -> None:
    (node,) = running(world).nodes()
    node = replace(node, launched_at=NOW, priced_until=NOW)
    hour = prices.HOUR
    assert hours_due(node, NOW + hour + LATE) == []
    assert hours_due(node, NOW + hour + LATE + minutes(1)) == [NOW + hour]
    assert hours_due(node, NOW + 3.5 * hour) == [NOW + hour, NOW + 2 * hour, NOW + 3 * hour]
    new = replace(node, priced_until=NOW - hour)
    assert hours_due(new, NOW + LATE) == []
    assert hours_due(new, NOW + hour) == [NOW]
    done = replace(node, priced_until=NOW + 2 * hour)
    assert hours_due(done, NOW + 3.5 * hour) == [NOW + 3 * hour]
    ended = replace(node, ended_at=NOW + 1.5 * hour)
    assert hours_due(ended, NOW + 9 * hour) == [NOW + hour]
    assert hours_due(replace(node, launched_at=None), NOW + hour) == []


def test_the_cheapest_now_is_asked_for_first(world: World) -> None:
    world.cloud.price_list = [price("2", NOW - minutes(60)), price("1", NOW - minutes(30), Y)]
    world.tick()
    running(world)
    (node,) = world.nodes()
    assert (node.kind, node.usd_per_hour) == ("y", Decimal(1))


def test_each_hour_costs_what_was_asked_at_its_beginning(world: World) -> None:
    world.cloud.price_list = [price("2", NOW - minutes(60))]
    running(world)
    began = launched_at(world)
    world.cloud.price_list += [
        price("9", began + minutes(20)),
        price("4", began + minutes(59)),
        price("5", began + minutes(61)),
    ]
    while world.now < began + minutes(150):
        world.tick(seconds=60.0)
    half = (world.now - began - minutes(120)) / timedelta(hours=1)
    assert spent(world) == pytest.approx(Decimal(2) + 4 + 5 * Decimal(half))
    kinds = [event.text.split(": ")[1] for event in world.events() if event.kind == "node_repriced"]
    assert [text.split(" since")[0] for text in kinds] == [
        "costs $4 an hour", "costs $5 an hour",
    ]  # fmt: skip


def test_the_first_hour_costs_what_was_asked_at_the_launch(world: World) -> None:
    """And not what was known when the node was asked for."""
    world.cloud.price_list = [price("2", NOW - minutes(60))]
    world.tick()
    world.cloud.price_list.append(price("5", world.now + timedelta(seconds=1)))
    running(world)
    assert world.nodes()[0].usd_per_hour == 2
    began = launched_at(world)
    world.tick(2, seconds=LATE.total_seconds())
    life_h = Decimal((world.now - began) / timedelta(hours=1))
    assert spent(world) == pytest.approx(5 * life_h)
    assert world.nodes()[0].usd_per_hour == 5


def test_nothing_is_launched_at_a_price_that_nobody_has_told(make_world: MakeWorld) -> None:
    """Else its cost would be nothing, for the caps too, and its type any."""
    world = make_world(replace(POOL, prices={}, usd_per_hour=Decimal(0)))
    world.cloud.traits = replace(world.cloud.traits, tells_spot_prices=True)
    world.cloud.fail("prices", Unreachable("not there yet"), times=2)
    world.submit(market=SPOT)
    world.tick(2)
    assert world.nodes() == []
    (word,) = world.services.dispatch.unplaced.values()
    assert "has not told its spot prices yet" in word.detail
    world.cloud.price_list = [price("3", NOW - minutes(60)), price("1", NOW - minutes(60), Y)]
    world.until_state(StepState.RUNNING)
    assert [(node.kind, node.usd_per_hour) for node in world.nodes()] == [("y", Decimal(1))]


def test_a_spot_pool_with_a_price_of_its_own_need_not_wait(world: World) -> None:
    world.cloud.traits = replace(world.cloud.traits, tells_spot_prices=True)
    running(world)
    assert world.nodes()[0].usd_per_hour == 2


def test_the_hours_of_a_broker_that_was_down_are_charged_when_it_is_back(world: World) -> None:
    world.cloud.price_list = [price("2", NOW - minutes(60))]
    running(world)
    began = launched_at(world)
    world.cloud.price_list += [price(str(n), began + minutes(60 * n - 1)) for n in (1, 2, 3)]
    world.restart()
    world.tick(seconds=3.5 * 3600)
    half = (world.now - began - minutes(180)) / timedelta(hours=1)
    assert spent(world) == pytest.approx(Decimal(2) + 1 + 2 + 3 * Decimal(half))


def test_the_last_hours_of_a_node_that_has_ended_are_charged_too(world: World) -> None:
    world.cloud.price_list = [price("2", NOW - minutes(60))]
    running(world)
    began = launched_at(world)
    world.tick(seconds=3600.0)
    world.cloud.price_list.append(price("8", began + minutes(30)))
    world.finish()
    world.until(lambda: not world.nodes())
    assert spent(world) < 3
    world.tick(2, seconds=LATE.total_seconds())
    life_h = Decimal((world.now - began) / timedelta(hours=1))
    over_h = Decimal(spent(world) - 2) / 8
    assert 0 < over_h < life_h - 1
    before = world.cloud.calls["prices"]
    world.tick(seconds=3600.0)
    assert spent(world) == 2 + 8 * over_h
    assert world.cloud.calls["prices"] == before + 1


def test_a_provider_that_tells_no_prices_changes_nothing(world: World) -> None:
    running(world)
    began = launched_at(world)
    world.tick(seconds=2.5 * 3600)
    hours = Decimal((world.now - began) / timedelta(hours=1))
    assert spent(world) == pytest.approx(2 * hours)
    (node,) = world.nodes()
    assert node.priced_until == began + timedelta(hours=2)


def test_prices_that_do_not_come_are_asked_for_again(world: World) -> None:
    running(world)
    world.cloud.price_list = [price("7", launched_at(world) + minutes(59))]
    world.cloud.fail("prices", Unreachable("no answer"), times=3)
    world.tick(seconds=2 * 3600)
    assert spent(world) == pytest.approx(4, rel=0.01)
    world.tick(20)
    assert spent(world) == pytest.approx(9, rel=0.01)
