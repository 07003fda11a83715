"""Once a step has made its outputs, the next ones are sized by them."""

import json
from collections.abc import Callable

import pytest

from scsched.scheduler.protocol import InputReport
from scsched.scheduler.sizing import Sizing
from scsched.steps.demand import Inputs
from scsched.steps.state import StepState
from tests.scheduler.world import World, step

DOCUMENT = json.dumps(
    [
        {"object.id": "1", "object.className": "ProtRelionExtractParticles"},
        {"object.id": "2", "object.className": "ProtRelionRefine3D", "numberOfMpi": 3},
        {"object.id": "3", "object.className": "OneOfTheirOwn"},
    ]
)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    made = make_world()
    made.submit(step("1"), step("2", "1"), step("3", "1"), document=DOCUMENT)
    return made


def test_a_large_box_asks_for_more_memory(world: World) -> None:
    inputs = {"2": Inputs(box_px=400, particles=9), "3": Inputs(box_px=400)}
    with world.store.read() as session:
        demands = Sizing(site={}).demands(session, 1, inputs)
    (demand,) = demands.values()
    assert demand.box_px == 400
    assert demand.memory_gib == pytest.approx(20.7, abs=0.1)


def test_the_end_of_a_step_sizes_those_that_waited_for_it(world: World) -> None:
    world.until_state(StepState.RUNNING)
    world.finish(inputs={"2": InputReport(box_px=400, particles=9)})
    world.until_state(StepState.COMPLETED)
    refinement = world.steps()["2"]
    assert refinement.demand.particles == 9
    assert refinement.demand.memory_gib > 20
