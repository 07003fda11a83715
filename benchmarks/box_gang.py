"""Gangs on the cloud in a box, without a broker: our provider, our nodes, our driver's calls.

    async with workflow(box, folder, shared) as mine:
        names = await mine.launch(4, "t3.small")
        gang = await mine.gang(names, ranks=4)

The scheduler and the desk that hands out keys run here, as they do in a driver.
"""

import asyncio
import importlib.util
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from scsched.cluster import provider, tls
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster, start_scheduler
from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.ec2.provider import Ec2Provider
from scsched.cluster.enrol import Desk
from scsched.cluster.pools import Candidate, Market, Pool, Storage
from scsched.cluster.preflight import Verdict
from scsched.cluster.provider import Join, Launched, LaunchRequest, Owner
from scsched.scheduler.driver.gangcheck import GangCheck
from scsched.scheduler.driver.members import Gathered, Members
from tests.cloudbox import hosts
from tests.cloudbox.client import Box, Machine

JOIN_S = 120.0
END_S = 30.0
POLL_S = 0.02
USERNAME = "root"
WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}
"""Of control groups of version 1 and 2: the kernel's own value, for one core."""


class Workflow:
    """What a driver has, and a provider beside it. Belongs to the event loop's thread."""

    def __init__(
        self,
        box: Box,
        shared: Path,
        cluster: DaskCluster,
        desk: Desk,
        *,
        python: str,
    ) -> None:
        self.cluster = cluster
        self._box = box
        self._shared = shared
        self._desk = desk
        self._deployment = f"bench-{secrets.token_hex(4)}"
        self._members = Members(cluster, desk)
        self._provider = _provider(box, self._deployment, python)
        self._tokens: dict[str, str] = {}
        self.instances: dict[str, str] = {}
        """Id by node name."""

    async def launch(self, count: int, kind: str) -> list[str]:
        """The names of `count` nodes of one gang; each has been asked for and has answered."""
        requests = self._requests(count, kind)
        for request in requests:
            self._desk.expect(request.name, request.ticket)
            self._tokens[request.name] = request.token
        for answer, request in zip(
            await asyncio.to_thread(self._provider.launch, requests), requests, strict=True
        ):
            assert isinstance(answer, Launched), answer
            self.instances[request.name] = answer.provider_id
        names = [request.name for request in requests]
        await self._until_up(names)
        assert len(await self.cluster.run_on(names, os.getpid)) == count
        return names

    async def gang(self, names: Sequence[str], ranks: int, run: str) -> Gathered:
        """Spread over these nodes, with a key of its own."""
        return await self._members.gather(names, ranks, run)

    async def check(self, gathered: Gathered, run: str) -> Verdict:
        """The preflight that the driver makes before a step that costs."""
        return await GangCheck(
            cluster=self.cluster,
            gang=gathered.gang,
            storage=self._shared,
            folder=self._shared / f"{run}-check",
            scratch=Path(gathered.scratch) / f"{run}-check",
            run_token=run,
        ).verdict()

    async def work(self, gathered: Gathered, run: str, argv: Sequence[str], cwd: Path) -> float:
        """Wall seconds of the program over the gang.

        :raises RuntimeError: it failed; with the end of its output.
        """
        log = cwd / f"{run}.log"
        spec = AttemptSpec(
            run_token=run,
            argv=tuple(argv),
            cwd=str(cwd),
            stdout=str(log),
            stderr=str(log),
            scratch_dir=f"{gathered.scratch}/{run}",
            gang=gathered.gang,
        )
        end = await self.cluster.submit_attempt(gathered.gang.lead.name, as_json(spec))
        if end["exit_code"] != 0:
            raise RuntimeError(f"{argv}: {end}: {log.read_text(errors='replace')[-2000:]}")
        return float(str(end["wall_s"]))

    async def part(self, names: Sequence[str], run: str) -> None:
        await self._members.part(names, run)

    async def end(self, names: Sequence[str]) -> None:
        """Their machines are ended, and gone."""
        tokens = [self._tokens[name] for name in names]
        await asyncio.to_thread(self._provider.terminate, tokens)
        deadline = time.monotonic() + END_S
        while any(self._box.instance(self.instances[name]).pid for name in names):
            assert time.monotonic() < deadline, f"{names} do not end"
            await asyncio.sleep(POLL_S)

    async def _until_up(self, names: Sequence[str]) -> None:
        deadline = time.monotonic() + JOIN_S
        while not self.cluster.nodes_up().keys() >= set(names):
            if time.monotonic() > deadline:
                logs = [self._box.console(self.instances[name]) for name in names]
                raise RuntimeError(f"{names} are not all up: {logs}")
            await asyncio.sleep(POLL_S)

    def _requests(self, count: int, kind: str) -> list[LaunchRequest]:
        gang, first = secrets.token_hex(12), len(self._tokens)
        zone = self._box.zones[0]
        pool = Pool(
            name="bench",
            provider="box",
            market=Market.SPOT,
            max_nodes=count,
            cores=1,
            memory_gib=2.0,
            types=(kind,),
            zones=(zone,),
            boot_s=JOIN_S,
            remote=True,
            storage=Storage(path=str(self._shared)),
        )
        join = Join(
            scheduler_address=self.cluster.address,
            tls_dir=Path("/none"),
            work_dir=Path("/none"),
            desk=provider.Desk(self._desk.address, self._desk.fingerprint),
        )
        return [
            LaunchRequest(
                token=f"{gang}-{index}",
                name=f"n{first + index}",
                pool=pool,
                owner=Owner(uid=os.geteuid(), gid=os.getegid(), username=USERNAME),
                join=join,
                deployment=self._deployment,
                candidate=Candidate(kind, zone),
                ticket=secrets.token_hex(32),
            )
            for index in range(count)
        ]


