"""pools, audit, cloud policy and image, doctor --cloud: what they print, and their exit codes."""

import json
from pathlib import Path

import pytest

from scsched.scheduler.cli.main import main
from tests.scheduler.cli import answers
from tests.scheduler.cli.peer import Peer

Capture = pytest.CaptureFixture[str]
CONFIG = """
state_dir = "{folder}/state"

[scipion]
python = "/opt/scsched/.scipion/venv/bin/python"

[provider.aws]
kind = "ec2"
region = "eu-west-1"
image = "ami-0123456789abcdef0"
python = "/opt/scsched/.venv/bin/python"
security_groups = ["sg-0123456789abcdef0"]
subnets = {{ eu-west-1a = "subnet-0123456789abcdef0" }}

[storage.shared]
path = "/shared"

[[pool]]
name = "spot"
provider = "aws"
market = "spot"
types = ["c6i.8xlarge"]
zones = ["eu-west-1a"]
storage = "shared"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("boto3", reason="scsched[aws] is not installed")
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(folder=tmp_path))
    monkeypatch.setenv("SCSCHED_CONFIG", str(path))
    monkeypatch.delenv("SCSCHED_SCIPION_PYTHON", raising=False)
    return path


def test_pools_say_what_they_have_and_why_one_is_held(broker: Peer, capsys: Capture) -> None:
    held = {**answers.POOL, "held": "no capacity for c6i.large until 10:00"}
    broker.answers["GET /v1/nodes"] = {**answers.NODES, "pools": [held]}
    assert main(["pools", "-o", "pool,types,zones,held"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading == "pool\ttypes\tzones\theld"
    assert row.split("\t")[1:] == [
        "g5.4xlarge,g4dn.4xlarge",
        "eu-west-1a",
        "no capacity for c6i.large until 10:00",
    ]


def test_an_audit_with_a_difference_is_exit_106_and_names_it(broker: Peer, capsys: Capture) -> None:
    broker.answers["POST /v1/audit"] = answers.AUDIT
    assert main(["audit"]) == 106
    out, err = capsys.readouterr()
    assert "i-0123456789abcdef0 runs and no record knows it" in out
    assert "2 nodes up, 3.220 $/h and 1 of unknown price; 1 difference" in err
    assert broker.asked[-1].body == {"fix": False}


def test_an_audit_that_mended_all_is_exit_0(broker: Peer, capsys: Capture) -> None:
    items = [{**item, "fixed": True} for item in answers.AUDIT["items"]]
    broker.answers["POST /v1/audit"] = {**answers.AUDIT, "items": items}
    assert main(["audit", "--fix", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == items
    assert broker.asked[-1].body == {"fix": True}


def test_the_policy_lets_the_broker_end_only_its_own(config: Path, capsys: Capture) -> None:
    assert main(["cloud", "policy", "--account", "123456789012"]) == 0
    found = json.loads(capsys.readouterr().out)
    (ending,) = [one for one in found["Statement"] if "ec2:TerminateInstances" in one["Action"]]
    assert "scsched:deployment" in json.dumps(ending["Condition"])
    assert "123456789012" in json.dumps(ending["Resource"])


def test_a_policy_before_the_database_says_what_its_placeholder_is(
    config: Path, capsys: Capture
) -> None:
    assert main(["cloud", "policy"]) == 0
    out, err = capsys.readouterr()
    assert '"DEPLOYMENT"' in out
    assert "scsched db upgrade" in err
    assert "ACCOUNT stands for your account's number; to have it: --account 1234" in err
    assert main(["db", "upgrade"]) == 0
    capsys.readouterr()
    assert main(["cloud", "policy", "--account", "123456789012"]) == 0
    out, err = capsys.readouterr()
    assert "DEPLOYMENT" not in out
    assert err == ""


@pytest.mark.parametrize(
    ("verb", "instead"), [("policy", "only EC2 has one"), ("image", "install scsched where")]
)
def test_what_a_batch_system_has_not_is_said_with_what_to_do(
    config: Path, capsys: Capture, verb: str, instead: str
) -> None:
    table = '[provider.home]\nkind = "slurm"\npython = "/opt/scsched/bin/python"\n'
    config.write_text(config.read_text() + table)
    assert main(["cloud", verb, "home"]) == 2
    err = capsys.readouterr().err
    assert "provider.home: kind slurm has no" in err
    assert instead in err


def test_the_image_recipe_is_a_script(config: Path, capsys: Capture) -> None:
    assert main(["cloud", "image", "aws"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#!/bin/sh")
    assert "environment=/opt/scsched/.venv\nscipion=/opt/scsched/.scipion\n" in out


def test_an_image_without_a_place_for_scipion_is_refused(config: Path, capsys: Capture) -> None:
    table = '[scipion]\npython = "/opt/scsched/.scipion/venv/bin/python"\n'
    config.write_text(config.read_text().replace(table, ""))
    assert main(["cloud", "image", "aws"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "scipion.python is not set" in err


def test_a_provider_that_is_not_there_is_named(config: Path, capsys: Capture) -> None:
    assert main(["cloud", "policy", "moon"]) == 2
    assert "moon: not a provider of this site; known: aws" in capsys.readouterr().err


def test_without_a_provider_there_is_no_cloud_to_examine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'state_dir = "{tmp_path}"\n')
    monkeypatch.setenv("SCSCHED_CONFIG", str(path))
    for argv in (["doctor", "--cloud"], ["cloud", "policy"], ["cloud", "image", "aws"]):
        assert main(argv) == 3
        assert "the configuration has no [provider.NAME]: see" in capsys.readouterr().err


def test_doctor_looks_at_this_host_and_at_every_kind_of_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("dask_jobqueue", reason="scsched[batch] is not installed")
    path = tmp_path / "config.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n'
        f'[provider.home]\nkind = "slurm"\npython = "/p"\ncommands = "{tmp_path}"\n'
        f'[storage.shared]\npath = "{tmp_path}"\nmin_free_gib = 0\n'
        '[[pool]]\nname = "a"\nprovider = "home"\npartition = "normal"\nstorage = "shared"\n'
        "cores = 1\nmemory_gib = 1\n"
    )
    monkeypatch.setenv("SCSCHED_CONFIG", str(path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--cloud"]) == 3
    rows = [row.split("\t") for row in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[1:]] == [
        ["this host's address", "fail"],
        ["this host's free space", "ok"],
        ["this host's storage", "ok"],
        ["home slurm", "fail"],
    ]
