"""The literal answers and the shapes of v1 say the same; the shapes only ever grow."""

import json
from typing import get_type_hints

import pytest

from scsched.scheduler.cli import schema
from scsched.scheduler.cli.main import main
from scsched.scheduler.cli.misfit import misfit
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer

PAIRS = [
    (answers.PING, schema.PingAnswer),
    (answers.WORKFLOWS, schema.WorkflowsAnswer),
    (answers.WORKFLOW, schema.WorkflowAnswer),
    (answers.STEP_ANSWER, schema.StepAnswer),
    (answers.SELECT, schema.SelectAnswer),
    (answers.EVENTS, schema.EventsAnswer),
    (answers.ACTIONS, schema.ActionsAnswer),
    (answers.HIST, schema.HistAnswer),
    (answers.NODES, schema.NodesAnswer),
    (answers.RECEIPT, schema.ReceiptAnswer),
    (answers.CONFIG, schema.ConfigAnswer),
    (answers.SUBMITTED, schema.SubmitAnswer),
]

V1 = {
    "Workflow": "id name user uid state market priority steps_total steps_done steps_failed now "
    "progress pool nodes run_s usd reason reason_text tags submitted_at ended_at",
    "Step": "id workflow label protocol class state reason reason_text attempts progress run_s usd "
    "pool nodes gate demand parents started_at ended_at last_end",
    "Run": "id step attempt state pool market nodes ranks threads started_at running_at ended_at "
    "end_reason exit_code detail resumed_from iterations_done iterations_lost usd hours",
    "Node": "id name workflow pool provider market state cores memory_gib usd_per_hour run "
    "launched_at notice_deadline ended_at end_reason usd",
    "Event": "id at workflow step run node kind actor text",
    "ReceiptAnswer": "schema workflow lines boot_usd boot_hours boot_without_run_usd "
    "boot_without_run_hours idle_usd idle_hours total_usd total_hours lost_iterations wall_s",
    "ReceiptLine": "step label attempt pool market nodes hours iterations_done iterations_lost "
    "end_reason usd",
    "SubmitAnswer": "schema id name project steps warnings plan",
    "PlanLine": "step label protocol class shape pool market nodes ranks threads memory_gib "
    "usd_per_hour",
    "Moved": "workflow step was now",
}
"""What was promised when v1 came out. Never take a word away here: scripts rely on it."""


@pytest.mark.parametrize(("answer", "shape"), PAIRS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_literal_answer_has_the_shape_of_v1(answer: object, shape: type) -> None:
    assert misfit(answer, shape) == []


@pytest.mark.parametrize("name", V1)
def test_no_promised_field_of_v1_is_gone(name: str) -> None:
    assert set(V1[name].split()) <= set(get_type_hints(getattr(schema, name)))


def test_a_missing_and_a_mistyped_field_are_named() -> None:
    wrong = {**answers.WORKFLOWS, "items": [{**answers.RUNNING, "usd": "12"}]}
    del wrong["items"][0]["pool"]
    found = misfit(wrong, schema.WorkflowsAnswer)
    assert found == [
        "$.items[0].pool: missing",
        "$.items[0].usd: '12' is no <class 'float'>",
    ]


def test_what_the_commands_make_themselves_has_its_shape_too(
    broker: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.answers["GET /v1/workflows/42"] = {**answers.WORKFLOW, "state": "COMPLETED"}
    broker.answers["GET /v1/events"] = [
        answers.EVENTS,
        {"schema": "scsched/v1", "items": [], "last": 901},
    ]
    for argv, shape in (
        (["watch", "42"], schema.EventLine),
        (["why", "42"], schema.Explanations),
        (["wait", "42"], schema.Ends),
        (["doctor"], schema.Checks),
    ):
        main([*argv, "--json"])
        assert misfit(json.loads(capsys.readouterr().out), shape) == []
    assert main(["show", "99", "--json"]) == 102
    assert misfit(json.loads(capsys.readouterr().err), schema.Refused) == []
