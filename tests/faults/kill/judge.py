"""What must be true when all is over. Each check is a function that yields what is wrong.

The judge asks the database with statements of its own and compares it with what happened outside.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from scsched.db import models as tables
from scsched.steps.state import TRANSITIONS, EndReason, StepState
from tests.faults.kill import judge_nodes
from tests.faults.kill.journal import Entry, Kind
from tests.faults.kill.record import Record, RunRow, executions

Problems = Iterator[str]
Check = Callable[[Record], Problems]


def judge(record: Record) -> dict[str, list[str]]:
    """The problems that each check found; empty: all is as it must be."""
    found = {check.__name__: list(check(record)) for check in CHECKS}
    return {name: problems for name, problems in found.items() if problems}


def no_acknowledged_submission_is_lost(record: Record) -> Problems:
    taken = {row.key: row.workflow_id for row in record.submissions}
    for entry in record.entries(Kind.ACKED):
        if taken.get(entry.token) != entry.workflow:
            yield f"{entry.token} was acknowledged as {entry.workflow}: {taken.get(entry.token)}"


def no_submission_is_taken_twice(record: Record) -> Problems:
    asked = {entry.token for entry in record.entries(Kind.ASKED)}
    taken = {row.workflow_id for row in record.submissions}
    if unknown := {row.key for row in record.submissions} - asked:
        yield f"keys that nobody sent: {unknown}"
    for row in record.workflows:
        if row.id not in taken:
            yield f"workflow {row.id} came without a submission"


def every_step_is_completed(record: Record) -> Problems:
    """Also of workflows that were taken in and not acknowledged: the broker could not know."""
    for step in record.steps:
        if step.state is not StepState.COMPLETED:
            yield f"step {step.workflow_id}.{step.ref} is {step.state}"
    for row in record.workflows:
        if row.outcome is not tables.Outcome.COMPLETED:
            yield f"workflow {row.id} ended as {row.outcome}"
    if not record.outcome.drained:
        yield "it did not come to rest in time"


def no_run_is_executed_twice(record: Record) -> Problems:
    begun = Counter((entry.run, entry.epoch) for entry in record.entries(Kind.BEGIN))
    for (run, epoch), times in begun.items():
        if times > 1:
            yield f"run {run} under epoch {epoch} began {times} times"


def no_step_is_promoted_twice(record: Record) -> Problems:
    promoted = Counter(run.step_id for run in record.runs if run.end_reason is EndReason.COMPLETED)
    for step in record.steps:
        expected = 1 if step.state is StepState.COMPLETED else 0
        if promoted[step.id] != expected:
            yield f"step {step.id} is {step.state} with {promoted[step.id]} completed runs"


def no_finished_step_is_done_again(record: Record) -> Problems:
    """Unless the driver died with the word that it was finished."""
    done: dict[tuple[int, str], int] = {}
    for entry in record.journal:
        step = (entry.workflow, entry.step)
        if entry.kind is Kind.BEGIN and step in done:
            yield f"step {step} began again (run {entry.run}) after run {done[step]} finished"
        elif entry.kind is Kind.END and entry.word == "completed":
            done[step] = entry.run
        elif entry.kind is Kind.DIES:
            promoted = {run.id for run in record.runs if run.end_reason is EndReason.COMPLETED}
            gone = [k for k, run in done.items() if k[0] == entry.workflow and run not in promoted]
            for key in gone:
                del done[key]


def no_two_runs_of_a_step_overlap(record: Record) -> Problems:
    """Neither where the work is done nor in the database."""
    for entry, others in _open_at_begin(record):
        if others:
            yield f"step {entry.workflow}.{entry.step}: {others} at work when {entry.run} began"
    of_step: defaultdict[int, list[RunRow]] = defaultdict(list)
    for run in sorted(record.runs, key=lambda run: run.epoch):
        of_step[run.step_id].append(run)
    for runs in of_step.values():
        for former, run in pairwise(runs):
            if former.ended_at is None or former.ended_at > run.started_at:
                yield f"run {run.id} of step {run.step_id} started before {former.id} ended"


def no_run_is_left_open(record: Record) -> Problems:
    for run in record.runs:
        if run.ended_at is None:
            yield f"run {run.id} of step {run.step_id}"
    for entry in _open_executions(record.journal):
        yield f"run {entry.run} is executed still, or ended without a word"


def every_execution_was_ordered(record: Record) -> Problems:
    known = {(run.id, run.epoch) for run in record.runs}
    for entry in record.entries(Kind.BEGIN):
        if (entry.run, entry.epoch) not in known:
            yield f"run {entry.run} under epoch {entry.epoch} was never recorded"


_STATES = {state.lower(): state for state in StepState}


def every_state_has_its_event(record: Record) -> Problems:
    """The events of a step are a walk through the table of transitions to where it is."""
    told: defaultdict[int, list[StepState]] = defaultdict(list)
    for event in sorted(record.events, key=lambda event: event.id):
        if event.step_id is not None and event.kind in _STATES:
            told[event.step_id].append(_STATES[event.kind])
    for step in record.steps:
        states = [StepState.PENDING, *told[step.id]]
        for was, now in pairwise(states):
            if now not in TRANSITIONS[was]:
                yield f"step {step.id} went from {was} to {now}"
        if states[-1] is not step.state:
            yield f"step {step.id} is {step.state}, its events say {states[-1]}"
        if (opened := states.count(StepState.CONFIGURING)) != step.attempts:
            yield f"step {step.id} had {step.attempts} attempts, its events say {opened}"


def no_process_is_left(record: Record) -> Problems:
    for process in record.outcome.left:
        yield f"process {process}"
    for row in record.workflows:
        if row.driver_token is not None:
            yield f"workflow {row.id} has a driver on record"


def no_broker_ended_by_itself(record: Record) -> Problems:
    for entry in record.entries(Kind.CRASHED):
        yield f"process {entry.pid} {entry.word}"


def the_database_is_sound(record: Record) -> Problems:
    yield from record.faults


CHECKS: Sequence[Check] = (
    no_acknowledged_submission_is_lost,
    no_submission_is_taken_twice,
    every_step_is_completed,
    no_run_is_executed_twice,
    no_step_is_promoted_twice,
    no_finished_step_is_done_again,
    no_two_runs_of_a_step_overlap,
    no_run_is_left_open,
    every_execution_was_ordered,
    every_state_has_its_event,
    no_process_is_left,
    no_broker_ended_by_itself,
    the_database_is_sound,
    *judge_nodes.CHECKS,
)


def _open_at_begin(record: Record) -> Iterator[tuple[Entry, list[int]]]:
    for entry, going in executions(record.journal):
        if entry.kind is Kind.BEGIN:
            step = (entry.workflow, entry.step)
            yield entry, [run for run, at in going.items() if (at.workflow, at.step) == step]


def _open_executions(journal: Sequence[Entry]) -> list[Entry]:
    end = Entry(kind=Kind.STARTED, pid=0)
    return [list(going.values()) for _, going in executions([*journal, end])][-1]
