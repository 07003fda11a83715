"""Real commands against a real `scsched serve`, over workflows that nothing can start."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from scsched.scheduler.cli import schema
from scsched.scheduler.cli.misfit import misfit
from tests.scheduler.served import DOCUMENT, Daemon, Json, daemons

CONFIG = """
[scipion]
python = "/opt/scipion/bin/python"

[[pool]]
name = "local"
max_nodes = 2
cores = 1
memory_gib = 4.0
usd_per_hour = 0.5

[[pool]]
name = "service"
service = true
"""


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    with daemons(CONFIG) as found:
        (found.state_dir / "w.json").write_text(DOCUMENT)
        found.start()
        yield found


@pytest.fixture
def workflow(served: Daemon) -> str:
    """A workflow that is held."""
    return submit(served, "--hold")


@pytest.fixture(scope="module")
def held(served: Daemon) -> str:
    """A held workflow that tests only look at."""
    return submit(served, "--hold")


def submit(served: Daemon, *options: str) -> str:
    done = served.scsched("submit", str(served.state_dir / "w.json"), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def states(served: Daemon, workflow: str) -> dict[str, str]:
    return {one["id"]: one["state"] for one in served.json("show", workflow)["steps"]}


def test_a_held_workflow_is_in_the_queue_with_its_reason(served: Daemon, held: str) -> None:
    done = served.scsched("queue")
    (line,) = [x for x in done.stdout.splitlines() if x.split("\t")[0] == held]
    assert "HELD" in line
    assert "JobHeldUser" in line or "scsched release" in line
    why = served.scsched("why", f"{held}.2")
    assert f"scsched release {held}" in why.stdout


@pytest.mark.parametrize(
    ("argv", "shape"),
    [
        (["queue"], schema.WorkflowsAnswer),
        (["show", "{}"], schema.WorkflowAnswer),
        (["show", "{}.3"], schema.StepAnswer),
        (["why", "{}"], schema.Explanations),
        (["why", "{}.3"], schema.Explanations),
        (["hist"], schema.HistAnswer),
        (["nodes"], schema.NodesAnswer),
        (["receipt", "{}"], schema.ReceiptAnswer),
        (["config", "show"], schema.ConfigAnswer),
    ],
)
def test_json_has_the_shape_of_v1(
    served: Daemon, held: str, argv: list[str], shape: object
) -> None:
    found = served.json(*(word.format(held) for word in argv))
    assert misfit(found, shape) == []


def test_steering_by_hand(served: Daemon, workflow: str) -> None:
    assert served.scsched("release", f"{workflow}.4").returncode == 0
    assert served.scsched("hold", f"{workflow}.3").returncode == 0
    assert served.scsched("hold", f"{workflow}.3").returncode == 0
    moved = served.json("cancel", f"{workflow}.3", "--reason", "not needed")
    assert misfit(moved, schema.ActionsAnswer) == []
    assert [(one["step"], one["now"]) for one in moved["items"]] == [("3", "CANCELLED")]
    assert states(served, workflow) == {"2": "PENDING", "3": "CANCELLED", "4": "PENDING"}
    assert served.scsched("resubmit", f"{workflow}.3").returncode == 0
    assert states(served, workflow)["3"] == "PENDING"
    assert "cancel: not needed" in served.scsched("show", f"{workflow}.3").stdout + json.dumps(
        served.json("show", f"{workflow}.3")
    )


def test_a_cancelled_workflow_ends_with_103(served: Daemon, workflow: str) -> None:
    assert served.scsched("cancel", workflow).returncode == 0
    done = served.scsched("wait", workflow)
    assert done.returncode == 103
    assert set(states(served, workflow).values()) == {"CANCELLED"}
    ends = served.json("wait", workflow, code=103)
    assert misfit(ends, schema.Ends) == []
    assert workflow not in [str(one["id"]) for one in served.json("queue")["items"]]


def test_waiting_in_vain_ends_with_101(served: Daemon, held: str) -> None:
    done = served.scsched("wait", held, "--timeout", "1")
    assert done.returncode == 101


def test_what_is_not_there_ends_with_102(served: Daemon) -> None:
    for argv in (["show", "9999"], ["cancel", "9999"], ["receipt", "9999"], ["show", "1.999"]):
        done = served.scsched(*argv)
        assert done.returncode == 102, (argv, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as somebody else")
def test_the_workflow_of_another_user_ends_with_107(served: Daemon, workflow: str) -> None:
    for argv in (["show", workflow], ["cancel", workflow], ["receipt", workflow]):
        done = _as_other(served, *argv)
        assert done.returncode == 107, (argv, done.stderr)
        assert "belongs to" in done.stderr
    assert set(states(served, workflow).values()) == {"PENDING"}


def _as_other(served: Daemon, *argv: str) -> subprocess.CompletedProcess[str]:
    environ = served.environ
    served.environ = {"SCSCHED_SOCKET": str(served.socket), "SCSCHED_CONFIG": ""}
    try:
        return served.scsched(*argv, uid=1)
    finally:
        served.environ = environ


def test_a_broken_file_ends_with_65_and_says_where(served: Daemon) -> None:
    path = served.state_dir / "broken.json"
    path.write_text(DOCUMENT.replace("2.outputParticles", "77.outputParticles"))
    done = served.scsched("submit", str(path))
    assert done.returncode == 65
    assert "$[1].inputParticles" in done.stderr
    refused = served.scsched("submit", str(path), "--json")
    assert misfit(json.loads(refused.stderr), schema.Refused) == []


def test_a_dry_run_shows_the_plan_and_takes_nothing(served: Daemon) -> None:
    before = served.json("queue", "--all")["items"]
    plan = served.json("submit", str(served.state_dir / "w.json"), "--dry-run")
    assert misfit(plan, schema.SubmitAnswer) == []
    assert plan["id"] is None
    assert {line["step"]: line["nodes"] for line in plan["plan"]} == {"2": 1, "3": 2, "4": 1}
    assert served.json("queue", "--all")["items"] == before


def test_the_same_key_is_submitted_once(served: Daemon) -> None:
    assert submit(served, "--hold", "--key", "k") == submit(served, "--hold", "--key", "k")


def test_tags_ranges_and_last_are_selectors(served: Daemon) -> None:
    first = submit(served, "--hold", "--tag", "owner=bo")
    second = submit(served, "--hold")

    def shown(selector: str) -> Json:
        return served.json("cancel", selector, "-y")

    assert {one["workflow"] for one in shown("@bo")["items"]} == {int(first)}
    assert {one["workflow"] for one in shown("last")["items"]} == {int(second)}
    assert shown(f"{first}-{second}")["items"] == []


def test_without_a_broker_commands_end_with_75_and_say_how_to_start_it() -> None:
    with daemons() as nobody:
        for argv in (["queue"], ["submit", "/nothing.json"], ["cancel", "1"]):
            done = nobody.scsched(*argv)
            if argv[0] != "submit":
                assert done.returncode == 75, (argv, done.stderr)
                assert "scsched serve" in done.stderr
