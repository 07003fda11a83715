"""Gangs over hosts of their own: namespaces that share a disk, and nothing else."""

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scsched.cluster import agent, lease, preflight, processes
from scsched.cluster.enrol import EnrolError, fetch
from scsched.cluster.provider import Desk
from scsched.cluster.remote import NoticeSource
from tests.cluster.bench import until
from tests.cluster.far_bench import PROGRAM, RUN, FarBench, far_bench, ordinary_owner
from tests.cluster.hosts import needs_hosts
from tests.cluster.test_gang_relion import MEMORY_ONLY, REFINE
from tests.cluster.test_node import MPIRUN, SAY_AND_SLEEP, needs_mpi
from tests.relion_data import Particles, make_project
from tests.relion_data import needs_mpi as needs_relion_mpi

pytestmark = needs_hosts


def on_hosts(folder: Path, scenario: Callable[[FarBench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with far_bench(folder) as bench:
            await scenario(bench)

    asyncio.run(asyncio.wait_for(main(), 180))


@needs_mpi
def test_a_gang_over_three_hosts_sees_one_storage_and_its_key_ends_with_it(tmp_path: Path) -> None:
    async def scenario(bench: FarBench) -> None:
        bench.owner = ordinary_owner()
        names = await bench.start(3)
        gang = await bench.gang(names, 4)
        hosts = [member.host for member in gang.members]
        assert hosts == [bench.hosts.address_of(k) for k in range(3)]
        end = await bench.attempt(gang, *preflight.argv(gang, bench.shared))
        verdict = preflight.parse("\n".join(bench.lines()))
        assert end["exit_code"] == 0, f"{bench.errors()} {await bench.logs()}"
        assert (verdict.ok, verdict.ranks, verdict.nodes) == (True, 4, ("n0", "n1", "n2"))
        assert verdict.mib_per_s > 0
        assert end["leftovers"] == 0
        await bench.cluster.run_on(names, agent.forget, RUN)
        again = await bench.attempt(gang, *preflight.argv(gang, bench.shared))
        assert again["exit_code"] != 0
        assert "the key is of no gang" in bench.errors()

    on_hosts(tmp_path, scenario)


@needs_mpi
@pytest.mark.parametrize("lost", [1, 0])
def test_a_host_that_vanishes_silently_ends_the_run_on_all(tmp_path: Path, lost: int) -> None:
    """`lost` 0 is the lead, with mpirun."""

    async def scenario(bench: FarBench) -> None:
        names = await bench.start(2)
        gang = await bench.gang(names, 3)
        task = bench.attempt(gang, *MPIRUN, "-np", "3", sys.executable, "-c", SAY_AND_SLEEP)
        await until(lambda: len(bench.lines()) == 3 or task.done())
        assert sorted(bench.lines()) == ["0 n0", "1 n0", "2 n1"], bench.errors()
        start = time.monotonic()
        await asyncio.to_thread(bench.hosts.cut, lost)
        for name in names:
            await bench.gone_after_s(name)
            print(f"{name} was clean {time.monotonic() - start:.1f} s after {lost} vanished")
        assert time.monotonic() - start < 40
        if lost:
            assert (await task)["exit_code"] not in (0, None)
            await until(lambda: not bench.hosts.is_up(lost), 60)
            assert list(bench.cluster.nodes_up()) == ["n0"]
        task.cancel()

    on_hosts(tmp_path, scenario)


@needs_mpi
@pytest.mark.parametrize("lost", [1, 0])
def test_a_host_that_is_switched_off_ends_the_run_at_once(tmp_path: Path, lost: int) -> None:
    async def scenario(bench: FarBench) -> None:
        names = await bench.start(2)
        gang = await bench.gang(names, 3)
        task = bench.attempt(gang, *MPIRUN, "-np", "3", sys.executable, "-c", SAY_AND_SLEEP)
        await until(lambda: len(bench.lines()) == 3 or task.done())
        start = time.monotonic()
        await asyncio.to_thread(bench.hosts.kill, lost)
        took = await bench.gone_after_s()
        print(f"clean {took:.1f} s after {lost} was switched off")
        assert time.monotonic() - start < 10
        task.cancel()

    on_hosts(tmp_path, scenario)


@pytest.mark.relion
@needs_relion_mpi
def test_relion_refines_over_two_hosts_until_one_of_them_vanishes(tmp_path: Path) -> None:
    async def scenario(bench: FarBench) -> None:
        await asyncio.to_thread(make_project, bench.shared, Particles(n=80))
        (bench.shared / "Refine3D").mkdir()
        names = await bench.start(2)
        gang = await bench.gang(names, 3)
        task = bench.attempt(gang, *MPIRUN, "-np", "3", *REFINE, *MEMORY_ONLY)
        first = bench.shared / "Refine3D" / "run_it001_optimiser.star"
        await until(lambda: first.exists() or task.done(), 90)
        assert not task.done(), f"{bench.errors()[-2000:]} {bench.lines()[-5:]}"
        assert [bool(bench.processes_of(name)) for name in names] == [True, True]
        start = time.monotonic()
        await asyncio.to_thread(bench.hosts.cut, 1)
        end = await task
        print(f"the attempt ended {time.monotonic() - start:.1f} s after the host vanished")
        assert end["exit_code"] != 0
        await bench.gone_after_s()
        assert time.monotonic() - start < 40
        answers = await bench.cluster.stop(names[:1], RUN, grace_s=1.0)
        assert list(answers) == ["n0"]

    on_hosts(tmp_path, scenario)


def test_the_stolen_ticket_is_seen_and_the_node_ends(tmp_path: Path) -> None:
    async def scenario(bench: FarBench) -> None:
        (request,) = bench.requests(1)
        bench.desk.expect({request.name: request.ticket})
        place = Desk(bench.desk.address, bench.desk.fingerprint)
        stolen = tmp_path / "stolen"
        await asyncio.to_thread(fetch, place, request.name, request.ticket, stolen, timeout_s=5.0)
        await asyncio.to_thread(bench.hosts.start, 0, bench.script([request]), HOST_INDEX="0")
        await until(lambda: not bench.hosts.is_up(0), 60)
        assert "the desk refuses it: its ticket was used before" in bench.hosts.console(0)
        assert bench.refused == [f"n0 {bench.hosts.address_of(0)}"]
        with pytest.raises(EnrolError):
            await asyncio.to_thread(
                fetch, place, request.name, request.ticket, stolen, timeout_s=5.0
            )

    on_hosts(tmp_path, scenario)


def test_the_driver_renews_the_leases_and_a_machine_without_one_goes_off(tmp_path: Path) -> None:
    async def scenario(bench: FarBench) -> None:
        names = await bench.start(2, replace(PROGRAM, dead_man_s=4))
        begun = time.monotonic()
        while time.monotonic() - begun < 6:
            assert await bench.cluster.run_on(names[:1], lease.renew) == {"n0": True}
            await asyncio.sleep(0.5)
        assert bench.hosts.is_up(0)
        await until(lambda: not bench.hosts.is_up(1), 60)
        assert "dead man" in bench.hosts.console(1)
        assert "dead man" not in bench.hosts.console(0)

    on_hosts(tmp_path, scenario)


def test_a_signal_is_announced_and_the_second_ends_the_node(tmp_path: Path) -> None:
    async def scenario(bench: FarBench) -> None:
        heard: list[dict[str, object]] = []
        bench.cluster.on_notice(heard.append)
        await bench.start(1, replace(PROGRAM, notice=NoticeSource.SIGNAL, grace_s=30.0))
        asked = datetime.now(UTC)
        node = bench.main_of("n0")
        processes.send(node, signal.SIGTERM)
        await until(lambda: heard)
        left = datetime.fromisoformat(str(heard[0]["deadline"])) - asked
        assert timedelta(seconds=25) < left < timedelta(seconds=35)
        assert list(bench.cluster.nodes_up()) == ["n0"]
        # Within 2 s of the first it is the same signal, heard by another way.
        await until(lambda: not processes.send(node, signal.SIGTERM), 60)
        await until(lambda: not bench.hosts.is_up(0), 60)

    on_hosts(tmp_path, scenario)


def test_the_driver_goes_and_the_machine_goes_off(tmp_path: Path) -> None:
    kept: list[FarBench] = []

    async def scenario(bench: FarBench) -> None:
        await bench.start(1)
        kept.append(bench)
        await bench.cluster.dismiss(["n0"])
        await until(lambda: not bench.hosts.is_up(0), 60)
        assert "node 0 of" in bench.hosts.console(0)
        assert bench.hosts.power(0)

    on_hosts(tmp_path, scenario)
