"""The Slurm provider on a real Slurm, beyond what the contract asks of every provider."""

import asyncio
import os
import pwd
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scsched.cluster import provider, tls
from scsched.cluster.batch.slurm import SlurmProvider
from scsched.cluster.dask_cluster import DaskCluster, start_scheduler
from scsched.cluster.enrol import Desk
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Owner,
    Refused,
    Unreachable,
)
from tests.cluster.batch.bench import job_of, launched, preempt, reach, refusal, runs, seen
from tests.cluster.batch.conftest import POOLS
from tests.cluster.bench import until
from tests.slurm.box import Box, wait_until

Ask = Callable[..., LaunchRequest]
SPOT, NORMAL, DOWN, MISSING, SHORT = POOLS


async def in_thread(call: Callable[..., object], *args: object) -> None:
    await asyncio.to_thread(call, *args)


def test_a_gang_is_one_allocation_whose_nodes_enrol_and_end_one_by_one(
    provider: SlurmProvider, ask: Ask, box: Box, tmp_path: Path
) -> None:
    async def scenario(cluster: DaskCluster, gang: list[LaunchRequest]) -> None:
        ids = launched(provider, *gang)
        assert len({job_of(found) for found in ids}) == 1
        await until(lambda: set(cluster.nodes_up()) == {"n1_0", "n1_1"}, 60.0)
        await in_thread(provider.terminate, [gang[1].token])
        assert seen(provider, gang[1]).state in (NodeState.STOPPING, NodeState.TERMINATED)
        await until(lambda: set(cluster.nodes_up()) == {"n1_0"}, 60.0)
        await in_thread(reach, provider, gang[1], NodeState.TERMINATED)
        assert seen(provider, gang[0]).state is NodeState.RUNNING
        await in_thread(provider.terminate, [gang[0].token])
        await in_thread(reach, provider, gang[0], NodeState.TERMINATED)
        assert not box.run("squeue", "--noheader")

    on_desk(scenario, [ask(1, 0), ask(1, 1)], tmp_path)


def test_preemption_is_a_notice_first_and_spot_then(
    provider: SlurmProvider, ask: Ask, box: Box, tmp_path: Path
) -> None:
    notices: list[dict[str, object]] = []

    async def scenario(cluster: DaskCluster, gang: list[LaunchRequest]) -> None:
        cluster.on_notice(notices.append)
        launched(provider, *gang)
        await until(lambda: "n1_0" in cluster.nodes_up(), 60.0)
        assert not provider.notices()
        preempt(box)
        await until(lambda: notices, 60.0)
        assert "n1_0" in cluster.nodes_up()
        await until(provider.notices)
        (heard,) = provider.notices()
        assert heard.token == gang[0].token
        assert abs(heard.deadline - datetime.now(UTC)) < timedelta(seconds=30)
        await in_thread(reach, provider, gang[0], NodeState.TERMINATED)

    on_desk(scenario, [ask()], tmp_path)
    assert notices[0]["node"] == "n1_0"
    assert seen(provider, ask()).reason == "spot"
    assert seen(provider, ask()).ended_at is not None
    assert isinstance(refusal(provider, ask()).error, BadRequest)


def test_what_a_gang_lacks_is_launched_beside_it(
    provider: SlurmProvider, ask: Ask, box: Box
) -> None:
    (first,) = launched(provider, ask(1, 0))
    both = launched(provider, ask(1, 0), ask(1, 1))
    assert both[0] == first
    assert job_of(both[1]) != job_of(first)
    for place in (0, 1):
        reach(provider, ask(1, place), NodeState.RUNNING)
    full = provider.launch([ask(1, 0), ask(1, 2)])
    assert isinstance(full[0], Launched)
    assert isinstance(full[1], Refused)
    assert isinstance(full[1].error, NoCapacity)


def test_two_shapes_run_side_by_side(provider: SlurmProvider, ask: Ask, box: Box) -> None:
    requests = [ask(1), ask(2, pool=NORMAL)]
    ids = launched(provider, *requests)
    for request in requests:
        assert reach(provider, request, NodeState.RUNNING).pool == request.pool.name
    told = [box.run("scontrol", "--oneliner", "show", "job", job_of(found)) for found in ids]
    assert "Partition=spot" in told[0]
    assert "NumCPUs=1" in told[0]
    assert "Partition=normal" in told[1]
    assert "NumCPUs=2" in told[1]


