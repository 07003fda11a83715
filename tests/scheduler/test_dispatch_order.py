"""Eligible steps are looked at by portions, and no further than anything could start."""

from collections.abc import Callable

import pytest

from scsched.db import queue
from scsched.scheduler import dispatch
from scsched.steps.spec import ResourceClass
from scsched.steps.state import StepState
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]


@pytest.fixture(autouse=True)
def small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "PORTION", 2)


def test_portions_follow_each_other_by_urgency_then_age(world: World) -> None:
    world.submit(step("1"), step("2"), step("3"))
    world.submit(step("1"), step("2"), priority=5)
    world.submit(step("1"), priority=5)
    with world.store.read() as session:
        whole = [(one.workflow_id, one.ref) for one in queue.eligible(session, world.now, 99)]
        portions: list[queue.Eligible] = []
        while portion := queue.eligible(session, world.now, 2, portions[-1] if portions else None):
            portions += portion
    assert [(one.workflow_id, one.ref) for one in portions] == whole
    assert whole == [(2, "1"), (2, "2"), (3, "1"), (1, "1"), (1, "2"), (1, "3")]


def test_what_can_start_is_found_behind_a_portion_that_cannot(make_world: MakeWorld) -> None:
    """Three steps wait for the only dear node; the light one behind them has a pool of its own."""
    world = make_world(pool(max_nodes=1), pool("service", service=True, max_nodes=1))
    light = step("9", resource_class=ResourceClass.LIGHT)
    world.submit(step("1"), step("2"), step("3"), step("4"), light)
    world.tick()
    assert world.at("1") is StepState.CONFIGURING
    assert world.at("9") is StepState.CONFIGURING


def test_once_every_pool_is_waited_for_the_rest_is_not_read(world: World) -> None:
    world.submit(*(step(str(number)) for number in range(1, 10)))
    world.tick()
    world.tick()
    seen = {one.ref for one in world.steps().values() if one.id in world.services.dispatch.unplaced}
    assert seen == {"3", "4"}
