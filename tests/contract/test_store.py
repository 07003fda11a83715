"""What a store promises, on SQLite and on Postgres alike."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal

import pytest
from sqlalchemy import delete, func, insert, select, text, update

from scsched.db import drivers, events, migrate, nodes, queries, queue, runs, submissions
from scsched.db import models as tables
from scsched.db.models import Market, Outcome
from scsched.db.session import Session, Store
from scsched.db.submissions import Submitted
from scsched.steps.errors import NotFound, StaleStep, StoreBusy, StoreError, UsageError
from scsched.steps.state import EndReason, StepState
from tests import postgres
from tests.db.rows import (
    NOW,
    MakeUrl,
    chain,
    end,
    later,
    new_node,
    new_run,
    new_step,
    new_workflow,
    open_all,
    opened,
    postgres_urls,
    sqlite_urls,
    states,
    submit,
)

UNIQUE = r"(?i)unique"


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
def url(make_url: MakeUrl) -> str:
    return make_url()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with opened(url) as store:
        yield store


# The schema


def test_the_tables_are_what_the_models_say(url: str) -> None:
    migrate.check(url)
    assert migrate.revision(url) == migrate.head() == tables.HEAD


def test_an_upgrade_may_be_repeated(url: str) -> None:
    assert migrate.upgrade(url) == migrate.upgrade(url) == tables.HEAD


def test_every_deployment_has_an_id_of_its_own(store: Store) -> None:
    assert len(store.deployment()) == 36
    assert store.deployment() == store.deployment()


# Transactions


def test_a_failed_block_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as session:
        _ = submissions.submit(session, new_workflow(), NOW).id / 0
    with store.read() as session:
        assert queries.last(session) is None


def test_a_reader_cannot_write(store: Store) -> None:
    with pytest.raises(StoreError), store.read() as session:
        submissions.submit(session, new_workflow(), NOW)


def test_a_reader_sees_one_state_of_the_database(store: Store) -> None:
    with store.read() as session:
        assert queries.last(session) is None
        submit(store)
        assert queries.last(session) is None


def test_row_13_a_second_broker_is_refused_until_the_first_lets_go(store: Store, url: str) -> None:
    with opened(url) as other:
        with store.leader_lock() as lock:
            lock.check()
            with pytest.raises(StoreBusy, match="another broker"):
                other.leader_lock()
        with other.leader_lock():
            pass


# Submission


def test_the_same_submission_twice_is_one_workflow(store: Store) -> None:
    asked = new_workflow(*chain(3))
    with store.write() as session:
        first = submissions.submit(session, asked, NOW)
    with store.write() as session:
        assert submissions.submit(session, asked, later(9)) == Submitted(first.id, created=False)
    with store.read() as session:
        assert queries.workflow(session, first.id, NOW).steps_total == 3


def test_a_key_used_for_something_else_is_refused(store: Store) -> None:
    submit(store, key="k")
    with pytest.raises(UsageError, match="'k' was used"), store.write() as session:
        submissions.submit(session, new_workflow(key="k", sha256="1" * 64), NOW)


def test_two_users_may_use_the_same_key(store: Store) -> None:
    assert submit(store, key="k") != submit(store, key="k", uid=1001, username="bo")


def test_an_empty_workflow_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="no step"), store.write() as session:
        submissions.submit(session, new_workflow(name="empty", steps=()), NOW)


def test_parents_that_are_not_submitted_count_as_done(store: Store) -> None:
    submit(store, new_step("7", "3", "5"), new_step("9", "7", "7", "3"))
    assert refs_eligible(store) == ["7"]


def test_text_of_users_comes_back_as_it_was(store: Store) -> None:
    odd = 'it\'s "50%" {0} $(rm -rf) ; --\n\t\\ μ 🧊 :ids'
    workflow_id = submit(
        store, new_step("2", label=odd), name=odd, document=odd, project=odd, tags={odd: odd}
    )
    with store.read() as session:
        assert queries.workflow(session, workflow_id, NOW).name == odd
        assert queries.steps_of(session, workflow_id, NOW)[0].label == odd
        assert queries.document(session, workflow_id).text == odd
        assert queries.tagged(session, odd) == [workflow_id]


# Invariants that the database itself keeps


def test_a_second_open_run_of_a_step_is_refused(store: Store) -> None:
    submit(store)
    opened_run = start(store)
    row = run_row(opened_run.step_id, opened_run.workflow_id, attempt=2, epoch=2, token="b")
    with pytest.raises(StoreError, match=UNIQUE), store.write() as session:
        session.execute(insert(tables.runs), row)


@pytest.mark.parametrize("table", ["runs", "nodes"])
def test_a_token_is_used_once(store: Store, table: str) -> None:
    submit(store, new_step("1"), new_step("2"))
    node = new_node()
    with store.read() as session:
        first, second = (step.step_id for step in queue.eligible(session, NOW, 9))
    one, two = new_run(first, new_nodes=(node,)), new_run(second)
    again = replace(two, token=one.token) if table == "runs" else replace(two, new_nodes=(node,))
    with pytest.raises(StoreError, match=UNIQUE), store.write() as session:
        runs.open_runs(session, [one, again], NOW)


@pytest.mark.parametrize(
    "statement",
    [update(tables.events).values(text="nothing happened"), delete(tables.events)],
    ids=["update", "delete"],
)
def test_events_are_append_only(store: Store, statement: object) -> None:
    submit(store)
    with pytest.raises(StoreError, match="append-only"), store.write() as session:
        session.execute(statement)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "values",
    [
        {"state": "RUNNING", "unmet": 1},
        {"unmet": -1},
        {"state": "COMPLETED"},
        {"state": "SLEEPING"},
        {"ended_at": NOW},
        {"workflow_id": 99},
        {"label": None},
    ],
    ids=str,
)
def test_an_impossible_step_is_refused(store: Store, values: dict[str, object]) -> None:
    submit(store)
    words = ", ".join(f"{name} = :{name}" for name in values)
    with pytest.raises(StoreError), store.write() as session:
        session.execute(text(f"UPDATE steps SET {words}"), values)  # noqa: S608


def test_a_run_that_ended_has_a_reason(store: Store) -> None:
    submit(store)
    start(store)
    with pytest.raises(StoreError), store.write() as session:
        session.execute(update(tables.runs).values(ended_at=NOW))


# The queue


def test_urgent_steps_come_first_then_older_ones(store: Store) -> None:
    submit(store, new_step("1"))
    submit(store, new_step("2"), priority=5)
    submit(store, new_step("3"))
    assert refs_eligible(store) == ["2", "1", "3"]


def test_a_step_waits_for_its_parents_its_gate_and_its_time(store: Store) -> None:
    submit(store, new_step("1"), new_step("2", "1"), new_step("3", gate="pick classes"))
    submit(store, new_step("4"), held=True)
    assert refs_eligible(store) == ["1"]
    run = start(store)
    with store.write() as session:
        again = end(run, EndReason.FAILED, StepState.PENDING, not_before=later(60))
        runs.end_runs(session, [again], later(1))
    assert refs_eligible(store, later(59)) == []
    assert refs_eligible(store, later(60)) == ["1"]


def test_a_step_starts_when_its_last_parent_completed(store: Store) -> None:
    submit(store, new_step("1"), new_step("2"), new_step("3", "1", "2"))
    complete(store, "1")
    assert refs_eligible(store) == ["2"]
    complete(store, "2")
    assert refs_eligible(store) == ["3"]


def test_parents_that_complete_together_are_all_counted(store: Store) -> None:
    submit(store, new_step("1"), new_step("2"), new_step("3", "1", "2"))
    with store.write() as session:
        both = open_all(session)
        runs.end_runs(session, [end(run) for run in both], NOW)
    assert refs_eligible(store) == ["3"]


def test_former_endings_are_told_until_a_person_resubmits(store: Store) -> None:
    workflow_id = submit(store)
    for reason in (EndReason.PREEMPTED, EndReason.STALLED):
        finish(store, start(store), reason, StepState.PENDING)
    assert eligible_one(store).ends == (EndReason.PREEMPTED, EndReason.STALLED)
    finish(store, start(store), EndReason.FAILED, StepState.FAILED)
    with store.write() as session:
        changed = queue.resubmit(session, ids(session, workflow_id), NOW, 1000)
    assert [(change.was, change.now) for change in changed] == [("FAILED", "PENDING")]
    assert eligible_one(store).ends == ()
    assert start(store).attempt == 4


# Moves


def test_a_move_from_the_wrong_state_undoes_everything(store: Store) -> None:
    workflow_id = submit(store, new_step("1"), new_step("2"))
    with store.write() as session:
        one, two = ids(session, workflow_id)
        queue.move(session, [one], StepState.CANCELLED, NOW, "test")
    with store.write() as session, pytest.raises(StaleStep, match="is CANCELLED under epoch 0"):
        queue.move(session, [one, two], StepState.CANCELLED, NOW, "test")
    assert states(store, workflow_id)["2"] is StepState.PENDING


def test_a_move_under_another_epoch_is_refused(store: Store) -> None:
    workflow_id = submit(store)
    with store.write() as session:
        (step_id,) = ids(session, workflow_id)
        with pytest.raises(StaleStep):
            queue.move(session, {step_id: 1}, StepState.CANCELLED, NOW, "test")
    with store.write() as session:
        queue.move(session, {step_id: 0}, StepState.CANCELLED, NOW, "test")


def test_a_step_with_an_open_run_cannot_leave_the_active_states(store: Store) -> None:
    submit(store)
    run = start(store)
    with store.write() as session, pytest.raises(StaleStep):
        queue.move(session, [run.step_id], StepState.FAILED, NOW, "test")


def test_every_change_of_state_has_its_event(store: Store) -> None:
    workflow_id = submit(store)
    finish(store, start(store), EndReason.PREEMPTED, StepState.PENDING)
    complete(store)
    with store.read() as session:
        told = queries.events_after(session, workflow_id=workflow_id)
    assert [event.kind for event in told] == [
        "submitted", "configuring", "pending",
        "configuring", "running", "completing", "completed",
    ]  # fmt: skip
    assert [event.epoch for event in told[1:]] == [1, 1, 2, 2, 2, 2]


# Runs


def test_a_run_goes_from_intent_to_end(store: Store) -> None:
    workflow_id = submit(store)
    run = start(store, new_nodes=(new_node(), new_node()))
    assert (run.attempt, run.epoch, len(run.node_ids)) == (1, 1, 2)
    with store.write() as session:
        assert runs.set_running(session, [(run.run_id, 1)], later(5)) == {run.run_id}
        runs.progress(session, [(run.run_id, 1, {"iteration": 3})], later(6))
    with store.read() as session:
        (going,) = runs.open_runs_of(session, workflow_id)
    assert going.state is StepState.RUNNING
    assert going.progress == {"iteration": 3}
    assert [node.id for node in going.nodes] == list(run.node_ids)
    with store.write() as session:
        runs.set_completing(session, [(run.run_id, 1)], later(8))
        how = end(run, exit_code=0, iterations_done=25, resumed_from=12, detail="fine")
        assert runs.end_runs(session, [how], later(9)).closed == (run.run_id,)
    with store.read() as session:
        (past,) = queries.runs_of(session, NOW, workflow_id=workflow_id)
        assert runs.open_runs_of(session) == []
    assert (past.end_reason, past.exit_code, past.iterations_done) == (EndReason.COMPLETED, 0, 25)
    assert past.resumed_from == 12


def test_a_step_that_moved_meanwhile_gets_no_run(store: Store) -> None:
    workflow_id = submit(store, new_step("1"), new_step("2"), new_step("3"))
    with store.write() as session:
        wanted = [new_run(step.step_id, step.epoch) for step in queue.eligible(session, NOW, 9)]
        queue.cancel(session, [wanted[0].step_id], NOW, 1000)
        queue.hold(session, [wanted[1].step_id], NOW, 1000)
        got = runs.open_runs(session, wanted, NOW)
    assert [run.step_id for run in got] == [wanted[2].step_id]
    assert states(store, workflow_id) == {
        "1": StepState.CANCELLED, "2": StepState.PENDING, "3": StepState.CONFIGURING,
    }  # fmt: skip


def test_an_end_reported_twice_counts_once(store: Store) -> None:
    workflow_id = submit(store, *chain(2))
    run = start(store)
    with store.write() as session:
        runs.end_runs(session, [end(run)], later(1))
    with store.write() as session:
        late = end(run, EndReason.FAILED, StepState.FAILED)
        assert runs.end_runs(session, [late], later(2)).skipped == (run.run_id,)
    assert states(store, workflow_id)["1"] is StepState.COMPLETED
    assert refs_eligible(store) == ["2"]


def test_reports_of_a_former_attempt_change_nothing(store: Store) -> None:
    workflow_id = submit(store)
    old = start(store)
    finish(store, old, EndReason.LOST, StepState.PENDING)
    new = start(store)
    with store.write() as session:
        assert runs.set_running(session, [(old.run_id, old.epoch)], NOW) == frozenset()
        assert runs.set_running(session, [(new.run_id, old.epoch)], NOW) == frozenset()
        assert runs.set_completing(session, [(old.run_id, old.epoch)], NOW) == frozenset()
        runs.progress(session, [(old.run_id, old.epoch, {"iteration": 9})], NOW)
        assert runs.end_runs(session, [end(old)], NOW).closed == ()
        assert runs.end_runs(session, [end(new, epoch=old.epoch)], NOW).closed == ()
    assert states(store, workflow_id) == {"2": StepState.CONFIGURING}


@pytest.mark.parametrize("then", [StepState.FAILED, StepState.CANCELLED, StepState.PENDING])
@pytest.mark.parametrize("reached", ["configuring", "running", "completing"])
def test_a_run_may_end_from_every_active_state(store: Store, reached: str, then: StepState) -> None:
    workflow_id = submit(store)
    run = start(store)
    with store.write() as session:
        if reached == "running":
            runs.set_running(session, [(run.run_id, run.epoch)], NOW)
        if reached == "completing":
            runs.set_completing(session, [(run.run_id, run.epoch)], NOW)
    finish(store, run, EndReason.FAILED, then)
    assert states(store, workflow_id) == {"2": then}


def test_a_cancellation_overrides_other_reasons_to_stop(store: Store) -> None:
    submit(store)
    run = start(store)
    with store.write() as session:
        assert runs.ask_stop(session, [run.run_id], EndReason.STALLED, NOW) == {run.run_id}
        assert runs.ask_stop(session, [run.run_id], EndReason.TIMEOUT, NOW) == frozenset()
        assert runs.ask_stop(session, [run.run_id], EndReason.CANCELLED, NOW) == {run.run_id}
        assert runs.ask_stop(session, [run.run_id], EndReason.CANCELLED, NOW) == frozenset()
        (going,) = runs.open_runs_of(session)
    assert going.stop_reason is EndReason.CANCELLED


def test_a_cancellation_racing_with_the_completion_has_one_winner(
    store: Store, make_url: MakeUrl, url: str
) -> None:
    for _ in range(5):
        workflow_id = submit(store)
        run = start(store)
        with opened(url) as other:
            ends = [
                (store, end(run, EndReason.CANCELLED, StepState.CANCELLED)),
                (other, end(run)),
            ]
            closed: list[int] = []
            barrier = threading.Barrier(2)

            def close(through: Store, how: runs.RunEnd) -> None:
                barrier.wait(10)  # noqa: B023
                with through.write() as session:
                    closed.extend(runs.end_runs(session, [how], NOW).closed)  # noqa: B023

            threads = [threading.Thread(target=close, args=both) for both in ends]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
        assert closed == [run.run_id]
        with store.read() as session:
            (past,) = queries.runs_of(session, NOW, workflow_id=workflow_id)
        assert states(store, workflow_id) == {"2": StepState(str(past.end_reason))}


def test_ten_thousand_steps_are_cancelled_in_one_go(store: Store) -> None:
    workflow_id = submit(store, *(new_step(str(number)) for number in range(2500)))
    with store.write() as session:
        changed = queue.cancel(session, ids(session, workflow_id), NOW, 1000)
        assert queue.settle(session, [workflow_id], NOW) == [
            queue.Settled(workflow_id, Outcome.CANCELLED)
        ]
    assert {change.now for change in changed} == {"CANCELLED"}
    assert len(changed) == 2500


# What a person may do


def test_hold_and_release(store: Store) -> None:
    workflow_id = submit(store)
    with store.write() as session:
        step_ids = ids(session, workflow_id)
        (held,) = queue.hold(session, step_ids, NOW, 1000)
    assert (held.was, held.now) == ("PENDING", "HELD")
    assert refs_eligible(store) == []
    with store.write() as session:
        (released,) = queue.release(session, step_ids, NOW, 1000)
    assert (released.was, released.now) == ("HELD", "PENDING")
    assert refs_eligible(store) == ["2"]


def test_release_passes_a_gate_once_it_is_reached(store: Store) -> None:
    workflow_id = submit(store, new_step("1"), new_step("2", "1", gate="pick classes"))
    with store.write() as session:
        both = ids(session, workflow_id)
        assert [change.now for change in queue.release(session, both, NOW, 7)] == ["PENDING"] * 2
    complete(store)
    assert refs_eligible(store) == []
    with store.read() as session:
        assert queries.workflow(session, workflow_id, NOW).state == "ATTENTION"
    with store.write() as session:
        _, gate = queue.release(session, both, NOW, 7)
    assert (gate.was, gate.now) == ("GATE", "PENDING")
    assert refs_eligible(store) == ["2"]
    with store.read() as session:
        told = queries.events_after(session, step_id=gate.step_id)
    assert [(event.kind, event.actor_uid) for event in told] == [("gate_opened", 7)]


def test_releasing_a_held_gate_does_not_pass_it(store: Store) -> None:
    workflow_id = submit(store, new_step("1", gate="pick classes"))
    with store.write() as session:
        queue.hold(session, ids(session, workflow_id), NOW, 1)
        (change,) = queue.release(session, ids(session, workflow_id), NOW, 1)
    assert (change.was, change.now) == ("HELD", "GATE")


def test_a_held_workflow_starts_nothing(store: Store) -> None:
    workflow_id = submit(store, held=True)
    assert refs_eligible(store) == []
    with store.write() as session:
        assert queue.release_workflows(session, [workflow_id], NOW, 1) == [workflow_id]
        assert queue.release_workflows(session, [workflow_id], NOW, 1) == []
    assert refs_eligible(store) == ["2"]
    with store.write() as session:
        assert queue.hold_workflows(session, [workflow_id], NOW, 1) == [workflow_id]
    assert refs_eligible(store) == []


def test_cancel_ends_what_waits_and_stops_what_runs(store: Store) -> None:
    workflow_id = submit(store, new_step("1"), new_step("2", "1"))
    run = start(store)
    with store.write() as session:
        changed = queue.cancel(session, ids(session, workflow_id), NOW, 1000)
        (going,) = runs.open_runs_of(session)
    assert [change.now for change in changed] == ["STOPPING", "CANCELLED"]
    assert going.stop_reason is EndReason.CANCELLED
    finish(store, run, EndReason.CANCELLED, StepState.CANCELLED)
    assert set(states(store, workflow_id).values()) == {StepState.CANCELLED}


def test_requeue_takes_the_nodes_away_and_ends_a_pause(store: Store) -> None:
    workflow_id = submit(store)
    run = start(store)
    with store.write() as session:
        (change,) = queue.requeue(session, ids(session, workflow_id), NOW, 1000)
        (going,) = runs.open_runs_of(session)
    assert (change.now, going.stop_reason) == ("STOPPING", EndReason.PREEMPTED)
    with store.write() as session:
        paused = end(run, EndReason.PREEMPTED, StepState.PENDING, not_before=later(600))
        runs.end_runs(session, [paused], NOW)
        queue.requeue(session, ids(session, workflow_id), later(5), 1000)
    assert refs_eligible(store, later(5)) == ["2"]


# The end of a workflow


def test_a_workflow_ends_when_nothing_can_go_on(store: Store) -> None:
    workflow_id = submit(store, *chain(3))
    assert settle(store, workflow_id) == []
    run = start(store)
    assert settle(store, workflow_id) == []
    finish(store, run, EndReason.FAILED, StepState.FAILED)
    assert settle(store, workflow_id) == [Outcome.FAILED]
    assert settle(store, workflow_id) == []
    with store.write() as session:
        queue.resubmit(session, [run.step_id], NOW, 1000)
    assert settle(store, workflow_id) == [None]
    for _ in range(3):
        complete(store)
    assert settle(store, workflow_id) == [Outcome.COMPLETED]
    with store.read() as session:
        assert queries.workflow(session, workflow_id, NOW).state == "COMPLETED"
        assert queries.live_workflows(session) == []


@pytest.mark.parametrize("gate", ["", "pick classes"])
def test_a_workflow_that_waits_for_a_person_has_not_ended(store: Store, gate: str) -> None:
    workflow_id = submit(store, new_step("1", gate=gate))
    with store.write() as session:
        queue.hold(session, ids(session, workflow_id), NOW, 1)
    assert settle(store, workflow_id) == []


# Nodes and money


def _requested(session: Session) -> list[int]:
    """Intents that no launch was recorded for."""
    live = nodes.live(session)
    return [node.id for node in live if node.state is tables.NodeState.REQUESTED]


def test_a_node_is_paid_for_from_launch_to_end_and_never_twice(store: Store) -> None:
    workflow_id = submit(store, *chain(2))
    first = start(store, new_nodes=(new_node(),))
    (node_id,) = first.node_ids
    with store.write() as session:
        assert _requested(session) == [node_id]
        assert nodes.launched(session, [(node_id, "i-1")], later(10)) == {node_id}
        assert nodes.launched(session, [(node_id, "i-1")], later(11)) == frozenset()
        assert _requested(session) == []
        assert nodes.up(session, [node_id], later(20)) == {node_id}
        runs.end_runs(session, [end(first)], later(100))
    with store.write() as session:
        (second,) = runs.open_runs(
            session,
            [new_run(eligible_in(session), reuse_nodes=(node_id,))],
            later(130),
        )
        runs.end_runs(session, [end(second)], later(200))
        assert nodes.ask_terminate(session, [node_id], "idle {}", later(210)) == {node_id}
        assert nodes.ended(session, [(node_id, "asked")], later(220)) == {node_id}
        assert nodes.ended(session, [(node_id, "asked")], later(230)) == frozenset()
    with store.read() as session:
        receipt = queries.receipt(session, workflow_id, later(9999))
        assert nodes.live(session) == []
    assert [line.usd for line in receipt.lines] == [Decimal("0.009"), Decimal("0.007")]
    assert receipt.idle_usd == Decimal("0.005")
    assert receipt.total_usd == Decimal("0.021")
    assert receipt.total_hours == pytest.approx(210 / 3600)
    assert_charges_partition(store)


def test_charges_partition_a_life_even_when_the_clock_is_set_back(store: Store) -> None:
    submit(store, *chain(2))
    first = start(store, new_nodes=(new_node(),))
    (node_id,) = first.node_ids
    with store.write() as session:
        nodes.launched(session, [(node_id, "i-1")], later(100))
        nodes.up(session, [node_id], later(50))
        runs.end_runs(session, [end(first)], later(40))
        runs.open_runs(
            session, [new_run(eligible_in(session, later(40)), reuse_nodes=(node_id,))], later(30)
        )
        nodes.ended(session, [(node_id, "gone")], later(20))
    assert_charges_partition(store)


@pytest.mark.parametrize("trouble", ["busy", "ended", "draining", "of another workflow"])
def test_a_node_that_cannot_be_reused_undoes_the_opening(store: Store, trouble: str) -> None:
    workflow_id = submit(store, new_step("1"), *([new_step("2")] if trouble == "busy" else []))
    run = start(store, only="1", new_nodes=(new_node(),))
    (node_id,) = run.node_ids
    with store.write() as session:
        nodes.launched(session, [(node_id, "i-1")], NOW)
        nodes.up(session, [node_id], NOW)
        if trouble != "busy":
            runs.end_runs(session, [end(run, EndReason.LOST, StepState.PENDING)], NOW)
        if trouble == "ended":
            nodes.ended(session, [(node_id, "gone")], NOW)
        if trouble == "draining":
            nodes.notice(session, node_id, later(120), NOW)
    if trouble == "of another workflow":
        with store.write() as session:
            queue.hold(session, ids(session, workflow_id), NOW, 1)
        submit(store, new_step("9"))
    step = eligible_one(store)
    asked = new_run(step.step_id, step.epoch, reuse_nodes=(node_id,))
    with store.write() as session, pytest.raises(StaleStep, match="gone or busy"):
        runs.open_runs(session, [asked], NOW)
    assert eligible_one(store) == step


def test_a_notice_is_told_once_and_again_if_it_is_for_sooner(store: Store) -> None:
    submit(store)
    (node_id,) = start(store, new_nodes=(new_node(),)).node_ids
    with store.write() as session:
        nodes.launched(session, [(node_id, "i-1")], NOW)
        nodes.up(session, [node_id], NOW)
        assert nodes.notice(session, node_id, later(120), NOW)
        assert not nodes.notice(session, node_id, later(120), later(1))
        assert not nodes.notice(session, node_id, later(121), later(1))
        assert not nodes.notice(session, node_id, None, later(1))
        assert nodes.notice(session, node_id, later(20), later(2))
        (node,) = nodes.live(session)
    assert (node.state, node.notice_deadline) == (tables.NodeState.DRAINING, later(20))
    assert node.notice_at == NOW


def test_a_node_that_was_never_launched_costs_nothing(store: Store) -> None:
    workflow_id = submit(store)
    (node_id,) = start(store, new_nodes=(new_node(),)).node_ids
    with store.write() as session:
        nodes.ended(session, [(node_id, "no capacity")], later(60))
        assert nodes.launched(session, [(node_id, "i-1")], later(61)) == frozenset()
    with store.read() as session:
        assert queries.receipt(session, workflow_id, later(99)).total_usd == 0


# Drivers


def test_a_driver_is_known_by_its_newest_token(store: Store) -> None:
    workflow_id = submit(store)
    with store.write() as session:
        assert drivers.wanted(session)[0].token is None
        assert drivers.intend_start(session, workflow_id, "t1", NOW) == 1
        assert drivers.started(session, workflow_id, 1, 4711, 99, NOW)
        assert drivers.hello(session, workflow_id, "t1", "tls://x", {"python": "3.11"}, NOW)
        (known,) = drivers.known(session)
        assert (known.pid, known.started_ticks, known.seen_at) == (4711, 99, NOW)
        assert drivers.intend_start(session, workflow_id, "t2", NOW) == 2
        assert not drivers.hello(session, workflow_id, "t1", "tls://x", {}, NOW)
        assert not drivers.started(session, workflow_id, 1, 4711, 99, NOW)
        assert not drivers.lost(session, workflow_id, 1, "died", NOW)
        assert drivers.lost(session, workflow_id, 2, "died", NOW)
        assert not drivers.lost(session, workflow_id, 2, "died", NOW)
        assert drivers.known(session) == []
        assert drivers.get(session, workflow_id).failures == 1
        drivers.healthy(session, [workflow_id])
        assert drivers.get(session, workflow_id).failures == 0


def test_a_driver_of_nothing_is_refused(store: Store) -> None:
    with store.write() as session, pytest.raises(NotFound):
        drivers.intend_start(session, 99, "t", NOW)


def test_a_driver_is_wanted_while_something_can_go_on_without_a_person(store: Store) -> None:
    submit(store, new_step("1", gate="pick classes"))
    submit(store, held=True)
    with store.read() as session:
        assert drivers.wanted(session) == []
    workflow_id = submit(store, new_step("1"), new_step("2", "1", gate="pick classes"))
    run = start(store)
    with store.read() as session:
        assert [driver.workflow_id for driver in drivers.wanted(session)] == [workflow_id]
    finish(store, run, EndReason.COMPLETED, StepState.COMPLETED)
    with store.read() as session:
        assert drivers.wanted(session) == []


# Reading


def test_a_line_of_the_queue(store: Store) -> None:
    workflow_id = submit(store, *chain(3), tags={"sample": "betagal"}, priority=2)
    complete(store)
    run = start(store, new_nodes=(new_node(),))
    with store.write() as session:
        nodes.launched(session, [(run.node_ids[0], "i-1")], later(0))
        runs.set_running(session, [(run.run_id, run.epoch)], later(1))
        runs.progress(session, [(run.run_id, run.epoch, {"iteration": 4})], later(2))
    with store.read() as session:
        (line,) = queries.workflow_rows(session, later(3600), uid=1000, live=True)
    assert (line.state, line.steps_total, line.steps_done, line.steps_active) == (
        "RUNNING",
        3,
        1,
        1,
    )
    assert line.now is not None
    assert (line.now.ref, line.now.state, line.now.progress) == (
        "2", StepState.RUNNING, {"iteration": 4},
    )  # fmt: skip
    assert (line.pool, line.nodes, line.usd, line.run_s) == ("local", 1, Decimal("0.36"), 3600)
    assert (line.id, line.priority, line.tags) == (workflow_id, 2, {"sample": "betagal"})


def test_the_steps_of_a_workflow_know_what_they_wait_for(store: Store) -> None:
    workflow_id = submit(store, *chain(3), new_step("4"))
    finish(store, start(store, only="1"), EndReason.FAILED, StepState.FAILED, detail="bad mask")
    with store.read() as session:
        one, two, three, four = queries.steps_of(session, workflow_id, NOW)
        assert [step.ref for step in queries.steps_of(session, workflow_id, NOW, ["3"])] == ["3"]
    assert one.last_run is not None
    assert (one.last_run.end_reason, one.last_run.detail) == (EndReason.FAILED, "bad mask")
    assert two.parents == {"1": StepState.FAILED}
    assert [step.stuck for step in (one, two, three, four)] == [False, True, True, False]


def test_selectors_find_workflows(store: Store) -> None:
    one = submit(store, tags={"sample": "x"})
    two = submit(store, uid=1001, username="bo", tags={"grid": "x"})
    with store.read() as session:
        assert (queries.last(session), queries.last(session, 1000)) == (two, one)
        assert queries.tagged(session, "x") == [one, two]
        assert queries.tagged(session, "x", key="grid") == [two]
        assert queries.owners(session, [one, two, 99]) == {one: 1000, two: 1001}
        assert list(queries.step_ids(session, one)) == ["2"]
        with pytest.raises(NotFound, match="no step 77"):
            queries.step_ids(session, one, ["77"])
        with pytest.raises(NotFound):
            queries.workflow(session, 99, NOW)


def test_the_history_is_newest_first_and_bounded(store: Store) -> None:
    submit(store)
    for second in range(3):
        with store.write() as session:
            (run,) = open_all(session, later(second))
            how = end(run, EndReason.PREEMPTED, StepState.PENDING)
            runs.end_runs(session, [how], later(second))
    with store.read() as session:
        past = queries.hist(session, NOW, since=later(1), until=later(3), uid=1000, limit=9)
        assert [one.run.attempt for one in past] == [3, 2]
        assert len(queries.hist(session, NOW, limit=1)) == 1
        assert queries.hist(session, NOW, uid=1001) == []


def test_events_are_read_from_where_one_left_off(store: Store) -> None:
    workflow_id = submit(store)
    with store.read() as session:
        (first,) = queries.events_after(session, workflow_id=workflow_id)
    with store.write() as session:
        events.record(session, NOW, [events.event("told", "x", workflow_id=workflow_id)])
    with store.read() as session:
        assert [event.kind for event in queries.events_after(session, first.id)] == ["told"]


# Helpers


def ids(session: Session, workflow_id: int) -> list[int]:
    return list(queries.step_ids(session, workflow_id).values())


def refs_eligible(store: Store, now: datetime = NOW) -> list[str]:
    with store.read() as session:
        return [step.ref for step in queue.eligible(session, now, 99)]


def eligible_one(store: Store) -> queue.Eligible:
    with store.read() as session:
        (step,) = queue.eligible(session, NOW, 99)
    return step


def eligible_in(session: Session, now: datetime = NOW) -> int:
    (step,) = queue.eligible(session, now, 99)
    return step.step_id


def start(store: Store, only: str | None = None, **values: object) -> runs.OpenedRun:
    """Open a run of the one step that could start, or of the one with this ref."""
    with store.write() as session:
        found = queue.eligible(session, NOW, 99)
        (step,) = [step for step in found if only in {None, step.ref}]
        (run,) = runs.open_runs(session, [new_run(step.step_id, step.epoch, **values)], NOW)
    return run


def finish(
    store: Store, run: runs.OpenedRun, reason: EndReason, then: StepState, **values: object
) -> None:
    with store.write() as session:
        runs.end_runs(session, [end(run, reason, then, **values)], NOW)


def complete(store: Store, only: str | None = None) -> None:
    finish(store, start(store, only), EndReason.COMPLETED, StepState.COMPLETED)


def settle(store: Store, workflow_id: int) -> list[Outcome | None]:
    with store.write() as session:
        return [settled.outcome for settled in queue.settle(session, [workflow_id], NOW)]


def run_row(step_id: int, workflow_id: int, **values: object) -> dict[str, object]:
    row = {"step_id": step_id, "workflow_id": workflow_id, "pool": "local", "layout": {}}
    return {**row, "market": Market.SPOT, "started_at": NOW, **values}


def assert_charges_partition(store: Store) -> None:
    """The charges of each launched node follow each other from its launch to its end."""
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(tables.charges))
        for node in session.execute(select(tables.nodes)):
            spans = session.execute(
                select(tables.charges.c.started_at, tables.charges.c.ended_at)
                .where(tables.charges.c.node_id == node.id)
                .order_by(tables.charges.c.id)
            ).all()
            starts = [span.started_at for span in spans]
            ends = [span.ended_at for span in spans]
            if node.launched_at is None:
                assert spans == []
                continue
            assert starts[0] == node.launched_at
            assert starts[1:] == ends[:-1]
            assert ends[-1] == node.ended_at