def test_the_sites_requeue_gives_no_second_node(
    provider: SlurmProvider, ask: Ask, box: Box, tmp_path: Path
) -> None:
    (found,) = launched(provider, ask())
    wait_until(lambda: runs(ask()), 20.0, "the node runs")
    job = job_of(found)
    box.run("scontrol", "requeue", job, check=False)  # our --no-requeue: refused
    assert seen(provider, ask()).state is NodeState.RUNNING
    box.run("scontrol", "update", f"JobId={job}", "Requeue=1")
    box.run("scontrol", "requeue", job)
    assert seen(provider, ask()).state is NodeState.STOPPING
    assert isinstance(refusal(provider, ask()).error, BadRequest)
    wait_until(lambda: "PENDING" in box.run("squeue", "-ho%T"), 20.0, "it waits again")
    box.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    ended = reach(provider, ask(), NodeState.TERMINATED)
    assert ended.reason == "spot"
    told = box.run("scontrol", "--oneliner", "show", "job", job)
    assert "Restarts=1" in told, f"{told}\n{box.log()}"
    assert (tmp_path / f"spot-{job}-0.log").read_text().count("start of") == 1
    assert not runs(ask())


def test_a_requeued_job_is_ended_for_good(provider: SlurmProvider, ask: Ask, box: Box) -> None:
    (found,) = launched(provider, ask())
    reach(provider, ask(), NodeState.RUNNING)
    box.run("scontrol", "update", f"JobId={job_of(found)}", "Requeue=1")
    box.run("scontrol", "requeue", job_of(found))
    wait_until(lambda: "PENDING" in box.run("squeue", "-ho%T"), 20.0, "it waits again")
    provider.terminate([ask().token])
    assert reach(provider, ask(), NodeState.TERMINATED).reason == "spot"
    assert not box.run("squeue", "--noheader")


def test_a_lost_reply_does_not_double(
    make_provider: Callable[..., SlurmProvider], ask: Ask, box: Box, tmp_path: Path
) -> None:
    real = shutil.which("sbatch", path=box.environ["PATH"])
    deaf = tmp_path / "deaf"
    deaf.mkdir()
    (deaf / "sbatch").write_text(f'#!/bin/sh\n{real} "$@" >{tmp_path}/reply\nexec sleep 60\n')
    (deaf / "sbatch").chmod(0o755)
    lost = refusal(make_provider(commands=str(deaf), timeout_s=2.0), ask())
    assert isinstance(lost.error, Unreachable)
    (found,) = launched(make_provider(), ask())
    assert job_of(found) == (tmp_path / "reply").read_text().strip()
    assert len(box.run("squeue", "--noheader").splitlines()) == 1


def test_a_job_that_doubles_another_never_runs_and_is_ended(
    provider: SlurmProvider, ask: Ask, box: Box
) -> None:
    (found,) = launched(provider, ask())
    told = box.run("squeue", "--noheader", "--format=%j|%k").strip()
    name, comment = told.split("|")
    double = box.run(
        *("sbatch", "--parsable", f"--job-name={name}", f"--comment={comment}"),
        *("--dependency=singleton", "--output=/dev/null", "--wrap=exit 1"),
    ).strip()
    assert int(double) > int(job_of(found))
    assert "Dependency" in box.run("squeue", "--noheader", f"--job={double}", "--format=%r")
    assert seen(provider, ask()).provider_id == found
    wait_until(lambda: double not in box.run("squeue", "-h", "-o%i"), 10.0, "the double is gone")


def test_a_queued_node_is_pending_and_can_be_ended(
    provider: SlurmProvider, ask: Ask, box: Box
) -> None:
    preempt(box)
    wait_until(lambda: "RUNNING" in box.run("squeue", "-ho%T"), 10.0, "the nodes are taken")
    launched(provider, ask(1, 0), ask(1, 1))
    assert {node.state for node in provider.list()} == {NodeState.PENDING}
    assert {node.launched_at for node in provider.list()} == {None}
    provider.terminate([ask(1, 0).token])
    assert seen(provider, ask(1, 0)).state is NodeState.TERMINATED
    assert seen(provider, ask(1, 1)).state is NodeState.PENDING
    provider.terminate([ask(1, 1).token])
    assert reach(provider, ask(1, 1), NodeState.TERMINATED).reason == ""


