"""Real RELION auto-refine over two nodes of one core each; one of them dies in mid-iteration."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from scsched.cluster import processes, tags
from scsched.cluster.gang import spread
from scsched.cluster.provider import LaunchRequest
from tests.cluster.bench import Bench, OnBench, until
from tests.cluster.test_node import MPIRUN, Ask
from tests.relion_data import AUTO_REFINE, Particles, make_project, needs_mpi

REFINE = ("relion_refine_mpi", "--i", "particles.star", "--o", "Refine3D/run", *AUTO_REFINE)
MEMORY_ONLY = ("--dont_combine_weights_via_disc", "--j", "1")


@pytest.mark.relion
@needs_mpi
def test_relion_over_two_nodes_ends_when_one_of_them_dies(
    on_bench: OnBench, request_node: Ask
) -> None:
    async def scenario(bench: Bench) -> None:
        await asyncio.to_thread(make_project, bench.folder, Particles(n=80))
        (bench.folder / "Refine3D").mkdir()
        argv = (*MPIRUN, "-np", "3", *REFINE, *MEMORY_ONLY)
        task = bench.cluster.submit_attempt("n1", bench.spec(*argv, gang=spread(["n1", "n2"], 3)))
        first = bench.folder / "Refine3D" / "run_it001_optimiser.star"
        await until(lambda: first.exists() or task.done(), 90)
        assert not task.done(), bench.lines()[-5:]
        request: LaunchRequest = request_node(2, bench.cluster.address)
        ranks = processes.find({tags.RUN: "r1", tags.NODE: "n2"})
        assert any(processes.runs(rank.pid, "relion_refine_mpi") for rank in ranks)
        node = bench.main_of(request)
        assert set(ranks) <= set(processes.descendants(node.pid))
        start = time.monotonic()
        bench.provider.play(request.token, None, now=datetime.now(UTC))
        end = await task
        assert time.monotonic() - start < 40
        assert end["exit_code"] not in (0, None)
        answers = await bench.cluster.stop(["n1", "n2"], "r1", grace_s=2.0)
        assert list(answers) == ["n1"]
        assert processes.find({tags.RUN: "r1"}) == []
        assert not (bench.folder / "scratch").exists()

    on_bench(scenario)
