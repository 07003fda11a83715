"""Spares, stops under a notice, and what is remembered of former runs, on both databases."""

from collections.abc import Iterator

import pytest

from scsched.db import nodes, queries, queue, runs
from scsched.db.exposure import lives_of
from scsched.db.former import paces_of, runs_over
from scsched.db.models import Market, NodeState
from scsched.db.runs import OpenedRun
from scsched.db.session import Store
from scsched.db.spares import NewSpare, intend
from scsched.db.stops import ask_stop, let_run, stop_after
from scsched.steps.state import EndReason, StepState
from tests import postgres
from tests.db.rows import (
    NOW,
    MakeUrl,
    end,
    later,
    new_node,
    new_run,
    open_all,
    opened,
    postgres_urls,
    sqlite_urls,
    submit,
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def make_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeUrl]:
    if request.param == "sqlite":
        with sqlite_urls(tmp_path_factory.mktemp("stores")) as make:
            yield make
        return
    if postgres.missing():
        pytest.skip(postgres.missing())
    with postgres_urls() as make:
        yield make


@pytest.fixture
def store(make_url: MakeUrl) -> Iterator[Store]:
    with opened(make_url()) as found:
        yield found


def running(store: Store) -> OpenedRun:
    """A run on one node, at work."""
    submit(store)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        nodes.launched(session, [(run.node_ids[0], "id 1")], NOW)
        nodes.up(session, run.node_ids, NOW)
        runs.set_running(session, [(run.run_id, run.epoch)], NOW)
    return run


def spare(run: OpenedRun, **values: object) -> NewSpare:
    return NewSpare(
        step_id=run.step_id,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        pool="local",
        market=Market.SPOT,
        node=new_node(**values),
    )


def test_a_spare_is_an_intent_without_a_run_and_without_a_charge(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        (node_id,) = intend(session, [spare(run, kind="big", zone="a")], NOW)
    with store.read() as session:
        (found,) = nodes.get(session, [node_id])
        told = [event.kind for event in queries.events_after(session)]
    assert (found.state, found.run_id, found.last_run_id) == (NodeState.REQUESTED, None, None)
    assert (found.spare_for, found.kind, found.zone) == (run.step_id, "big", "a")
    assert told.count("spare_requested") == 1
    assert told.count("node_requested") == 2


def test_the_run_that_gets_a_spare_makes_it_its_own_while_it_boots(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        (node_id,) = intend(session, [spare(run)], NOW)
        runs.end_runs(session, [end(run, EndReason.PREEMPTED, StepState.PENDING)], later(1))
        (step,) = queue.eligible(session, later(2), 10)
        new = new_run(step.step_id, step.epoch, reuse_nodes=(node_id,))
        (again,) = runs.open_runs(session, [new], later(2))
        (found,) = nodes.get(session, [node_id])
    assert (found.run_id, found.last_run_id) == (again.run_id, again.run_id)
    assert (found.spare_for, found.state) == (None, NodeState.REQUESTED)


def test_a_later_stop_may_only_hurry(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        assert stop_after(session, run.run_id, 7, "why", NOW)
        assert not stop_after(session, run.run_id, 9, "why", NOW)
        assert stop_after(session, run.run_id, 5, "why", NOW)
        assert [one.stop_after for one in runs.open_runs_of(session)] == [5]
        assert ask_stop(session, [run.run_id], EndReason.PREEMPTED, NOW, why="both numbers")
        assert not stop_after(session, run.run_id, 3, "why", NOW)
        let_run(session, run.run_id, "why", NOW)
    with store.read() as session:
        told = {event.kind: event.text for event in queries.events_after(session)}
    assert told["stop_asked"] == "asked to stop: PREEMPTED: both numbers"
    assert told["stop_after_asked"] == "asked to stop after iteration 5: why"
    assert told["let_run"] == "why"


def test_nothing_is_asked_of_a_run_that_has_ended(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        runs.end_runs(session, [end(run)], NOW)
        before = len(queries.events_after(session))
        assert not stop_after(session, run.run_id, 7, "why", NOW)
        let_run(session, run.run_id, "why", NOW)
        assert len(queries.events_after(session)) == before


def test_runs_that_are_over_are_told_from_open_ones(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        assert runs_over(session, [run.run_id]) == {}
        runs.end_runs(session, [end(run, EndReason.NODE_FAIL, StepState.PENDING)], NOW)
        found = runs_over(session, [run.run_id, 999])
    assert (found[run.run_id].step_id, found[run.run_id].began) == (run.step_id, True)


def test_the_pace_of_a_step_is_that_of_its_newest_run_that_told_one(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        runs.progress(session, [(run.run_id, run.epoch, {"seconds_per_iteration": 9})], NOW)
        runs.end_runs(session, [end(run, EndReason.PREEMPTED, StepState.PENDING)], NOW)
        open_all(session, later(1))
        found = paces_of(session, [run.step_id, 999])
    assert found.keys() == {run.step_id}
    assert found[run.step_id].progress == {"seconds_per_iteration": 9}
    assert found[run.step_id].layout["ranks"] == 3


def test_the_lives_of_spot_nodes_are_counted_up_to_now(store: Store) -> None:
    run = running(store)
    with store.write() as session:
        intend(session, [spare(run)], NOW)
        assert lives_of(session, NOW, later(1800))["local"].node_hours == 0.5
        nodes.notice(session, run.node_ids[0], later(20), later(10))
        nodes.ended(session, [(run.node_ids[0], "spot")], later(3600))
        found = lives_of(session, NOW, later(7200))["local"]
        assert (found.reclaims, found.node_hours) == (1, 1.0)
        assert lives_of(session, later(1), later(7200)) == {}
