"""Job scripts: their header, and that what they start is what was meant."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scsched.cluster.batch import jobscript, others, submission
from scsched.cluster.batch.jobs import Mark
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.provider import BadRequest, LaunchRequest
from tests.cluster.batch.conftest import pool

Ask = Callable[..., LaunchRequest]


def header(script: str, mark: str = "#SBATCH") -> list[str]:
    return [line for line in script.splitlines() if line.startswith(mark)]


def test_slurms_header_asks_for_what_the_pool_says(site: SiteOptions, ask: Ask) -> None:
    options = {
        "partition": "gpu",
        "time": "24:00:00",
        "account": "em",
        "qos": "low",
        "constraint": "a100&ib",
        "exclusive": True,
        "directives": ["--mail-type=NONE"],
    }
    of = pool("gpu", cores=16, memory_gib=120.5, gpus=4, options=options)
    script = submission.script(site, [ask(place=k, pool=of) for k in range(3)], 30.0)
    assert header(script) == [
        "#SBATCH -J n1_0",
        "#SBATCH -p gpu",
        "#SBATCH -A em",
        "#SBATCH --cpus-per-task=16",
        "#SBATCH --mem=121G",
        "#SBATCH -t 24:00:00",
        "#SBATCH --nodes=3",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --qos=low",
        "#SBATCH --constraint=a100&ib",
        "#SBATCH --gres=gpu:4",
        "#SBATCH --exclusive",
        "#SBATCH --mail-type=NONE",
    ]
    assert script.startswith("#!/bin/sh\n")
    assert "for place in 0 1 2; do" in script


def test_a_plain_pool_leaves_the_rest_to_the_partition(site: SiteOptions, ask: Ask) -> None:
    script = submission.script(site, [ask()], 0.0)
    assert not [line for line in header(script) if "-t " in line or "-A" in line or "gres" in line]
    assert "dask" not in script.replace("SCSCHED", "")


def test_the_script_is_valid_sh_and_carries_any_text(tmp_path: Path) -> None:
    said = 'it\'s "$HOME" `x` \\ %s {}\nsecond line'
    command = jobscript.slurm_command(f"printf '%s' {said!r}", places=[0, 1], cores=1)
    for shell in ("dash", "bash"):
        done = subprocess.run(
            [shell, "-n"], input=command, text=True, capture_output=True, timeout=10, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "setsid").write_text('#!/bin/sh\n[ "$SCSCHED_INDEX" = 1 ] && env >&2\n')
    (tmp_path / "squeue").write_text("#!/bin/sh\n")
    for name in ("setsid", "squeue"):
        (tmp_path / name).chmod(0o755)
    text = jobscript.slurm_command(said, places=[0, 1], cores=1, log=f"{tmp_path}/p")
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    subprocess.run(["sh"], input=text, text=True, env=environ, timeout=20, check=True)
    out = (tmp_path / "p-5.log").read_text()
    assert f"SCSCHED_BOOTSTRAP={said}\n" in out
    assert f"SCSCHED_OUT={tmp_path}/p-5-1.log" in out


def test_a_job_that_the_site_started_again_leaves_at_once() -> None:
    text = jobscript.slurm_command("exit 0", places=[0], cores=1)
    environ = {"PATH": "/nonexistent", "SLURM_RESTART_COUNT": "1"}
    done = subprocess.run(["/bin/sh"], input=text, text=True, env=environ, timeout=10, check=False)
    assert done.returncode == 75


def test_the_command_has_the_gangs_identity_and_no_secret(site: SiteOptions, ask: Ask) -> None:
    mark = Mark(deployment="d", gang="abc", places=(0, 1), pool="spot")
    argv = submission.sbatch(site, mark, "n7")
    assert f"--comment={mark}" in argv
    assert "--job-name=n7.d.abc_0_1" in argv
    assert "--dependency=singleton" in argv
    assert "--no-requeue" in argv
    assert not any(ask().ticket in word for word in argv)


@pytest.mark.parametrize("deployment", ["a b", "a.b", "a\nb"])
def test_a_deployment_that_would_break_the_mark_is_refused(
    site: SiteOptions, ask: Ask, deployment: str
) -> None:
    with pytest.raises(BadRequest, match="deployment"):
        submission.script(site, [ask(deployment=deployment)], 0.0)


def test_part_of_a_gang_keeps_its_places(site: SiteOptions, ask: Ask) -> None:
    assert "for place in 1 3; do" in submission.script(site, [ask(place=1), ask(place=3)], 0.0)
    with pytest.raises(BadRequest):
        submission.script(site, [ask(place=3), ask(place=1)], 0.0)


EXPECTED = {
    "pbs": [
        "#PBS -N scsched.spot.d.{token}",
        "#PBS -q long",
        "#PBS -A em",
        "#PBS -l select=1:ncpus=1:mem=1024MB",
        "#PBS -l walltime=24:00:00",
        "#PBS -r n",
        "#PBS -j oe",
        "#PBS -o /dev/null",
        "#PBS -W x=y",
    ],
    "sge": [
        "#$ -N scsched.spot.d.{token}",
        "#$ -q long",
        "#$ -P em",
        "#$ -l h_rt=24:00:00",
        "#$ -cwd",
        "#$ -j y",
        "#$ -r n",
        "#$ -o /dev/null",
        "#$ -W x=y",
    ],
    "lsf": [
        "#BSUB -J scsched.spot.d.{token}",
        "#BSUB -q long",
        '#BSUB -P "em"',
        "#BSUB -n 1",
        "#BSUB -M 1073742",
        "#BSUB -W 24:00:00",
        "#BSUB -rn",
        "#BSUB -o /dev/null",
        "#BSUB -W x=y",
    ],
}
LONG = {"partition": "long", "time": "24:00:00", "account": "em", "directives": ["-W x=y"]}


@pytest.mark.parametrize("kind", sorted(EXPECTED))
def test_the_others_spell_the_same_request_their_way(
    site: SiteOptions, ask: Ask, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LSF_ENVDIR", raising=False)
    provider = others.BatchProvider(replace(site, kind=kind), "d", [])
    request = ask(pool=pool(options=LONG), deployment="d")
    script = provider.script(request)
    assert header(script, ("#PBS", "#$ ", "#BSUB")) == [  # type: ignore[arg-type]
        line.format(token=request.token) for line in EXPECTED[kind]
    ]
    assert script.rstrip().endswith("main")
    checked = subprocess.run(
        ["sh", "-n"], input=script, text=True, capture_output=True, timeout=10, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_htcondor_gets_a_submit_file_of_plain_lines(site: SiteOptions, ask: Ask) -> None:
    provider = others.BatchProvider(replace(site, kind="htcondor"), "d", [])
    options = {"account": "em", "directives": ["+WantX = True"]}
    request = ask(pool=pool(cores=4, options=options), deployment="d")
    lines = dict(
        line.split(" = ", 1) for line in provider.script(request).splitlines() if " = " in line
    )
    assert lines["MY.ScschedName"] == f'"scsched.spot.d.{request.token}"'
    assert lines["MY.DaskWorkerCores"] == "4"
    assert lines["accounting_group"] == "em"
    assert lines["+WantX"] == "True"
    assert lines["Executable"] == "/bin/sh"
    encoded = lines["environment"].strip('"').removeprefix("SCSCHED_BOOTSTRAP=")
    shown = subprocess.run(
        ["sh", "-c", 'echo "$(echo $SCSCHED_BOOTSTRAP | base64 -d)"'],
        env={"SCSCHED_BOOTSTRAP": encoded, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    assert shown.stdout.startswith("#!/bin/sh\n")
    assert shown.stdout.endswith("main\n")
