"""PBS, SGE, LSF and HTCondor with scripted commands that answer as these systems do."""

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scsched.cluster.batch import listings, others
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    ProviderError,
    QuotaExceeded,
    Refused,
    Unreachable,
)

Ask = Callable[..., LaunchRequest]
PBS = """{"timestamp": 1, "pbs_version": "22.05.11", "Jobs": {
 "41.pbs": {"Job_Name": "NAME1", "Job_Owner": "u@h", "job_state": "Q", "queue": "long"},
 "42.pbs": {"Job_Name": "NAME2", "Job_Owner": "u@h", "job_state": "R", "queue": "long"},
 "43.pbs": {"Job_Name": "NAME3", "Job_Owner": "u@h", "job_state": "F", "queue": "long"},
 "44.pbs": {"Job_Name": "STDIN", "Job_Owner": "v@h", "job_state": "E", "queue": "long"}}}"""
SGE = """<?xml version='1.0'?>
<job_info  xmlns:xsd="http://example.invalid/qstat.xsd">
  <queue_info>
    <job_list state="running"><JB_job_number>42</JB_job_number><JB_name>NAME2</JB_name>
      <JB_owner>u</JB_owner><state>r</state><queue_name>long@h</queue_name></job_list>
    <job_list state="running"><JB_job_number>45</JB_job_number><JB_name>NAME4</JB_name>
      <JB_owner>u</JB_owner><state>dr</state><queue_name>long@h</queue_name></job_list>
  </queue_info>
  <job_info>
    <job_list state="pending"><JB_job_number>41</JB_job_number><JB_name>NAME1</JB_name>
      <JB_owner>u</JB_owner><state>qw</state><queue_name></queue_name></job_list>
  </job_info>
</job_info>"""
LSF = """{"COMMAND":"bjobs","JOBS":4,"RECORDS":[
 {"JOBID":"41","STAT":"PEND","USER":"u","QUEUE":"long","JOB_NAME":"NAME1"},
 {"JOBID":"42","STAT":"RUN","USER":"u","QUEUE":"long","JOB_NAME":"NAME2"},
 {"JOBID":"43","STAT":"EXIT","USER":"u","QUEUE":"long","JOB_NAME":"NAME3"},
 {"JOBID":"45","STAT":"SSUSP","USER":"u","QUEUE":"long","JOB_NAME":"NAME4"}]}"""
HTCONDOR = """[
{"ClusterId": 41, "ProcId": 0, "JobStatus": 1, "Owner": "u", "ScschedName": "NAME1"},
{"ClusterId": 42, "ProcId": 0, "JobStatus": 2, "Owner": "u", "ScschedName": "NAME2",
 "JobCurrentStartDate": 1760000000},
{"ClusterId": 45, "ProcId": 0, "JobStatus": 5, "Owner": "u", "ScschedName": "NAME4"},
{"ClusterId": 46, "ProcId": 0, "JobStatus": 2, "Owner": "v"}]"""
P, R, S, T = NodeState.PENDING, NodeState.RUNNING, NodeState.STOPPING, NodeState.TERMINATED


@pytest.mark.parametrize(
    ("read", "said", "states"),
    [
        (listings.pbs, PBS, {"NAME1": P, "NAME2": R, "NAME3": T, "STDIN": S}),
        (listings.sge, SGE, {"NAME1": P, "NAME2": R, "NAME4": S}),
        (listings.lsf, LSF, {"NAME1": P, "NAME2": R, "NAME3": T, "NAME4": S}),
        (listings.htcondor, HTCONDOR, {"NAME1": P, "NAME2": R, "NAME4": S, "": R}),
    ],
)
def test_recorded_answers_are_read(
    read: Callable[[str], object], said: str, states: dict[str, NodeState]
) -> None:
    assert {job.name: job.state for job in read(said)} == states  # type: ignore[attr-defined]


