"""Real nodes with real Dask workers and real MPI over them; killed in turn."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import agent, preflight, processes, rundir, tags
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import NodeLost
from scsched.cluster.gang import spread
from scsched.cluster.local import LocalProvider
from scsched.cluster.node import MODULE, NodeSpec, to_json
from scsched.cluster.provider import LaunchRequest, NodeState
from tests.cluster.bench import Bench, OnBench, until

Ask = Callable[..., LaunchRequest]
MPIRUN = (sys.executable, "-I", "-m", "scsched.cluster.mpirun")
SAY_AND_SLEEP = (
    "from mpi4py import MPI; import os, time;"
    "print(MPI.COMM_WORLD.rank, os.environ['SCSCHED_NODE'], flush=True); time.sleep(600)"
)
needs_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed")


@needs_mpi
def test_the_preflight_sees_all_ranks_and_the_storage(on_bench: OnBench) -> None:
    async def scenario(bench: Bench) -> None:
        gang = spread(["n1", "n2"], 3)
        argv = preflight.argv(gang, bench.folder)
        end = await bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=gang))
        verdict = preflight.parse(bench.out.read_text())
        assert end["exit_code"] == 0, bench.lines()
        assert end["leftovers"] == 0
        assert (verdict.ok, verdict.ranks, verdict.nodes) == (True, 3, ("n1", "n2"))
        assert verdict.mib_per_s > 0
        assert not list(bench.folder.glob(".scsched-preflight-*"))

        argv = preflight.argv(gang, bench.folder / "missing")
        end = await bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=gang))
        verdict = preflight.parse(bench.out.read_text())
        assert end["exit_code"] != 0
        assert not verdict.ok
        assert "n1: " in verdict.reason
        assert "cannot be written: No such file" in verdict.reason

        argv = preflight.argv(gang, bench.folder, floor_mib_per_s=1e9)
        await bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=gang))
        assert "the floor is" in preflight.parse(bench.out.read_text()).reason

    on_bench(scenario)


@needs_mpi
def test_a_killed_node_takes_its_ranks_and_ends_the_run(
    on_bench: OnBench, request_node: Ask
) -> None:
    async def scenario(bench: Bench) -> None:
        argv = (*MPIRUN, "-np", "3", sys.executable, "-c", SAY_AND_SLEEP)
        task = bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=spread(["n1", "n2"], 3)))
        await until(lambda: len(bench.lines()) == 3)
        assert sorted(bench.lines()) == ["0 n1", "1 n1", "2 n2"]
        node = bench.main_of(request_node(2, bench.cluster.address))
        on_two = {tags.RUN: "r1", tags.NODE: "n2"}
        (daemon, *_) = processes.find(on_two)
        assert daemon in processes.descendants(node.pid)
        start = time.monotonic()
        processes.send(node, signal.SIGKILL)
        end = await task
        assert time.monotonic() - start < 30
        assert end["exit_code"] not in (0, None)
        await bench.cluster.stop(["n1", "n2"], "r1", grace_s=1.0)
        assert processes.find({tags.RUN: "r1", tags.NODE: "n1"}) == []
        bench.provider.tick(datetime.now(UTC))
        assert processes.find({tags.RUN: "r1"}) == []
        states = sorted(seen.state for seen in bench.provider.list())
        assert states == [NodeState.RUNNING, NodeState.TERMINATED]
        assert list(bench.cluster.nodes_up()) == ["n1"]

    on_bench(scenario)


@needs_mpi
def test_a_killed_mpirun_leaves_no_rank_on_any_node(on_bench: OnBench) -> None:
    async def scenario(bench: Bench) -> None:
        argv = (*MPIRUN, "-np", "3", sys.executable, "-c", SAY_AND_SLEEP)
        task = bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=spread(["n1", "n2"], 3)))
        await until(lambda: len(bench.lines()) == 3)
        (first, *_) = processes.find({tags.RUN: "r1"})
        processes.send(first, signal.SIGKILL)
        end = await task
        assert end["signal"] == signal.SIGKILL
        await until(lambda: not processes.find({tags.RUN: "r1"}))

    on_bench(scenario)


def test_a_node_that_is_forgotten_is_waited_for_no_more(
    on_bench: OnBench, request_node: Ask
) -> None:
    """It is frozen with its connections open: Dask would wait for half a minute."""

    async def scenario(bench: Bench) -> None:
        task = bench.cluster.submit_attempt("n1", bench.spec("sleep", "600"))
        await until(lambda: processes.find({tags.RUN: "r1", tags.NODE: "n1"}))
        node = bench.main_of(request_node(1, bench.cluster.address))
        processes.send(node, signal.SIGSTOP)
        call = asyncio.ensure_future(bench.cluster.run_on(["n1", "n2"], agent.where, timeout_s=60))
        await asyncio.sleep(0)  # the call is on its way
        started = time.monotonic()
        await bench.cluster.forget(["n1"])
        with pytest.raises(NodeLost, match="node n1 was lost"):
            await task
        answers = await call
        assert time.monotonic() - started < 25
        assert isinstance(answers["n1"], NodeLost)
        assert answers["n2"]["name"] == "n2"  # type: ignore[index]
        assert list(bench.cluster.nodes_up()) == ["n2"]
        processes.send(node, signal.SIGKILL)

    on_bench(scenario)


@needs_mpi
def test_a_stopped_run_ends_on_every_node(on_bench: OnBench) -> None:
    async def scenario(bench: Bench) -> None:
        argv = (*MPIRUN, "-np", "3", sys.executable, "-c", SAY_AND_SLEEP)
        task = bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=spread(["n1", "n2"], 3)))
        await until(lambda: len(bench.lines()) == 3)
        answers = await bench.cluster.stop(["n1", "n2"], "r1", grace_s=5.0)
        assert sorted(answers) == ["n1", "n2"]
        end = await task
        assert end["stopped"]
        assert processes.find({tags.RUN: "r1"}) == []
        again = await bench.cluster.submit_attempt("n1", bench.spec("true", run_token="r2"))
        assert again["exit_code"] == 0

    on_bench(scenario)


def test_a_lost_lead_is_told_at_once(on_bench: OnBench, request_node: Ask) -> None:
    async def scenario(bench: Bench) -> None:
        task = bench.cluster.submit_attempt("n1", bench.spec("sleep", "600"))
        await until(lambda: processes.find({tags.RUN: "r1"}))
        start = time.monotonic()
        bench.provider.play(request_node(1).token, None, now=datetime.now(UTC))
        with pytest.raises(NodeLost, match="n1"):
            await task
        assert time.monotonic() - start < 20
        assert processes.find({tags.RUN: "r1"}) == []

    on_bench(scenario, 1)


def test_a_notice_reaches_the_driver(on_bench: OnBench, request_node: Ask) -> None:
    async def scenario(bench: Bench) -> None:
        heard: list[dict[str, object]] = []
        bench.cluster.on_notice(heard.append)
        bench.provider.play(request_node(1).token, 60.0, now=datetime(2026, 1, 1, tzinfo=UTC))
        await until(lambda: heard)
        assert heard[0]["node"] == "n1"
        assert heard[0]["deadline"] == "2026-01-01T00:01:00+00:00"

    on_bench(scenario, 1)


def test_a_dismissed_node_ends_with_what_it_runs(on_bench: OnBench, request_node: Ask) -> None:
    async def scenario(bench: Bench) -> None:
        task = bench.cluster.submit_attempt("n1", bench.spec("sleep", "600"))
        await until(lambda: processes.find({tags.RUN: "r1"}))
        node = bench.main_of(request_node(1, bench.cluster.address))
        await bench.cluster.dismiss(["n1", "n9"])
        await until(lambda: not processes.alive(node))
        assert processes.find({tags.RUN: "r1"}) == []
        with pytest.raises(NodeLost):
            await task

    on_bench(scenario, 1)


def test_what_runs_on_nodes_answers_by_node(on_bench: OnBench) -> None:
    async def scenario(bench: Bench) -> None:
        answers = await bench.cluster.run_on(["n1", "n9"], os.getsid, 0)
        assert list(answers) == ["n1"]
        wrong = await bench.cluster.run_on(["n1"], os.listdir, "/no/such/directory")
        assert isinstance(wrong["n1"], FileNotFoundError)

    on_bench(scenario, 1)


DRIVER = """
import asyncio, json, sys
from pathlib import Path
from scsched.cluster.dask_cluster import start_scheduler

