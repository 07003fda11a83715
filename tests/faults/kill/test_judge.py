"""The judge sees each thing that it looks for: a good record with one thing wrong is caught."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from scsched.steps.state import EndReason, StepState
from tests.faults.kill import harness, judge, judge_nodes
from tests.faults.kill.journal import Entry, Kind
from tests.faults.kill.killer import Campaign
from tests.faults.kill.record import Record

Doctor = Callable[[Record], Record]


@pytest.fixture(scope="module")
def good() -> Record:
    with harness.site() as place:
        campaign = Campaign(kills=3, moments={"work": 1, "launch": 1}, strangers=0.0)
        return Record.of(harness.run(place, campaign))


def lose_a_submission(record: Record) -> Record:
    acked = record.entries(Kind.ACKED)[0].token
    return replace(record, submissions=[s for s in record.submissions if s.key != acked])


def take_a_submission_twice(record: Record) -> Record:
    again = replace(record.workflows[0], id=record.workflows[-1].id + 1)
    return replace(record, workflows=[*record.workflows, again])


def leave_a_step(record: Record) -> Record:
    first, *others = record.steps
    return replace(record, steps=[replace(first, state=StepState.PENDING), *others])


def execute_a_run_again(record: Record) -> Record:
    return replace(record, journal=[*record.journal, *_execution(record)])


def promote_a_step_twice(record: Record) -> Record:
    run = next(run for run in record.runs if run.end_reason is EndReason.COMPLETED)
    assert run.ended_at is not None
    again = replace(run, id=10_000, epoch=99, started_at=run.ended_at, running_at=run.ended_at)
    return replace(record, runs=[*record.runs, again])


def do_a_finished_step_again(record: Record) -> Record:
    again = [replace(entry, run=10_000) for entry in _execution(record)]
    return replace(record, journal=[*record.journal, *again])


def execute_two_runs_at_once(record: Record) -> Record:
    begin = record.entries(Kind.BEGIN)[0]
    at = record.journal.index(begin) + 1
    other = replace(begin, run=10_000)
    journal = [*record.journal[:at], other, *record.journal[at:], replace(other, kind=Kind.END)]
    return replace(record, journal=journal)


def open_two_runs_at_once(record: Record) -> Record:
    first, *others = record.runs
    earlier = replace(first, id=10_000, epoch=0, ended_at=first.started_at + timedelta(seconds=1))
    return replace(record, runs=[first, *others, earlier])


def leave_a_run_open(record: Record) -> Record:
    first, *others = record.runs
    return replace(record, runs=[replace(first, ended_at=None, end_reason=None), *others])


def leave_an_execution(record: Record) -> Record:
    _, end = _execution(record)
    return replace(record, journal=[entry for entry in record.journal if entry != end])


def execute_without_an_order(record: Record) -> Record:
    begin, _ = _execution(record)
    return replace(record, runs=[run for run in record.runs if run.id != begin.run])


def forget_a_node(record: Record) -> Record:
    token = record.outside[0].token
    return replace(record, nodes=[node for node in record.nodes if node.token != token])


def charge_nobody_for_a_node(record: Record) -> Record:
    nodes = [replace(node, launched_at=None) for node in record.nodes]
    return replace(record, nodes=nodes, charges=[])


def launch_a_token_twice(record: Record) -> Record:
    again = replace(record.outside[0], provider_id="another")
    return replace(record, outside=[*record.outside, again])


def swap_a_node(record: Record) -> Record:
    first, *others = record.outside
    return replace(record, outside=[replace(first, provider_id="another"), *others])


def give_a_run_two_sets_of_nodes(record: Record) -> Record:
    """The second is made while the first is up."""
    charge = next(charge for charge in record.charges if charge.run_id is not None)
    row = next(row for row in record.nodes if row.id == charge.node_id)
    node = next(node for node in record.outside if node.token == row.token)
    rows, nodes, charges = [], [], []
    for number in range(10_000, 10_009):
        identity = f"more-{number}"
        rows.append(replace(row, id=number, token=identity, provider_id=identity))
        nodes.append(replace(node, token=identity, provider_id=identity))
        charges.append(replace(charge, id=number, node_id=number))
    return replace(
        record,
        nodes=[*record.nodes, *rows],
        outside=[*record.outside, *nodes],
        charges=[*record.charges, *charges],
    )


def give_a_run_two_sets_of_nodes_in_a_pool(record: Record) -> Record:
    return give_a_run_two_sets_of_nodes(record)


def end_a_node_as_a_stranger(record: Record) -> Record:
    text = f"{record.outside[0].provider_id} is nobody's; ended"
    event = replace(record.events[0], kind="stranger_ended", text=text)
    return replace(record, events=[*record.events, event])


def bill_a_cent_more(record: Record) -> Record:
    """Where the ledger and the bill agreed."""
    ids = {row.id: row.provider_id or "" for row in record.nodes}
    bill = {node.provider_id: Decimal(0) for node in record.outside}
    for charge in record.charges:
        bill[ids[charge.node_id]] += judge_nodes._usd(charge)
    agreed = replace(record, bill=bill)
    assert not list(judge_nodes.every_node_is_paid_for_to_the_cent(agreed))
    first = record.outside[0].provider_id
    return replace(record, bill={**bill, first: bill[first] + Decimal("0.01")})


def leave_a_node_running(record: Record) -> Record:
    first, *others = record.outside
    return replace(record, outside=[replace(first, stopped_at=None, taken_at=None), *others])


def let_a_node_outlive_its_record(record: Record) -> Record:
    late = max(entry.at for entry in record.journal)
    first, *others = record.outside
    ended = next(node for node in record.nodes if node.token == first.token)
    assert ended.ended_at is not None
    rows = [
        replace(node, ended_at=ended.ended_at - timedelta(seconds=60)) if node is ended else node
        for node in record.nodes
    ]
    outside = [replace(first, stopped_at=late, taken_at=None), *others]
    return replace(record, nodes=rows, outside=outside)


def charge_with_a_gap(record: Record) -> Record:
    first, *others = record.charges
    later = replace(first, started_at=first.started_at + timedelta(seconds=1))
    return replace(record, charges=[later, *others])


def forget_an_event(record: Record) -> Record:
    gone = next(event for event in record.events if event.kind == "running")
    return replace(record, events=[event for event in record.events if event is not gone])


def forget_an_event_of_a_node(record: Record) -> Record:
    gone = next(event for event in record.events if event.kind == "launched")
    return replace(record, events=[event for event in record.events if event is not gone])


def leave_a_process(record: Record) -> Record:
    return replace(record, outcome=replace(record.outcome, left=("1:1",)))


def crash(record: Record) -> Record:
    return replace(record, journal=[*record.journal, Entry(kind=Kind.CRASHED, pid=1)])


CASES: dict[Doctor, judge.Check] = {
    lose_a_submission: judge.no_acknowledged_submission_is_lost,
    take_a_submission_twice: judge.no_submission_is_taken_twice,
    leave_a_step: judge.every_step_is_completed,
    execute_a_run_again: judge.no_run_is_executed_twice,
    promote_a_step_twice: judge.no_step_is_promoted_twice,
    do_a_finished_step_again: judge.no_finished_step_is_done_again,
    execute_two_runs_at_once: judge.no_two_runs_of_a_step_overlap,
    open_two_runs_at_once: judge.no_two_runs_of_a_step_overlap,
    leave_a_run_open: judge.no_run_is_left_open,
    leave_an_execution: judge.no_run_is_left_open,
    execute_without_an_order: judge.every_execution_was_ordered,
    forget_a_node: judge_nodes.every_node_is_recorded,
    charge_nobody_for_a_node: judge_nodes.every_node_is_recorded,
    launch_a_token_twice: judge_nodes.no_token_launches_twice,
    swap_a_node: judge_nodes.every_node_is_recorded,
    give_a_run_two_sets_of_nodes: judge_nodes.no_attempt_has_two_sets_of_nodes,
    give_a_run_two_sets_of_nodes_in_a_pool: judge_nodes.no_pool_is_over_its_limit,
    end_a_node_as_a_stranger: judge_nodes.no_node_of_ours_is_ended_as_a_stranger,
    bill_a_cent_more: judge_nodes.every_node_is_paid_for_to_the_cent,
    leave_a_node_running: judge_nodes.no_node_is_left,
    let_a_node_outlive_its_record: judge_nodes.no_node_is_left,
    charge_with_a_gap: judge_nodes.charges_partition_the_life_of_each_node,
    forget_an_event: judge.every_state_has_its_event,
    forget_an_event_of_a_node: judge_nodes.every_node_has_its_events,
    leave_a_process: judge.no_process_is_left,
    crash: judge.no_broker_ended_by_itself,
}


@pytest.mark.slow
def test_a_good_record_passes(good: Record) -> None:
    assert judge.judge(good) == {}


@pytest.mark.slow
@pytest.mark.parametrize("doctor", CASES, ids=lambda doctor: doctor.__name__)
def test_the_judge_sees(doctor: Doctor, good: Record) -> None:
    assert list(CASES[doctor](doctor(good)))


def _execution(record: Record) -> tuple[Entry, Entry]:
    """Begin and end of one that completed its step, under a driver that did not die."""
    dead = {entry.pid for entry in record.entries(Kind.DIES)}
    promoted = {run.id for run in record.runs if run.end_reason is EndReason.COMPLETED}
    begins = {(entry.pid, entry.run): entry for entry in record.entries(Kind.BEGIN)}
    return next(
        (begins[end.pid, end.run], end)
        for end in record.entries(Kind.END)
        if end.word == "completed" and end.run in promoted and end.pid not in dead
    )
