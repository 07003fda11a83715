"""One driver may say anything: its own workflow may suffer by it, no other."""

import json
import math
from collections.abc import Callable

import pytest

from scsched.scheduler.bounds import MOST
from scsched.scheduler.protocol import Beat, EndReport, Hint, Phase
from scsched.steps.state import EndReason, StepState
from tests.scheduler.world import World, pool

MakeWorld = Callable[..., World]


def heard(world: World, **values: object) -> Beat:
    """The beat of workflow 1 as the socket brings it, its only run with these values."""
    body = world.programs.of(1).beat({}).model_dump(mode="json")
    body["runs"][0] |= values
    return Beat.model_validate(json.loads(json.dumps(body)))


def two(make_world: MakeWorld) -> World:
    """Workflows 1 and 2, the steps of which run."""
    world = make_world(pool(max_nodes=4))
    world.submit()
    world.submit()
    world.until_state(StepState.RUNNING)
    world.until_state(StepState.RUNNING, workflow=2)
    return world


def test_counts_are_brought_into_range(world: World) -> None:
    world.submit()
    world.until_state(StepState.RUNNING)
    end = {
        "hint": "failed",
        "iterations_done": -1,
        "iterations_lost": 10**12,
        "exit_code": -(10**9),
    }
    report = heard(world, phase="ended", end=end).runs[0].end
    assert report is not None
    assert (report.iterations_done, report.iterations_lost) == (0, MOST)
    assert report.exit_code == -(10**9)


def test_what_no_database_keeps_is_left_out_of_a_report(world: World) -> None:
    world.submit()
    world.until_state(StepState.RUNNING)
    progress = {"iteration": 10**12, "classes": [{"resolution_a": math.inf, "a\0b": "c\0"}]}
    end = {"hint": "failed", "detail": "killed\0 by a signal" + "." * 9000}
    report = heard(world, progress=progress, end=end).runs[0]
    assert report.progress == {"iteration": MOST, "classes": [{"resolution_a": None, "ab": "c"}]}
    assert report.end is not None
    assert report.end.detail == "." * 8000


def test_times_in_progress_can_be_counted_with(world: World) -> None:
    world.submit()
    world.until_state(StepState.RUNNING)
    said = {"seconds_per_iteration": 1e-300, "phase_left_s": 1e300, "began": 1.7e9}
    report = heard(world, progress=said).runs[0]
    assert report.progress == {"seconds_per_iteration": 0.0, "phase_left_s": None, "began": 1.7e9}


@pytest.mark.parametrize(
    "deadline", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00", "0001-01-01T00:00:01Z"]
)
def test_a_notice_for_a_time_that_cannot_be_is_none(world: World, deadline: str) -> None:
    world.submit()
    world.until_state(StepState.RUNNING)
    world.programs.of(1).heard = {world.open_runs()[0].nodes[0].name: deadline}
    world.tick(2)
    assert world.nodes()[0].notice_at is None


def test_a_report_that_cannot_be_written_stops_nobody_else(make_world: MakeWorld) -> None:
    world = two(make_world)
    world.run_of().progress = {"iteration": 3, "classes": {1, 2}}
    world.tick()
    world.finish(workflow=2)
    world.tick(2)
    assert world.at("1", 2) is StepState.COMPLETED
    assert world.at() is StepState.RUNNING
    told = [one for one in world.events() if one.kind == "report_set_aside"]
    assert [one.workflow_id for one in told] == [1]


def test_an_end_that_cannot_be_written_as_told_is_an_end_all_the_same(
    make_world: MakeWorld,
) -> None:
    world = two(make_world)
    going = world.run_of()
    going.phase = Phase.ENDED
    going.end = EndReport(hint=Hint.FAILED).model_copy(update={"iterations_done": -1})
    world.tick()
    assert world.ends() == [EndReason.FAILED]
    assert "could not be kept" in world.runs()[0].detail
    world.until_state(StepState.RUNNING)


def test_of_a_beat_that_cannot_be_kept_at_all_nothing_counts(make_world: MakeWorld) -> None:
    world = two(make_world)
    driver = world.programs.of(1)
    beat = driver.beat(world.answering(driver)).model_copy(update={"address": {1, 2}})
    driver.mute = True
    world.services.inbox.put(1, beat, timeout_s=0.0)
    world.tick(2)
    assert (world.at(), world.at("1", 2)) == (StepState.RUNNING, StepState.RUNNING)
    driver.mute = False
    world.finish()
    world.tick()
    assert world.at() is StepState.COMPLETED