async def main(tls_dir, spec):
    async with start_scheduler(Path(tls_dir)) as cluster:
        print(cluster.address, flush=True)
        while not cluster.nodes_up():
            await asyncio.sleep(0.05)
        print(await cluster.submit_attempt("n1", json.loads(spec)))

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_death_of_the_driver_ends_its_nodes_and_their_runs(
    provider: LocalProvider, request_node: Ask, tls_dir: Path, weird_dir: Path, deployment: str
) -> None:
    spec = AttemptSpec(
        run_token=deployment,
        argv=("sh", "-c", "setsid sleep 600 & sleep 600"),
        cwd="/",
        stdout="/dev/null",
        stderr="/dev/null",
        scratch_dir=str(weird_dir / "scratch"),
    )
    argv = [sys.executable, "-c", DRIVER, str(tls_dir), json.dumps(as_json(spec))]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as driver:
        assert driver.stdout is not None
        address = driver.stdout.readline().decode().strip()
        provider.launch([request_node(1, address)])
        asyncio.run(until(lambda: len(processes.find({tags.RUN: deployment})) == 3))
        driver.kill()
        start = time.monotonic()
    asyncio.run(until(lambda: not processes.find({tags.DEPLOYMENT: deployment})))
    assert time.monotonic() - start < 30
    assert [seen.state for seen in provider.list()] == [NodeState.TERMINATED]