@asynccontextmanager
async def workflow(box: Box, folder: Path, shared: Path, *, python: str) -> AsyncIterator[Workflow]:
    """:param folder: its own, for keys. :param shared: what hosts see too."""
    logging.getLogger("distributed").setLevel(logging.WARNING)
    tls.make(folder, now=datetime.now(UTC))
    async with (
        start_scheduler(folder, host=box.gateway) as cluster,
        Desk(folder, host=box.gateway) as desk,
    ):
        yield Workflow(box, shared, cluster, desk, python=python)


def missing() -> str:
    """Why there can be no such cloud here; "": there can."""
    if importlib.util.find_spec("moto") is None:
        return "the cloud in a box needs moto"
    lacking = hosts.lacking()
    return f"hosts of the cloud in a box cannot boot: {lacking}" if lacking else ""


@contextmanager
def in_the_box(box: Box) -> Iterator[None]:
    """This process takes the box for its cloud, for good."""
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        del os.environ[key]
    os.environ.update(box.env)
    yield


def pin(machine: Machine, cpus: set[int]) -> None:
    """Bind all that runs on a host, and all that it will start, to these processors.

    A limit on CPU time alone is no machine with fewer cores: there ranks that wait, and yield, cost
    those that work nothing. Beside other work each of the host's cores weighs as much as one of
    another host.
    """
    for path in map(Path, machine.procs):
        for name, one_core in WEIGHTS.items():
            if (weight := path.with_name(name)).exists():
                weight.write_text(str(one_core * len(cpus)))
        for pid in path.read_text().split():
            for task in Path("/proc", pid, "task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)


def _provider(box: Box, deployment: str, python: str) -> Ec2Provider:
    options = {
        "kind": "ec2",
        "region": box.region,
        "subnets": dict(box.subnets),
        "security_groups": [box.security_group],
        "image": box.image,
        "python": python,
    }
    return ec2.from_config("box", options, deployment=deployment, pools=[])
