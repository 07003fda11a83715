"""One driver for each workflow with something to run: started once, found again, replaced."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from scsched.cluster import processes, tags
from scsched.db import drivers as driver_rows
from scsched.db.drivers import DriverRec
from scsched.scheduler.driver_processes import LocalDrivers, Places
from scsched.scheduler.drivers import Drivers
from scsched.steps.state import StepState
from tests.scheduler.world import World, step, wait_until

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING


def test_a_workflow_with_work_gets_one_driver(world: World) -> None:
    world.submit(step("1"), step("2"))
    world.submit(held=True)
    world.tick(5)
    assert [driver.workflow for driver in world.programs.drivers.values()] == [1]


def test_a_driver_ends_with_its_work_and_a_new_one_comes_with_new_work(world: World) -> None:
    world.submit(step("1"), step("2", "1", gate="look"))
    world.until_state(RUNNING)
    world.finish()
    world.until(lambda: not world.programs.drivers)
    world.tick(3)
    assert world.programs.drivers == {}
    world.person("release", "2")
    world.until_state(RUNNING, "2")
    assert not [event for event in world.events() if event.kind == "driver_lost"]


def test_looking_for_drivers_reads_no_workflow_of_the_past(world: World) -> None:
    said: list[tuple[str, tuple[object, ...]]] = []
    with world.store.read() as session:
        event.listen(session, "before_cursor_execute", lambda *told: said.append(told[2:4]))
        driver_rows.known(session)
        driver_rows.wanted(session)
        plans = [session.exec_driver_sql(f"EXPLAIN QUERY PLAN {q}", given) for q, given in said[:2]]
        lines = [row[3] for plan in plans for row in plan if "workflows" in row[3]]
    assert [line for line in lines if "USING INDEX" not in line] == []
    assert len(lines) == 2


def test_a_dead_driver_is_replaced_and_its_nodes_end(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    before = set(world.cloud.up())
    world.programs.kill(1)
    world.until(lambda: len(world.runs()) == 2 and world.at() is RUNNING)
    assert not before & world.cloud.up()


def test_a_driver_that_says_nothing_for_long_is_killed_and_replaced(world: World) -> None:
    """What its last beat told would count for ever: that its nodes answer, and that it runs."""
    world.submit()
    world.until_state(RUNNING)
    frozen = world.programs.of(1)
    frozen.mute = True
    world.tick(30, seconds=9.0)
    assert world.programs.of(1) is frozen
    world.tick(10, seconds=9.0)
    world.until(lambda: len(world.runs()) == 2 and world.at() is RUNNING)
    assert world.programs.of(1) is not frozen
    told = [event.text for event in world.events() if event.kind == "driver_silent"]
    assert told == ["the driver is silent: process 101 has said nothing for 300 s: it is killed"]


def test_a_broker_that_slept_holds_the_silence_against_nobody(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    driver = world.programs.of(1)
    driver.mute = True
    for _ in range(6):
        world.tick(10, seconds=9.0)
        world.restart()
    world.tick(20, seconds=3600.0)
    assert world.programs.of(1) is driver


def test_a_driver_without_news_is_not_silent(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    driver = world.programs.of(1)
    world.tick(60, seconds=9.0)
    assert world.programs.of(1) is driver


def test_a_driver_is_adopted_by_the_next_broker(world: World) -> None:
    world.submit()
    world.until_state(RUNNING)
    before = world.programs.of(1)
    for _ in range(5):
        world.restart()
        world.tick()
    assert world.programs.of(1) is before
    assert len(world.runs()) == 1
    world.finish()
    world.tick()
    assert world.at() is StepState.COMPLETED


def test_a_broker_that_died_after_the_start_does_not_start_it_twice(world: World) -> None:
    world.programs.die_after_start = True
    world.submit()
    world.until_state(RUNNING)
    assert len(world.programs.drivers) == 1


def test_a_broker_restarted_after_every_tick_loses_and_repeats_nothing(world: World) -> None:
    world.submit(step("1"), step("2", "1"))
    for ref in ("1", "2"):
        for _ in range(20):
            if world.at(ref) is RUNNING:
                break
            world.restart()
            world.tick()
        world.finish(ref)
        world.restart()
        world.tick()
    world.restart()
    world.until(lambda: world.workflow().state == "COMPLETED")
    assert [run.attempt for run in world.runs()] == [1, 1]


def test_a_driver_that_cannot_start_is_tried_ever_more_seldom(world: World) -> None:
    world.programs.refuse = 10_000
    world.submit()
    world.tick(120)
    tries = 10_000 - world.programs.refuse
    assert 3 <= tries <= 12


def test_a_driver_that_works_again_counts_its_failures_anew(world: World) -> None:
    world.programs.refuse = 2
    world.submit()
    world.until_state(RUNNING)
    world.tick()
    with world.store.read() as session:
        assert driver_rows.get(session, 1).failures == 0


def test_one_workflow_whose_driver_cannot_start_keeps_no_other_waiting(world: World) -> None:
    world.submit()
    world.programs.refuse = 1
    world.submit()
    world.until_state(RUNNING, workflow=2)


@pytest.fixture
def real(make_world: MakeWorld, tmp_path: Path) -> Iterator[tuple[World, Drivers, LocalDrivers]]:
    """Drivers as processes, which sleep."""
    world = make_world()
    (tmp_path / "log").mkdir()
    sleeper = (sys.executable, "-c", "import time; time.sleep(600)")
    local = LocalDrivers(Places(tmp_path, tmp_path / "api.sock"), "d", program=sleeper)
    heard: Counter[int] = Counter()
    yield world, Drivers(world.store, local, lambda workflow: heard[workflow]), local
    for child in local._children.values():
        child.kill()
        child.wait(20)


def kill(local: LocalDrivers, process: processes.Process) -> None:
    processes.send(process, 9)
    wait_until(lambda: not local.alive(process) and process.pid not in local._children)


def _record(world: World) -> DriverRec:
    with world.store.read() as session:
        return driver_rows.get(session, 1)


def test_a_real_driver_has_a_session_a_tag_and_a_folder_of_its_own(
    real: tuple[World, Drivers, LocalDrivers], tmp_path: Path
) -> None:
    world, drivers, local = real
    world.submit()
    drivers.tick(world.now)
    record = _record(world)
    assert record.pid is not None
    assert os.getsid(record.pid) == record.pid
    found = local.find(record)
    assert found is not None
    assert found.pid == record.pid
    assert local.alive(found)
    assert (tmp_path / "wf" / "1").stat().st_mode & 0o777 == 0o700
    environ = Path(f"/proc/{record.pid}/environ").read_text()
    assert "HYPOTHESIS" not in environ
    assert f"{tags.DRIVER}={record.token}" in environ


def test_a_real_driver_that_was_killed_is_seen_dead(
    real: tuple[World, Drivers, LocalDrivers],
) -> None:
    world, drivers, local = real
    world.submit()
    drivers.tick(world.now)
    first = _record(world)
    process = local.find(first)
    assert process is not None
    kill(local, process)
    drivers.tick(world.now)
    drivers.tick(world.now)
    second = _record(world)
    assert second.token not in (None, first.token)
    assert second.pid != first.pid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of others")
def test_a_submitter_without_an_account_stops_nobody_else(
    real: tuple[World, Drivers, LocalDrivers],
) -> None:
    world, drivers, _ = real
    world.submit(uid=54321, username="54321")
    world.submit()
    drivers.tick(world.now)
    with world.store.read() as session:
        assert driver_rows.get(session, 2).pid is not None


def test_a_frozen_process_is_killed_and_another_one_started(
    real: tuple[World, Drivers, LocalDrivers],
) -> None:
    world, drivers, local = real
    world.submit()
    drivers.tick(world.now)
    first = _record(world)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    for seconds in range(0, 310, 10):
        drivers.tick(world.now + timedelta(seconds=seconds))
    process = processes.Process(first.pid, first.started_ticks or 0)
    wait_until(lambda: not local.alive(process))
    for seconds in (320, 330):
        drivers.tick(world.now + timedelta(seconds=seconds))
    second = _record(world)
    assert second.pid not in (None, first.pid)
    assert second.epoch == first.epoch + 1