def test_a_node_without_a_scheduler_gives_up(
    provider: LocalProvider, request_node: Ask, deployment: str
) -> None:
    from dataclasses import replace

    request = request_node(1)
    provider.launch([replace(request, pool=replace(request.pool, boot_s=1.0))])
    asyncio.run(until(lambda: not processes.find({tags.DEPLOYMENT: deployment}), 20))
    assert [seen.state for seen in provider.list()] == [NodeState.TERMINATED]


@pytest.mark.parametrize("word", [signal.SIGHUP, signal.SIGTERM])
def test_a_node_that_waits_at_the_desk_ends_when_told_and_leaves_nothing(
    tmp_path: Path, deployment: str, word: signal.Signals
) -> None:
    """It has five minutes to fetch its keys, and the desk says nothing."""
    mine = (os.geteuid(), deployment, "n1")
    with socket.create_server(("127.0.0.1", 0)) as desk:
        spec = NodeSpec(
            name="n1",
            token="g-0",
            deployment=deployment,
            scheduler_address="tls://127.0.0.1:9",
            work_dir=str(rundir.private(tmp_path / "work")),
            desk=f"127.0.0.1:{desk.getsockname()[1]}",
            fingerprint="0" * 64,
            join_s=300.0,
            connect_timeout_s=300.0,
        )
        with subprocess.Popen(
            [sys.executable, "-I", "-m", MODULE, "--spec", to_json(spec)]
        ) as node:
            try:
                desk.settimeout(60.0)
                asking, _ = desk.accept()
                assert rundir.node_dir(*mine).is_dir()
                node.send_signal(word)
                assert node.wait(timeout=60.0) == 0
                asking.close()
            finally:
                node.kill()
    assert not rundir.node_dir(*mine).exists()
    assert not rundir.shm_dir(*mine).exists()
