"""Real nodes on hosts of their own, joined to a scheduler of this machine."""

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from scsched.cluster import agent, node, processes, provider, tags, tls
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster, start_scheduler
from scsched.cluster.enrol import Desk
from scsched.cluster.gang import Gang, make_key, spread
from scsched.cluster.pools import Market, Pool, Storage
from scsched.cluster.provider import Join, LaunchRequest, Owner
from scsched.cluster.remote import NodeProgram, NoticeSource, bootstrap
from tests.cluster.bench import until
from tests.cluster.hosts import Hosts

PROGRAM = NodeProgram(
    python=sys.executable, notice=NoticeSource.NONE, dead_man_s=600, index="echo $HOST_INDEX"
)
RUN = "far-run"


class FarBench:
    """Nodes n0, n1, ... on hosts 0, 1, ... of one gang."""

    def __init__(
        self,
        *,
        hosts: Hosts,
        shared: Path,
        deployment: str,
        desk: Desk,
        cluster: DaskCluster,
        refused: list[str],
    ) -> None:
        self.hosts = hosts
        self.shared = shared
        self.deployment = deployment
        self.desk = desk
        self.cluster = cluster
        self.refused = refused
        self.key = make_key()
        self.owner = Owner(uid=0, gid=0, username="root")
        self.places: dict[str, dict[str, str]] = {}

    def requests(self, count: int, **pool: object) -> list[LaunchRequest]:
        base = Pool(
            name="far",
            provider="far",
            market=Market.SPOT,
            max_nodes=9,
            cores=1,
            memory_gib=4.0,
            usd_per_hour=Decimal(1),
            boot_s=30.0,
            remote=True,
            storage=Storage(path=str(self.shared)),
        )
        join = Join(
            scheduler_address=self.cluster.address,
            tls_dir=Path("/none"),
            work_dir=Path("/none"),
            desk=provider.Desk(self.desk.address, self.desk.fingerprint),
        )
        return [
            LaunchRequest(
                token=f"{self.deployment}-{index}",
                name=f"n{index}",
                pool=replace(base, **pool),  # type: ignore[arg-type]
                owner=self.owner,
                join=join,
                deployment=self.deployment,
                ticket=secrets.token_hex(32),
            )
            for index in range(count)
        ]

    def script(self, requests: Sequence[LaunchRequest], program: NodeProgram = PROGRAM) -> str:
        return bootstrap(requests, program)

    async def start(self, count: int, program: NodeProgram = PROGRAM) -> list[str]:
        """Start the hosts, and wait until their nodes have joined."""
        requests = self.requests(count)
        script = self.script(requests, program)
        self.desk.expect({one.name: one.ticket for one in requests})
        for index in range(count):
            await asyncio.to_thread(self.hosts.start, index, script, HOST_INDEX=str(index))
        names = [request.name for request in requests]
        try:
            await until(lambda: self.cluster.nodes_up().keys() >= set(names), 90)
        except AssertionError:
            raise AssertionError([self.hosts.console(k) for k in range(count)]) from None
        return names

    async def gang(self, names: Sequence[str], ranks: int) -> Gang:
        """What the driver does before work on a gang."""
        places = await self.cluster.run_on(names, agent.where)
        self.places = {name: dict(place) for name, place in places.items()}  # type: ignore[call-overload]
        await self.cluster.run_on(names, agent.admit, RUN, self.key)
        addresses = {name: self.places[name]["address"] for name in names}
        return spread(names, ranks).reached(addresses, self.key)

    def attempt(self, gang: Gang, *argv: str) -> "asyncio.Task[dict[str, object]]":
        lead = gang.lead.name
        spec = AttemptSpec(
            run_token=RUN,
            argv=argv,
            cwd=str(self.shared),
            stdout=str(self.shared / "out.txt"),
            stderr=str(self.shared / "err.txt"),
            scratch_dir=f"{self.places[lead]['scratch']}/run1",
            gang=gang,
        )
        return self.cluster.submit_attempt(lead, as_json(spec))

    def lines(self) -> list[str]:
        path = self.shared / "out.txt"
        return path.read_text().splitlines() if path.exists() else []

    def main_of(self, name: str) -> processes.Process:
        """The node's own process."""
        found = processes.find({tags.NODE_TOKEN: f"{self.deployment}-{name.removeprefix('n')}"})
        return next(one for one in found if processes.runs(one.pid, node.MODULE))

    def errors(self) -> str:
        path = self.shared / "err.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def processes_of(self, name: str = "") -> list[processes.Process]:
        """Of the run, on that node or on any: this machine sees into all hosts."""
        wanted = {tags.DEPLOYMENT: self.deployment, tags.RUN: RUN}
        return processes.find(wanted | ({tags.NODE: name} if name else {}))

    async def logs(self) -> str:
        """Of all nodes that are up."""
        names = list(self.cluster.nodes_up())
        told = await self.cluster.run_on(names, subprocess.getoutput, "cat *.log")
        return "\n".join(str(text) for text in told.values())

    async def gone_after_s(self, name: str = "", limit_s: float = 30.0) -> float:
        start = time.monotonic()
        await until(lambda: not self.processes_of(name), limit_s)
        return time.monotonic() - start


def ordinary_owner() -> Owner:
    """Somebody whom no host knows; root where only root can run our Python."""
    check = ["setpriv", "--reuid", "4321", "--regid", "4322", "--clear-groups", sys.executable]
    done = subprocess.run(
        [*check, "-I", "-c", "import scsched.cluster.agent"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    if done.returncode:
        return Owner(uid=0, gid=0, username="root")
    return Owner(uid=4321, gid=4322, username="anna")


@asynccontextmanager
async def far_bench(folder: Path) -> AsyncIterator[FarBench]:
    shared = folder / "shared project"
    shared.mkdir()
    shared.chmod(0o777)
    tls.make(folder / "tls", now=datetime.now(UTC))
    refused: list[str] = []
    hosts = Hosts(folder / "hosts", shared)
    try:
        async with (
            start_scheduler(folder / "tls", host=hosts.address) as cluster,
            Desk(
                folder / "tls",
                host=hosts.address,
                on_refused=lambda name, peer: refused.append(f"{name} {peer}"),
            ) as desk,
        ):
            yield FarBench(
                hosts=hosts,
                shared=shared,
                deployment=f"far-{secrets.token_hex(4)}",
                desk=desk,
                cluster=cluster,
                refused=refused,
            )
    finally:
        await asyncio.to_thread(hosts.close)