@pytest.mark.parametrize("read", [listings.pbs, listings.sge, listings.lsf, listings.htcondor])
def test_an_answer_that_is_none_says_nothing_of_any_node(read: Callable[[str], object]) -> None:
    with pytest.raises(Unreachable):
        list(read("<html>busy</html"))  # type: ignore[call-overload]


def test_no_jobs_at_all_are_no_jobs() -> None:
    assert not list(listings.htcondor(""))
    assert not list(listings.pbs('{"timestamp": 1}'))


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("qsub: Unknown queue", BadRequest),
        ("qsub: would exceed queue generic's per-user limit", QuotaExceeded),
        ("bsub: User permission denied. Job not submitted.", Credentials),
        ("Cannot connect to the server: connection refused", Unreachable),
        ("qsub: a word that nobody knows", Unreachable),
    ],
)
def test_what_they_say_has_a_meaning(
    said: str, meaning: type[ProviderError], site: SiteOptions, ask: Ask, tmp_path: Path
) -> None:
    provider = scripted(
        site, tmp_path, {"qstat": "echo '{}'", "qsub": f"echo {shlex.quote(said)} >&2; exit 1"}
    )
    (answer,) = provider.launch([ask(deployment="d")])
    assert isinstance(answer, Refused)
    assert type(answer.error) is meaning


def test_a_node_is_launched_once_listed_and_ended(
    site: SiteOptions, ask: Ask, tmp_path: Path
) -> None:
    keep = "import re,sys;from pathlib import Path;p=Path(sys.argv[1])"
    (tmp_path / "qsub.py").write_text(
        f"{keep};p.write_text(re.search('-N (.*)',sys.stdin.read()).group(1));print('41.pbs')"
    )
    jobs = '{"Jobs":{"41.pbs":{"Job_Name":"%s","job_state":"R","Job_Owner":"u@h"}}}'
    provider = scripted(
        site,
        tmp_path,
        {
            "qsub": f"exec {sys.executable} {tmp_path}/qsub.py {tmp_path}/name",
            "qstat": f"[ -f {tmp_path}/name ] || {{ echo '{{}}'; exit; }}\n"
            f"printf '{jobs}' \"$(cat {tmp_path}/name)\"",
            "qdel": f'echo "$1" >>{tmp_path}/ended; echo "qdel: Unknown Job Id $1" >&2; exit 1',
        },
    )
    request = ask(deployment="d")
    assert provider.launch([request]) == (Launched(request.token, "41.pbs"),)
    assert re.fullmatch(r"scsched\.spot\.d\.\d+x1-0", (tmp_path / "name").read_text())
    (node,) = provider.list()
    assert (node.token, node.state, node.pool) == (request.token, NodeState.RUNNING, "spot")
    assert provider.launch([request]) == (Launched(request.token, "41.pbs"),)
    full = provider.launch([ask(2, deployment="d", pool=replace(request.pool, max_nodes=1))])
    assert isinstance(full[0], Refused)
    assert isinstance(full[0].error, NoCapacity)
    provider.terminate([request.token, "never-0"])
    assert (tmp_path / "ended").read_text() == "41.pbs\n"


def test_gangs_of_several_and_other_deployments_are_refused(
    site: SiteOptions, ask: Ask, tmp_path: Path
) -> None:
    provider = scripted(site, tmp_path, {"qstat": "echo '{}'", "qsub": "echo 41.pbs"})
    gang = [ask(place=0, deployment="d"), ask(place=1, deployment="d")]
    for requests in (gang, [ask(deployment="other")]):
        for answer in provider.launch(requests):
            assert isinstance(answer, Refused)
            assert isinstance(answer.error, BadRequest)


def scripted(site: SiteOptions, folder: Path, programs: dict[str, str]) -> others.BatchProvider:
    commands = folder / "commands"
    commands.mkdir()
    for name, body in programs.items():
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    options = replace(site, kind="pbs", commands=str(commands))
    return others.BatchProvider(options, "d", [])
