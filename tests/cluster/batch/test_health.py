"""What `doctor --cloud` says of a batch system."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from scsched.cluster import registry
from scsched.cluster.health import Finding
from scsched.cluster.pools import Pool
from tests.cluster.batch.conftest import pool
from tests.slurm.box import Box

TABLE: Mapping[str, object] = {"kind": "slurm", "python": "/opt/scsched/bin/python"}


def found(table: Mapping[str, object], *pools: Pool) -> list[Finding]:
    examine = registry.optional({"home": table}, "home", "examine")
    return list(examine("home", table, deployment="d", pools=pools))


def test_a_slurm_that_has_our_partitions_is_well(box: Box) -> None:
    findings = found({**TABLE, "conf": str(box.conf)}, pool(), pool("normal"))
    assert all(one.ok for one in findings), findings
    assert [one.name for one in findings] == ["commands", "controller", "partition", "partition"]


def test_a_partition_that_is_down_or_not_there_is_named(box: Box) -> None:
    table = {**TABLE, "conf": str(box.conf)}
    down, missing = [one for one in found(table, pool("down"), pool("missing")) if not one.ok]
    assert down.sentence == "pool down: partition down is DOWN"
    assert "missing" in missing.sentence
    assert down.hint
    assert missing.hint


def test_a_slurm_that_does_not_answer_is_told_and_nothing_else_is_asked(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol"):
        program = programs / name
        program.write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
        program.chmod(0o755)
    commands, controller = found({**TABLE, "commands": str(programs)}, pool())
    assert commands.ok
    assert not controller.ok
    assert "Unable to contact slurm controller" in controller.sentence


@pytest.mark.parametrize(
    ("kind", "program"),
    [("slurm", "sbatch"), ("pbs", "qsub"), ("sge", "qstat"), ("lsf", "bkill"),
     ("htcondor", "condor_submit")],
)  # fmt: skip
def test_commands_that_are_not_here_are_named(
    kind: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    table = {**TABLE, "kind": kind, "unproven": True}
    first, second = found(table, replace(pool(), options={}))
    assert not first.ok
    assert program in first.sentence
    assert second.ok is (kind != "slurm")
