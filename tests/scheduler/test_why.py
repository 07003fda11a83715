"""Why a step waits: one word and one sentence, the one a person can do most about first."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scsched.cluster.provider import NoCapacity
from scsched.scheduler.broker import Unplaceable
from scsched.scheduler.config import RetryConfig
from scsched.scheduler.protocol import Hint
from scsched.scheduler.ticker import utc_now
from scsched.scheduler.why import Driver, Gang, LastRun, Standing, configuring, given_up, why
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.served import serving
from tests.scheduler.world import World, pool, step

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
FREE = Standing(
    ref="311", workflow_id=42, held=False, workflow_held=False, gate="", gate_open=False, unmet=0,
    not_before=NOW, parents={},
)  # fmt: skip
DONE, FAILED, PENDING = StepState.COMPLETED, StepState.FAILED, StepState.PENDING


@pytest.mark.parametrize(
    ("standing", "reason", "words"),
    [
        (replace(FREE, held=True), PendingReason.JOB_HELD_USER, "scsched release 42.311"),
        (replace(FREE, workflow_held=True), PendingReason.JOB_HELD_USER, "scsched release 42`"),
        (
            replace(FREE, unmet=2, parents={"12": FAILED, "9": FAILED, "7": DONE}),
            PendingReason.DEPENDENCY_NEVER_SATISFIED,
            "needs step 9, which failed; `scsched resubmit 42.9`",
        ),
        (
            replace(FREE, unmet=1, parents={"9": StepState.CANCELLED}),
            PendingReason.DEPENDENCY_NEVER_SATISFIED,
            "was cancelled",
        ),
        (
            replace(FREE, unmet=1, parents={"9": PENDING}, stuck=True),
            PendingReason.DEPENDENCY_NEVER_SATISFIED,
            "resubmit",
        ),
        (
            replace(FREE, unmet=2, parents={"12": PENDING, "9": StepState.RUNNING, "7": DONE}),
            PendingReason.DEPENDENCY,
            "waits for step 9, 12",
        ),
        (replace(FREE, gate="Pick"), PendingReason.INTERACTIVE, "Pick; then `scsched release 42."),
        (
            replace(FREE, not_before=NOW + timedelta(seconds=15)),
            PendingReason.BEGIN_TIME,
            "in 15 s",
        ),
        (FREE, PendingReason.PRIORITY, "next"),
        (replace(FREE, gate="Pick", gate_open=True), PendingReason.PRIORITY, "next"),
    ],
)
def test_the_reason_and_what_to_do(standing: Standing, reason: PendingReason, words: str) -> None:
    found = why(standing, NOW)
    assert found.reason is reason
    assert words in found.sentence


def test_a_step_that_is_tried_again_says_what_ended_its_last_run() -> None:
    later = replace(FREE, not_before=NOW + timedelta(seconds=30))
    failed = LastRun(EndReason.FAILED, "cpu", "Reading stars\nERROR: no such file\n")
    assert why(replace(later, last=failed), NOW).sentence == (
        "is tried again in 30 s; its last run, in pool cpu, ended FAILED: ERROR: no such file"
    )
    silent = LastRun(EndReason.LOST, "cpu")
    assert why(replace(later, last=silent), NOW).sentence.endswith("in pool cpu, ended LOST")
    assert "cpu" not in why(replace(FREE, last=failed), NOW).sentence


def test_the_provider_s_words_are_heard_while_a_step_waits_for_capacity(
    make_world: Callable[..., World],
) -> None:
    world = make_world(pool("spot"), retry=RetryConfig(backoff_s=300.0))
    world.cloud.refuse(NoCapacity("none of these in zone a"), times=9)
    world.now = utc_now()
    world.submit()
    world.until(lambda: world.ends() == [EndReason.NO_CAPACITY] * 2, ticks=200)
    with serving(world) as api:
        said = api.get("/v1/steps/1.1")["why"]
    assert said["reason"] == PendingReason.BEGIN_TIME
    assert "in pool spot, ended NO_CAPACITY: " in said["sentence"]
    assert "none of these in zone a" in said["sentence"]


@pytest.mark.parametrize(
    ("gang", "driver", "sentence"),
    [
        (Gang("cpu", 2), Driver(), "waits for its driver, which is on its way"),
        (
            Gang("cpu", 2),
            Driver(failures=3, loss="process 9 is gone"),
            "waits for its driver, which has failed 3 times: process 9 is gone",
        ),
        (
            Gang("cpu", 2),
            Driver(connected=True),
            "waits for its nodes: 0 of 2 nodes in pool cpu up, none launched yet",
        ),
        (
            Gang("spot", 4, up=1, launched=3, launched_at=NOW - timedelta(seconds=95)),
            Driver(connected=True),
            "waits for its nodes: 1 of 4 nodes in pool spot up, 3 launched, the first 95 s ago",
        ),
        (
            Gang("cpu", 1, launched=1, launched_at=NOW + timedelta(seconds=1)),
            Driver(connected=True, failures=1, loss="killed"),
            "waits for its nodes: 0 of 1 node in pool cpu up, 1 launched, the first 0 s ago; "
            "before this its driver has failed once: killed",
        ),
        (
            Gang("cpu", 1, up=1, launched=1, launched_at=NOW),
            Driver(connected=True),
            "all it needs is up, 1 node in pool cpu: its driver is about to start the program",
        ),
    ],
)
def test_a_step_that_is_configured_says_what_it_waits_for(
    gang: Gang, driver: Driver, sentence: str
) -> None:
    found = configuring(gang, driver, NOW)
    assert (found.reason, found.sentence) == (None, sentence)


def test_a_run_that_went_with_its_driver_is_blamed_on_it() -> None:
    lost = LastRun(EndReason.BOOT_FAIL, "cpu", "its nodes are gone: not needed any more")
    driver = Driver(failures=2, loss="process 9 is gone; its last words: no such key")
    later = replace(FREE, not_before=NOW + timedelta(seconds=30), last=lost, driver=driver)
    blamed = "ended BOOT_FAIL: its driver has failed 2 times: process 9 is gone; its last words"
    assert blamed in why(later, NOW).sentence
    assert why(replace(later, driver=Driver()), NOW).sentence.endswith("not needed any more")
    failed = given_up(lost, driver)
    assert failed is not None
    assert blamed in failed.sentence
    assert given_up(lost, Driver()) is None
    assert given_up(LastRun(EndReason.OUT_OF_MEMORY, "cpu"), driver) is None


def test_the_owner_hears_of_a_driver_that_keeps_dying_and_others_do_not(
    make_world: Callable[..., World],
) -> None:
    world = make_world(pool(), retry=RetryConfig(backoff_s=300.0))
    world.programs.said = "ConfigError: no such key"
    world.now = utc_now()
    world.submit()
    world.until_state(StepState.CONFIGURING)
    world.until(lambda: bool(world.programs.drivers))
    world.programs.kill(1)
    world.services.drivers.tick(world.now)
    with serving(world) as api:
        waits = api.get("/v1/steps/1.1")
        (queued,) = api.get("/v1/workflows?scope=all")["items"]
    assert waits["state"] == "CONFIGURING"
    assert waits["why"]["sentence"].startswith("waits for its driver, which has failed once: proc")
    assert waits["why"]["sentence"].endswith("its last words: ConfigError: no such key")
    assert waits["reason_text"] == waits["why"]["sentence"]
    assert "no such key" not in str(queued)


def test_a_step_whose_nodes_boot_says_how_many_are_up(make_world: Callable[..., World]) -> None:
    world = make_world()
    world.boots = lambda token: token == world.up()[0]
    world.now = utc_now()
    world.submit(step("1", width=2))
    world.until(lambda: any(node.up_at for node in world.nodes()))
    with serving(world) as api:
        (shown,) = api.get("/v1/workflows/1")["steps"]
    assert "waits for its nodes: 1 of 2 nodes in pool cpu up, 2 launched" in shown["reason_text"]


def test_what_the_last_tick_found_is_said_last() -> None:
    full = Unplaceable(PendingReason.RESOURCES, "waits for nodes in cpu")
    assert why(FREE, NOW, full).sentence == "waits for nodes in cpu"
    assert why(replace(FREE, held=True), NOW, full).reason is PendingReason.JOB_HELD_USER


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (PendingReason.SPOT_CAPACITY, "asked for again"),
        (PendingReason.QUOTA_VCPU, "raise the limit"),
        (PendingReason.STORAGE, "by itself"),
        (PendingReason.NODE_FENCING, "because"),
    ],
)
def test_what_is_to_be_done_is_said_too(reason: PendingReason, words: str) -> None:
    found = why(FREE, NOW, Unplaceable(reason, "because"))
    assert found.reason is reason
    assert found.sentence.startswith("because")
    assert words in found.sentence


def test_every_waiting_step_of_a_real_queue_has_a_reason(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.submit(
        step("1"), step("2", "1"), step("3", "2"), step("4", gate="look"), step("5", width=2)
    )
    world.person("hold", "5")
    world.until_state(StepState.RUNNING)
    for _ in range(2):
        world.until_state(StepState.RUNNING)
        world.finish(hint=Hint.FAILED)
        world.tick()
    with serving(world) as api:
        steps = {one["id"]: one for one in api.get("/v1/workflows/1")["steps"]}
    assert {ref: one["reason"] for ref, one in steps.items()} == {
        "1": None,
        "2": "DependencyNeverSatisfied",
        "3": "DependencyNeverSatisfied",
        "4": "Interactive",
        "5": "JobHeldUser",
    }
    assert all(one["reason_text"] for ref, one in steps.items() if ref != "1")
