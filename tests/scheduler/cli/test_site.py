"""The verbs that need no broker: inspect, doctor, config, db, ckpt on files of the user."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scsched.scheduler.cli import schema
from scsched.scheduler.cli.main import main
from scsched.scheduler.cli.misfit import misfit
from tests.relion_data import CLASS_2D, Particles, make_project, needs_relion, run
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer
from tests.scheduler.cli.test_budget import BANNED, imported

Capture = pytest.CaptureFixture[str]

IMPORT = {
    "object.className": "ProtImportParticles",
    "object.id": "2",
    "object.label": "Particles",
}
CLASSIFY = {
    "object.className": "ProtRelionClassify2D",
    "object.id": "3",
    "object.label": "2D classes\u202e",
    "inputParticles": "2.outputParticles",
    "numberOfClasses": 4,
    "numberOfIterations": 5,
    "numberOfMpi": 3,
}


@pytest.fixture
def document(tmp_path: Path, state_dir: Path) -> Path:
    path = tmp_path / "w.json"
    path.write_text(json.dumps([CLASSIFY, IMPORT]))
    return path


def test_inspect_lists_the_steps_in_an_order_that_works(document: Path, capsys: Capture) -> None:
    assert main(["inspect", str(document)]) == 0
    out, err = capsys.readouterr()
    heading, first, second = [line.split("\t") for line in out.splitlines()]
    assert heading[:3] == ["id", "label", "protocol"]
    assert first[:3] == ["2", "Particles", "ProtImportParticles"]
    assert second[:3] == ["3", "2D classes", "ProtRelionClassify2D"]
    assert err.endswith("2 steps, 1 edge, 0 gates, 0 warnings\n")


def test_inspect_json_has_its_shape(document: Path, capsys: Capture) -> None:
    assert main(["inspect", str(document), "--json"]) == 0
    assert misfit(json.loads(capsys.readouterr().out), schema.Inspected) == []


def test_inspect_refuses_with_65_and_the_place(document: Path, capsys: Capture) -> None:
    document.write_text(json.dumps([IMPORT, {**IMPORT, "object.className": "ProtNoSuch"}]))
    assert main(["inspect", str(document)]) == 65
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scsched: w.json: $[1]")
    assert err.count("\n") == 1
    assert main(["inspect", str(document), "--json"]) == 65
    assert misfit(json.loads(capsys.readouterr().err), schema.Refused) == []


def test_inspect_takes_an_unknown_class_with_map(document: Path, capsys: Capture) -> None:
    document.write_text(json.dumps([{**IMPORT, "object.className": "ProtNoSuch"}]))
    assert main(["inspect", str(document)]) == 65
    assert main(["inspect", str(document), "--map", "ProtNoSuch=cpu-bound"]) == 0
    assert "cpu-bound" in capsys.readouterr().out


def test_a_protocol_class_of_the_site_is_known_to_inspect(
    document: Path, state_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = state_dir / "site.toml"
    config.write_text('[classes.ProtNoSuch]\nclass = "gpu-bound"\n')
    monkeypatch.setenv("SCSCHED_CONFIG", str(config))
    document.write_text(json.dumps([{**IMPORT, "object.className": "ProtNoSuch"}]))
    assert main(["inspect", str(document)]) == 0
    assert "gpu-bound" in capsys.readouterr().out


def test_inspect_imports_nothing_heavy(document: Path) -> None:
    assert imported(["inspect", str(document)]) & set(BANNED) == set()


def test_config_show_without_a_broker_says_what_one_would_read(
    state_dir: Path, capsys: Capture
) -> None:
    assert main(["config", "show", "-h", "--origin"]) == 0
    out, err = capsys.readouterr()
    assert "times.tick_s\t0.5\tdefault\n" in out
    assert "no broker answers" in err


def test_a_wrong_configuration_is_exit_3(
    state_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state_dir / "c.toml").write_text("times = { tick_s = -1 }\n")
    monkeypatch.setenv("SCSCHED_CONFIG", str(state_dir / "c.toml"))
    assert main(["config", "show"]) == 3
    err = capsys.readouterr().err
    assert "times.tick_s" in err
    assert err.count("\n") == 1


def test_the_database_is_made_checked_and_its_revision_told(state_dir: Path) -> None:
    """In processes of their own: alembic keeps the stdout that it was imported under."""

    def db(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scsched.scheduler.cli.main", "db", *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    before = db("check")
    assert before.returncode == 3
    assert before.stderr == "scsched: the database has no tables yet: run scsched db upgrade\n"
    assert db("revision").stdout == "-\n"
    assert db("upgrade").returncode == 0
    assert db("check").returncode == 0
    said = json.loads(db("revision", "--json").stdout)
    assert said["revision"] == said["head"]
    assert misfit(said, schema.Revision) == []


def test_doctor_fails_with_a_fix_where_scipion_is_missing(
    state_dir: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCSCHED_SCIPION_PYTHON", raising=False)
    assert main(["doctor", "--project", str(state_dir)]) == 3
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    scipion = next(row for row in rows if row[0] == "scipion")
    assert scipion[1] == "fail"
    assert "scsched setup scipion" in scipion[3]


def test_scipion_is_not_set_up_where_nothing_can_be_made(state_dir: Path, capsys: Capture) -> None:
    assert main(["setup", "scipion", "/proc/x"]) == 3
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("scsched: /proc/x: cannot be made or written: ")
    assert err.endswith("name a folder of yours: scsched setup scipion DIR")


def test_ckpt_names_what_is_torn_and_exits_106_with_nothing_to_go_on_from(
    broker: Peer, state_dir: Path, capsys: Capture
) -> None:
    job = state_dir / "Runs" / "000311_Refine"
    (job / "extra").mkdir(parents=True)
    (job / "extra" / "relion_it003_optimiser.star").write_text("data_optimiser_general\n")
    paths = {**answers.STEP_ANSWER["paths"], "project": str(state_dir), "job_dir": str(job)}
    broker.answers["GET /v1/steps/42.311"] = {**answers.STEP_ANSWER, "paths": paths}
    assert main(["ckpt", "list", "42.311", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert misfit(listed, schema.Checkpoints) == []
    assert listed["items"][0]["certified"] is None
    assert main(["ckpt", "verify", "42.311"]) == 106
    out, err = capsys.readouterr()
    assert "NO" in out
    assert "nothing to go on from" in err


@pytest.mark.relion
@needs_relion
def test_ckpt_certifies_real_iterations_and_falls_back_behind_a_torn_one(
    broker: Peer, tmp_path: Path, capsys: Capture
) -> None:
    project = make_project(tmp_path / "project", Particles(n=40))
    job = project / "Runs" / "000311_Class2D"
    (job / "extra").mkdir(parents=True)
    out = str((job / "extra" / "relion").relative_to(project))
    options = ("--i", "particles.star", "--o", out, "--iter", "2", "--K", "1", "--j", "1")
    run(project, "relion_refine", *options, *CLASS_2D)
    (job / "extra" / "relion_it002_data.star").write_text("data_particles\n")
    paths = {**answers.STEP_ANSWER["paths"], "project": str(project), "job_dir": str(job)}
    broker.answers["GET /v1/steps/42.311"] = {**answers.STEP_ANSWER, "paths": paths}
    assert main(["ckpt", "verify", "42.311", "--json"]) == 0
    said, err = capsys.readouterr()
    rows = json.loads(said)["items"]
    assert [(row["iteration"], row["certified"]) for row in rows] == [(2, False), (1, True)]
    assert "relion_it002_data.star" in rows[0]["why"]
    assert rows[1]["particles"] == 40
    assert err == "the step can go on from iteration 1\n"