def test_a_job_that_can_never_start_is_on_its_way_out(
    provider: SlurmProvider, ask: Ask, box: Box
) -> None:
    long = replace(SHORT, options={"partition": "short", "time": "10:00"})
    launched(provider, ask(pool=long))
    found = reach(provider, ask(), NodeState.STOPPING)
    assert found.reason in ("PartitionTimeLimit", "PartitionConfig")
    provider.terminate([ask().token])
    assert reach(provider, ask(), NodeState.TERMINATED).reason == found.reason


def test_cancelled_by_the_site_is_said(provider: SlurmProvider, ask: Ask, box: Box) -> None:
    (found,) = launched(provider, ask())
    reach(provider, ask(), NodeState.RUNNING)
    box.run("scancel", job_of(found))
    assert reach(provider, ask(), NodeState.TERMINATED).reason == "cancelled"


def test_refusals_have_a_meaning(
    provider: SlurmProvider, make_provider: Callable[..., SlurmProvider], ask: Ask, tmp_path: Path
) -> None:
    assert isinstance(refusal(provider, ask(pool=DOWN)).error, NoCapacity)
    assert isinstance(refusal(provider, ask(pool=MISSING)).error, BadRequest)
    lonely = make_provider(commands=str(tmp_path), timeout_s=2.0)
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 9\n")
    (tmp_path / "squeue").chmod(0o755)
    assert isinstance(refusal(lonely, ask()).error, Unreachable)
    with pytest.raises(Unreachable, match="squeue: no answer within 2 s"):
        lonely.list()
    assert not provider.list()


def test_a_node_that_fails_takes_only_itself(provider: SlurmProvider, ask: Ask, box: Box) -> None:
    gang = [ask(1, 0), ask(1, 1)]
    launched(provider, *gang)
    wait_until(lambda: runs(gang[0]) and runs(gang[1]), 20.0, "both nodes run")
    box.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    try:
        wait_until(lambda: not runs(gang[1]), 20.0, "the node of n2 is gone")
        assert runs(gang[0])
        assert seen(provider, gang[0]).state is NodeState.RUNNING
        assert box.run("squeue", "--noheader", "--format=%T").strip() == "RUNNING"
    finally:
        box.run("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)


def test_jobs_run_as_their_owner(provider: SlurmProvider, ask: Ask, box: Box) -> None:
    account = pwd.getpwnam("nobody")
    owner = Owner(uid=account.pw_uid, gid=account.pw_gid, username="nobody")
    (theirs,) = launched(provider, ask(owner=owner))
    assert box.run("squeue", "-h", "--states=all", "-o%u|%k").count("nobody|scsched") == 1
    # Another person's job with the same mark is not the node of this one.
    assert launched(provider, ask()) != [theirs]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nothing_of_the_brokers_environment_reaches_a_job(
    provider: SlurmProvider, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_BROKER", "1")
    monkeypatch.setenv("SBATCH_PARTITION", "down")
    launched(provider, ask())
    wait_until(lambda: runs(ask()), 20.0, "the node runs")
    environ = Path(f"/proc/{runs(ask())[0].pid}/environ").read_bytes()
    assert b"SECRET_OF_THE_BROKER" not in environ
    assert b"SLURM_" not in environ


def on_desk(scenario: Callable[..., object], requests: list[LaunchRequest], folder: Path) -> None:
    """Run it beside a Dask scheduler and the desk at which these nodes get their keys."""
    tls.make(folder / "tls", now=datetime.now(UTC))

    async def main() -> None:
        async with start_scheduler(folder / "tls") as cluster, Desk(folder / "tls") as desk:
            desk.expect({one.name: one.ticket for one in requests})
            place = provider.Desk(desk.address, desk.fingerprint)
            join = replace(requests[0].join, scheduler_address=cluster.address, desk=place)
            await scenario(cluster, [replace(r, join=join) for r in requests])  # type: ignore[misc]

    asyncio.run(asyncio.wait_for(main(), 180))
