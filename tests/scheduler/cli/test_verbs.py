"""Every verb against literal answers: what it prints where, and its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from scsched.scheduler import limits
from scsched.scheduler.cli import app, listing
from scsched.scheduler.cli.main import main
from scsched.scheduler.intake import Submission
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer

Capture = pytest.CaptureFixture[str]


def table(text: str) -> list[dict[str, str]]:
    heading, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(heading, row, strict=True)) for row in rows]


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "my flow.json"
    path.write_text('[{"object.id": "1"}]')
    return path


def ended(broker: Peer, state: str, steps: list[dict[str, Any]] | None = None) -> None:
    found = {**answers.WORKFLOW, "state": state, "steps": steps or answers.WORKFLOW["steps"]}
    broker.answers["GET /v1/workflows/42"] = found
    quiet = {"schema": "scsched/v1", "items": [], "last": 902}
    full = {"schema": "scsched/v1", "items": [answers.EVENT, answers.END_EVENT], "last": 902}
    broker.answers["GET /v1/events"] = lambda r: quiet if int(r.query["after"]) >= 902 else full


# queue


def test_queue_in_a_pipe_is_tab_separated_with_a_reason_for_what_does_not_run(
    broker: Peer, capsys: Capture
) -> None:
    assert main(["queue"]) == 0
    out, err = capsys.readouterr()
    rows = {row["id"]: row for row in table(out)}
    assert rows["42"]["now"] == "311 Refine3D"
    assert rows["42"]["reason"] == ""
    assert rows["44"]["reason"] == "Resources: 2 of 2 nodes of pool cpu are busy"
    assert err == ""


def test_queue_asks_for_mine_and_live_unless_told_otherwise(broker: Peer, capsys: Capture) -> None:
    main(["queue"])
    assert broker.asked[-1].query == {"scope": "mine", "live": "1"}
    main(["squeue", "-a"])
    assert broker.asked[-1].query["scope"] == "all"
    main(["q", "-t", "CD,failed"])
    assert broker.asked[-1].query == {"scope": "mine", "live": "0", "state": "COMPLETED,FAILED"}


def test_queue_of_one_user_shows_only_theirs(broker: Peer, capsys: Capture) -> None:
    main(["queue", "-u", "chen", "-h", "-o", "id,user"])
    assert capsys.readouterr().out == "44\tchen\n"


def test_queue_json_is_the_answer_with_its_schema(broker: Peer, capsys: Capture) -> None:
    assert main(["queue", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == answers.WORKFLOWS


@pytest.mark.parametrize("argv", [["--json"], ["-a", "-h"], ["-o", "id,usd"], []])
def test_the_short_way_and_typer_print_the_same_queue(
    argv: list[str], broker: Peer, capsys: Capture
) -> None:
    assert listing.quick_options(argv) is not None
    main(["queue", *argv])
    quick = capsys.readouterr().out
    app.run(["queue", *argv])
    assert capsys.readouterr().out == quick


def test_a_user_cannot_paint_the_screen_of_others(broker: Peer, capsys: Capture) -> None:
    evil = {**answers.RUNNING, "name": "\x1b[2J\x1b]0;x\x07a\tb\nc"}
    broker.answers["GET /v1/workflows"] = {**answers.WORKFLOWS, "items": [evil]}
    main(["queue", "-o", "workflow", "-h"])
    assert capsys.readouterr().out == "a b c\n"


# errors


def test_no_broker_is_one_line_with_what_to_do(state_dir: Path, capsys: Capture) -> None:
    assert main(["queue"]) == 75
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scsched: no broker answers at ")
    assert err.endswith("start it with: scsched serve\n")
    assert err.count("\n") == 1


def test_errors_in_json_mode_are_json(broker: Peer, capsys: Capture) -> None:
    broker.answers["GET /v1/workflows/99"] = (404, answers.NOT_FOUND)
    assert main(["show", "99", "--json"]) == 102
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == answers.NOT_FOUND


@pytest.mark.parametrize(
    ("code", "number"), [("permission", 107), ("infeasible", 105), ("store_busy", 75)]
)
def test_a_refusal_has_the_exit_code_of_its_kind(
    code: str, number: int, broker: Peer, capsys: Capture
) -> None:
    error = {"code": code, "message": "workflow 42 is bo's", "hint": "ask bo", "exit": number}
    broker.answers["POST /v1/actions"] = (403, {"schema": "scsched/v1", "error": error})
    assert main(["cancel", "42"]) == number
    assert capsys.readouterr().err == "scsched: workflow 42 is bo's: ask bo\n"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["quue"], "did you mean queue"),
        (["show"], "see scsched show --help"),
        (["queue", "--nonsense"], "see scsched queue --help"),
        (["queue", "-s", "SLEEPING"], "no such state"),
        (["queue", "-o", "cost"], "no such column"),
        (["hist", "-S", "yesterday"], "no time"),
        (["wait", "42", "--timeout", "soon"], "no span of time"),
        (["submit", "/nowhere.json"], "/nowhere.json"),
        (["run", "/nowhere.json", "--play-spot", "soon"], "makes no sense"),
        (["ckpt", "verify", "42"], "names no single step"),
        (["submit", "w.json", "--market", "spot"], "--market: no such option: write --spot or"),
        (["run", "w.json", "--market=spot"], "--market: no such option: write --spot or"),
        (["submit", "w.json", "--spot", "--on-demand"], "one market at a time"),
        (["run", "w.json", "--on-demand", "--spot"], "one market at a time"),
        (["db"], "scsched: db: name one of upgrade, revision, check: see scsched db --help"),
        (["config"], "scsched: config: name one of show: "),
        (["ckpt"], "scsched: ckpt: name one of list, verify: "),
        (["cloud"], "scsched: cloud: name one of policy, image: "),
        (["setup"], "scsched: setup: name one of scipion: "),
        (["cloud", "policy", "--account", "foo"], "--account foo: an account's number has 12"),
    ],
)
def test_a_wrong_command_line_is_exit_2_and_one_line(
    argv: list[str], says: str, broker: Peer, capsys: Capture
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("scsched: ")
    assert err.count("\n") == 1


# help


def all_verbs() -> list[list[str]]:
    groups = {"ckpt": ["list", "verify"], "config": ["show"], "setup": ["scipion"]}
    groups["cloud"] = ["policy", "image"]
    groups["db"] = ["upgrade", "revision", "check"]
    verbs = [verb for names in app.GROUPS.values() for verb in names]
    return [[verb, sub] for verb in verbs for sub in groups.get(verb, [""])]


@pytest.mark.parametrize("verb", all_verbs(), ids=" ".join)
def test_the_help_of_every_verb_has_an_example(verb: list[str], capsys: Capture) -> None:
    assert main([word for word in verb if word] + ["--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert "  scsched " in text


def test_every_verb_is_registered_in_the_module_that_the_table_names() -> None:
    from typer.main import get_command

    everything = get_command(app.application())
    assert set(everything.commands) == {v for g in app.GROUPS.values() for v in g}  # type: ignore[attr-defined]
    for verbs in app.GROUPS.values():
        assert set(get_command(app.application(verbs[0])).commands) == set(verbs)  # type: ignore[attr-defined]


def test_scsched_alone_says_how_to_begin(capsys: Capture) -> None:
    assert main([]) == 0
    assert "scsched run workflow.json" in capsys.readouterr().out


# show, why, hist, nodes, receipt, config


def test_show_prints_the_workflow_and_its_steps(broker: Peer, capsys: Capture) -> None:
    assert main(["show", "42"]) == 0
    head, steps = capsys.readouterr().out.split("\n\n")
    assert "state\tRUNNING" in head.splitlines()
    assert [row["id"] for row in table(steps)] == ["311", "377"]


def test_show_of_a_failed_step_has_the_last_lines_of_its_stderr_made_safe(
    broker: Peer, capsys: Capture
) -> None:
    broker.answers["GET /v1/steps/42.290"] = {**answers.STEP_ANSWER, **answers.FAILED_STEP}
    assert main(["show", "42.290"]) == 0
    out = capsys.readouterr().out
    assert "last run ended: FAILED, exit code 1" in out
    assert "  | file not found\n" in out
    assert "scsched resubmit 42.290" in out


def test_show_resolves_what_is_no_plain_id(broker: Peer, capsys: Capture) -> None:
    assert main(["show", "last"]) == 0
    assert [request.path for request in broker.asked] == ["/v1/select", "/v1/workflows/42"]


def test_why_of_a_step_is_its_sentence(broker: Peer, capsys: Capture) -> None:
    assert main(["why", "42.311"]) == 0
    out = capsys.readouterr().out
    assert out == "42.311 RUNNING: runs since 09:41\n  attempt 2, from it 9\n"


def test_why_of_a_workflow_tells_of_what_runs_before_what_waits_for_it(
    broker: Peer, capsys: Capture
) -> None:
    assert main(["why", "42"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("42.311 Refine3D RUNNING")
    assert "377" not in out


def test_hist_asks_for_a_span_and_names_each_end(broker: Peer, capsys: Capture) -> None:
    assert main(["sacct", "-S", "2026-11-01T00:00:00+00:00", "-u", "alice"]) == 0
    assert broker.asked[-1].query["since"] == "2026-11-01T00:00:00Z"
    row = table(capsys.readouterr().out)[0]
    assert (row["step"], row["end_reason"], row["iterations_lost"]) == ("42.311", "PREEMPTED", "1")


def test_nodes_in_a_pipe_are_one_table(broker: Peer, capsys: Capture) -> None:
    main(["nodes"])
    assert table(capsys.readouterr().out)[0]["name"] == "n7"
    main(["sinfo", "--pools"])
    assert table(capsys.readouterr().out)[0]["pool"] == "gpu-spot"


def test_the_receipt_ends_with_the_total(broker: Peer, capsys: Capture) -> None:
    assert main(["receipt", "42"]) == 0
    assert capsys.readouterr().out.endswith(
        "boot cost, in lines\t0.03\nboot cost, no run\t0.01\nidle cost\t0.21\ntotal cost\t4.17\n"
    )


def test_config_show_says_where_values_come_from(broker: Peer, capsys: Capture) -> None:
    assert main(["config", "show", "--origin"]) == 0
    assert table(capsys.readouterr().out) == [
        {"key": "times.tick_s", "value": "0.5", "origin": "default"}
    ]


# submit


def test_submit_sends_only_the_variables_that_a_template_asks_for(
    broker: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_HERE", "/data")
    monkeypatch.setenv("A_SECRET", "x")
    template = tmp_path / "w.json.template"
    template.write_text('[\n{"object.id": "1", "starFile": "%(DATA_HERE)s/p.star"}\n]')
    assert main(["submit", str(template)]) == 0
    assert broker.asked[-1].body["environ"] == {"DATA_HERE": "/data"}


def test_submit_prints_the_id_alone_and_sends_everything(
    broker: Peer, document: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(document.parent)
    argv = "--spot --project p --param box=256 --param pre=a=b --map MyProt=cpu-bound --only 1,2"
    argv += " --tag owner=bo --tag night --priority 5 --hold --exact on"
    assert main(["submit", document.name, *argv.split()]) == 0
    out, err = capsys.readouterr()
    assert out == "46\n"
    assert err == "warning: $[0].customMask: unknown field, kept as it is\n"
    body = broker.asked[-1].body
    assert len(body.pop("key")) == 32
    assert body == {
        "document": '[{"object.id": "1"}]',
        "environ": {},
        "filename": "my flow.json",
        "name": "my flow",
        "project": str(document.parent / "p"),
        "market": "spot",
        "params": {"box": "256", "pre": "a=b"},
        "maps": {"MyProt": "cpu-bound"},
        "from": [],
        "until": [],
        "only": ["1", "2"],
        "hold": True,
        "priority": 5,
        "tags": {"owner": "bo", "night": "night"},
        "play_spot": None,
        "exact": "on",
        "dry_run": False,
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["--param", "box"],
        ["--param", "a=1", "--param", "a=2"],
        ["--map", "P=fast"],
        ["--map", "cpu-bound"],
        ["--map", "P=cpu-bound", "--map", "P=gpu-bound"],
        ["--exact", "maybe"],
        ["--name", "a/b"],
        ["--name", "a\x07"],
        ["--name", "x" * 121],
        ["--priority", "1001"],
        ["--priority", "-1001"],
        ["--tag", "night="],
        ["--tag", "x" * 201],
        ["--key", "x" * 129],
    ],
)
def test_a_wrong_flag_is_refused_before_anything_is_sent(
    argv: list[str], broker: Peer, document: Path, capsys: Capture
) -> None:
    assert main(["submit", str(document), *argv]) == 2
    assert broker.asked == []
    assert f"scsched: {argv[0]} " in capsys.readouterr().err


def test_the_limits_of_flags_are_the_broker_s() -> None:
    most = {
        "document": "[]",
        "name": "x" * limits.MAX_NAME,
        "priority": limits.MAX_PRIORITY,
        "key": "x" * limits.MAX_KEY,
        "tags": {"x" * limits.MAX_WORD: "y"},
    }
    Submission.model_validate(most)
    for more in (
        {"name": "x" * (limits.MAX_NAME + 1)},
        {"priority": limits.MAX_PRIORITY + 1},
        {"key": "x" * (limits.MAX_KEY + 1)},
        {"tags": {"x" * (limits.MAX_WORD + 1): "y"}},
    ):
        with pytest.raises(ValidationError):
            Submission.model_validate(most | more)


def test_a_dry_run_prints_the_plan_as_data(broker: Peer, document: Path, capsys: Capture) -> None:
    broker.answers["POST /v1/workflows"] = {**answers.SUBMITTED, "id": None}
    assert main(["submit", str(document), "--dry-run"]) == 0
    assert broker.asked[-1].body["dry_run"] is True
    assert table(capsys.readouterr().out)[0]["ranks"] == "5"


def test_a_refused_file_is_exit_65(broker: Peer, document: Path, capsys: Capture) -> None:
    error = {"code": "workflow", "message": "my flow.json: $[0]: no class", "exit": 65}
    broker.answers["POST /v1/workflows"] = (422, {"schema": "scsched/v1", "error": error})
    assert main(["submit", str(document)]) == 65
    assert capsys.readouterr().err == "scsched: my flow.json: $[0]: no class\n"


def test_a_file_that_is_no_text_is_exit_65(broker: Peer, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe[]")
    assert main(["submit", str(tmp_path / "x.json")]) == 65
    assert broker.asked == []


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 100), ("CANCELLED", 103)])
def test_submit_wait_returns_the_outcome(
    state: str, code: int, broker: Peer, document: Path, capsys: Capture
) -> None:
    ended(broker, state)
    broker.answers["POST /v1/workflows"] = {**answers.SUBMITTED, "id": 42}
    assert main(["submit", str(document), "--wait"]) == code


# steer


def test_cancel_answers_with_what_was_and_what_is(broker: Peer, capsys: Capture) -> None:
    assert main(["cancel", "42", "--reason", "wrong mask"]) == 0
    assert broker.asked[-1].body == {
        "action": "cancel",
        "selector": "42",
        "reason": "wrong mask",
        "by_steps": False,
    }
    assert table(capsys.readouterr().out) == [{"id": "42", "was": "RUNNING", "now": "CANCELLED"}]


def test_cancelling_several_with_nobody_to_ask_needs_yes(broker: Peer, capsys: Capture) -> None:
    items = [{"workflow": 42, "step": None}, {"workflow": 43, "step": None}]
    broker.answers["GET /v1/select"] = {"schema": "scsched/v1", "items": items}
    assert main(["cancel", "all"]) == 2
    assert [request.method for request in broker.asked] == ["GET"]
    assert main(["scancel", "all", "-y"]) == 0
    assert broker.asked[-1].body["selector"] == "all"


@pytest.mark.parametrize("verb", ["hold", "release", "requeue", "resubmit"])
def test_the_other_verbs_of_steering_send_themselves(
    verb: str, broker: Peer, capsys: Capture
) -> None:
    assert main([verb, "42.311"]) == 0
    assert broker.asked[-1].body["action"] == verb
    assert broker.asked[-1].body["selector"] == "42.311"


@pytest.mark.parametrize(
    ("verb", "step", "was", "now", "changed"),
    [
        ("requeue", "6", "HELD", "HELD", False),
        ("requeue", "6", "RUNNING", "STOPPING", True),
        ("requeue", "6", "PENDING", "PENDING", True),  # it waited for a time
        ("hold", "6", "COMPLETED", "COMPLETED", False),
        ("hold", "6", "RUNNING", "RUNNING", True),  # it does not start again
        ("hold", None, "HELD", "HELD", False),
        ("release", "6", "PENDING", "PENDING", False),
        ("release", "6", "HELD", "HELD", True),  # its workflow is held too
        ("cancel", "6", "CANCELLED", "CANCELLED", False),
        ("resubmit", "6", "RUNNING", "RUNNING", False),
    ],
)
def test_an_action_that_changed_nothing_says_so(
    verb: str, step: str | None, was: str, now: str, changed: bool, broker: Peer, capsys: Capture
) -> None:
    item = {"workflow": 42, "step": step, "was": was, "now": now}
    broker.answers["POST /v1/actions"] = {"schema": "scsched/v1", "items": [item]}
    assert main([verb, "42.6"]) == 0
    out, err = capsys.readouterr()
    assert bool(out) == changed
    assert (f"42.6: nothing there to {verb}; see scsched show 42.6\n" == err) != changed


# wait, watch


@pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 100), ("CANCELLED", 103)])
@pytest.mark.parametrize("verb", ["wait", "watch"])
def test_the_exit_code_of_wait_and_watch_is_the_outcome(
    verb: str, state: str, code: int, broker: Peer, capsys: Capture
) -> None:
    ended(broker, state, [answers.FAILED_STEP])
    assert main([verb, "42"]) == code


def test_wait_gives_up_at_its_timeout(broker: Peer, capsys: Capture) -> None:
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 1}
    assert main(["wait", "42", "--timeout", "0.05s"]) == 101
    assert capsys.readouterr().out == "42\tRUNNING\n"


def test_wait_for_a_step_follows_the_step(broker: Peer, capsys: Capture) -> None:
    done = {**answers.STEP_ANSWER, "state": "COMPLETED"}
    broker.answers["GET /v1/steps/42.311"] = [answers.STEP_ANSWER, done]
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 1}
    assert main(["wait", "42.311", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)["items"]
    assert items == [{"workflow": 42, "step": "311", "state": "COMPLETED"}]


def test_watch_in_a_pipe_is_a_line_an_event(broker: Peer, capsys: Capture) -> None:
    ended(broker, "COMPLETED")
    assert main(["watch", "42"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-22T09:38:11Z\t42.311\tnode.notice\tn7: will be taken back in 120 s",
        "2026-11-22T10:40:00Z\t42\tworkflow.state\tCOMPLETED",
    ]


def test_watch_says_once_what_a_gate_wants(broker: Peer, capsys: Capture) -> None:
    gate = {
        **answers.WAITING_STEP,
        "id": "150",
        "reason": "Interactive",
        "reason_text": "Pick particles in Scipion; then `scsched release 42.150`",
    }
    waiting = {**answers.WORKFLOW, "state": "ATTENTION", "steps": [gate]}
    done = {**answers.WORKFLOW, "state": "COMPLETED"}
    broker.answers["GET /v1/workflows/42"] = [waiting, waiting, waiting, done]
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 1}
    assert main(["watch", "42"]) == 0
    assert capsys.readouterr().err.count("release 42.150") == 1


def test_a_broker_that_restarts_is_waited_for(broker: Peer, capsys: Capture) -> None:
    away = (503, {"schema": "scsched/v1", "error": {"code": "unreachable", "message": "away"}})
    done = {**answers.WORKFLOW, "state": "COMPLETED"}
    broker.answers["GET /v1/workflows/42"] = [answers.WORKFLOW, away, done]
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 1}
    assert main(["wait", "42"]) == 0
    assert "trying again" in capsys.readouterr().err


# logs


@pytest.fixture
def printed(broker: Peer, tmp_path: Path) -> Path:
    """The file that step 42.311 prints to."""
    path = tmp_path / "project" / "Runs" / "run.stdout"
    path.parent.mkdir(parents=True)
    paths = {**answers.STEP_ANSWER["paths"], "stdout": str(path)}
    broker.answers["GET /v1/steps/42.311"] = {**answers.STEP_ANSWER, "paths": paths}
    return path


def test_logs_shows_the_last_lines_and_the_last_state_of_a_bar(
    printed: Path, capsys: Capture
) -> None:
    bar = '000/??? sec ~~(,_,">\r   1/   2 sec ....\r   2/   2 sec ........'
    printed.write_text("\n".join([*map(str, range(5000)), "\x1b[31mExpectation\x1b[0m", bar]))
    assert main(["logs", "42.311", "-n", "3"]) == 0
    assert capsys.readouterr().out == "4999\nExpectation\n   2/   2 sec ........\n"


def test_logs_of_a_workflow_are_those_of_the_step_that_runs(printed: Path, capsys: Capture) -> None:
    printed.write_text("hello\n")
    assert main(["logs", "42"]) == 0
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert err == "42.311 Refine3D RUNNING\n"


def test_logs_before_the_first_line_says_why(printed: Path, capsys: Capture) -> None:
    assert main(["logs", "42.311"]) == 102
    assert "scsched why 42.311" in capsys.readouterr().err


def test_logs_follows_until_the_step_ends(
    printed: Path, broker: Peer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scsched.scheduler.cli import tail

    monkeypatch.setattr(tail, "POLL_S", 0.001)
    running = broker.answers["GET /v1/steps/42.311"]
    assert isinstance(running, dict)

    def grow(_: object) -> dict[str, Any]:
        with printed.open("a") as file:
            file.write("more\n")
        return {**running, "state": "COMPLETED"}

    printed.write_text("first\nhalf")
    broker.answers["GET /v1/steps/42.311"] = [running, running, grow]
    assert main(["logs", "42.311", "-f"]) == 0
    assert capsys.readouterr().out.replace("\n", "").replace("first", "") == "halfmore"


def test_logs_never_opens_what_is_no_plain_file(printed: Path, capsys: Capture) -> None:
    import os

    os.mkfifo(printed)
    assert main(["logs", "42.311"]) == 102
    assert "no plain file" in capsys.readouterr().err


# completion


def completed(words: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("_SCSCHED_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])
    return capsys.readouterr().out.split()


def test_completion_offers_live_ids(
    broker: Peer, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed("scsched show 4", capsys, monkeypatch) == ["42", "45", "44"]
    assert completed("scsched why 42.3", capsys, monkeypatch) == ["42.311", "42.377"]


def test_completion_without_a_broker_offers_no_ids_and_no_error(
    state_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed("scsched show l", capsys, monkeypatch) == ["last"]
    assert completed("scsched show 4", capsys, monkeypatch) == []
    assert capsys.readouterr().err == ""
