"""The world whose broker runs the real EC2 provider, over HTTP to a cloud in a box.

The box is a process of the harness, its instances are imaginary; `weather` is its unkindness. Its
own list of instances and its own bill are what the judge believes.
"""

import asyncio
import importlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from functools import cache, cached_property, partial
from pathlib import Path

from scsched.cluster.ec2 import clients
from scsched.cluster.ec2 import site as sites
from scsched.cluster.ec2.instances import DEPLOYMENT, GANG, POOL
from scsched.cluster.ec2.provider import Ec2Provider
from scsched.cluster.pools import Market
from scsched.cluster.provider import Launched, LaunchRequest, Refused, Throttled, Traits
from scsched.db.session import Store
from scsched.scheduler import presence, wiring
from scsched.scheduler.background import Background, Pace
from scsched.scheduler.config import Settings
from scsched.scheduler.config_pools import PoolConfig, StorageConfig
from scsched.scheduler.watcher import Every
from scsched.scheduler.wiring import Outside
from tests.cloudbox.client import Box, Machine
from tests.faults.kill import null_driver, weather
from tests.faults.kill.journal import Journal, Kind
from tests.faults.kill.marks import Marks
from tests.faults.kill.nodes import Node, Nodes

PROVIDER = "box"
KIND, OTHER = "t3.small", "t3.medium"
ON_DEMAND = {KIND: Decimal(36), OTHER: Decimal(72)}
SPOT = {KIND: Decimal(18), OTHER: Decimal(36)}
"""US dollars an hour: a cent a second, about, as a life of seconds must cost something."""
GRACE_S = 3.0
"""Of all kinds; far longer than listings lie in this weather."""
QUICK = Pace(rate_per_s=1000.0, burst=1000, again_s=0.3)
OFTEN = Every(list_s=0.15)
THROTTLED_S = 0.5
"""How long all calls pause after "too many": a grace is to hold many listings."""
FORGET_S = 30.0
"""How long an ended instance is listed: longer than any time without a broker."""


class Ec2World:
    """A flat box below the folder, which is gone with whoever started it."""

    python = "/opt/scsched/bin/python"
    shared = Path("/shared")
    boot_s = 15.0
    driver = "tests.faults.kill.null_driver"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = Journal.of(folder)
        self._started: Box | None = None

    @cached_property
    def box(self) -> Box:
        return self._started or Box(self._folder / "box").attach()

    @property
    def settings(self) -> Mapping[str, object]:
        box = self.box
        table = {
            "kind": "ec2",
            "region": box.region,
            "subnets": dict(box.subnets),
            "security_groups": [box.security_group],
            "image": box.image,
            "python": self.python,
            "interruption_queue": box.queue,
        }
        return {
            "pool": tuple(_pools(box.zones, self.boot_s)),
            "provider": {PROVIDER: table},
            "storage": {"shared": StorageConfig(path=str(self.shared))},
        }

    @contextmanager
    def there(self) -> Iterator[None]:
        nodes = Nodes(self._folder)
        nodes.create()
        with self._made() as self._started:
            self.box.forget_after(FORGET_S)
            for kind in ON_DEMAND:
                self.box.on_demand(kind, ON_DEMAND[kind])
                for zone in self.box.zones:
                    self.box.price(kind, zone, SPOT[kind])
            with self._weather(nodes):
                yield

    def _made(self) -> Box:
        return Box(self._folder / "box")

    def _weather(self, nodes: Nodes) -> AbstractContextManager[None]:
        return weather.over(self.box, nodes)

    def plant(self, deployment: str) -> None:
        gang = f"stranger{secrets.token_hex(4)}"
        self._journal.write(Kind.PLANTED, token=f"{gang}-0")
        tags = {DEPLOYMENT: deployment, GANG: gang, POOL: "spot"}
        with suppress(Exception):  # the weather: it was made, or it was not
            self.box.ec2().run_instances(
                ImageId=self.box.image,
                InstanceType=KIND,
                MinCount=1,
                MaxCount=1,
                SubnetId=self.box.subnets[self.box.zones[0]],
                SecurityGroupIds=[self.box.security_group],
                TagSpecifications=[
                    {
                        "ResourceType": "instance",
                        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                    }
                ],
            )

    def preload(self) -> None:
        os.environ.update(self.box.env)
        _read_descriptions(self.box.region)

    def outside(self, settings: Settings, store: Store) -> Outside:
        presence.MISSING_GRACE = timedelta(seconds=GRACE_S)
        wiring.Background = partial(Background, pace=QUICK, every=OFTEN)  # type: ignore[attr-defined, assignment]
        site = sites.read(PROVIDER, settings.provider[PROVIDER])
        marks = Marks(self._journal)
        return Outside(
            providers={"local": marks, PROVIDER: Told(site, store.deployment(), self._journal)},
            reclaims=marks,
            driver_program=null_driver.program(self._folder, self.driver),
        )

    def nodes(self) -> Sequence[Node]:
        return [_node(machine) for machine in self.box.instances()]

    def bill(self) -> Mapping[str, Decimal]:
        return self.box.bill()


@cache
def _read_descriptions(region: str) -> None:
    """AWS's own, which takes a second; both sessions are of the process, and are forked with it."""
    for service in ("ec2", "sqs"):
        clients._session(region).client(service)
    workers = importlib.import_module("scsched.cluster.ec2.workers")

    async def read() -> None:
        async with workers._session().create_client("ec2", region_name=region):
            pass

    asyncio.run(read())


class Told(Ec2Provider):
    """The real one, whose calls are written down."""

    traits = Traits(remote=True, listing_lag_s=GRACE_S, stranger_grace_s=GRACE_S)

    def __init__(self, site: sites.Site, deployment: str, journal: Journal) -> None:
        super().__init__(site, deployment)
        self._journal = journal

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        for request in requests:
            self._journal.write(Kind.LAUNCH, token=request.token, word=request.pool.name)
        answers = tuple(_shortened(answer) for answer in super().launch(requests))
        for answer in answers:
            said = answer.error.code if isinstance(answer, Refused) else "launched"
            self._journal.write(Kind.ANSWER, token=answer.token, word=said)
        return answers

    def terminate(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            self._journal.write(Kind.TERMINATE, token=token)
        super().terminate(tokens)


def _shortened(answer: Launched | Refused) -> Launched | Refused:
    if isinstance(answer, Refused) and isinstance(answer.error, Throttled):
        return Refused(answer.token, Throttled(str(answer.error), retry_after_s=THROTTLED_S))
    return answer


def _pools(zones: Sequence[str], boot_s: float) -> Iterator[PoolConfig]:
    def pool(name: str, **values: object) -> PoolConfig:
        fields: dict[str, object] = {
            "provider": PROVIDER,
            "types": (KIND, OTHER),
            "zones": tuple(zones[:2]),
            "usd_per_hour": ON_DEMAND,
            "storage": "shared",
            "cores": 2,
            "memory_gib": 64.0,
            "max_nodes": 4,
            "warm_s": 1.0,
            "boot_s": boot_s,
        }
        return PoolConfig.model_validate({"name": name, **fields, **values})

    yield pool("dear")
    yield pool("spot", market=Market.SPOT, usd_per_hour=SPOT)
    yield pool("service", service=True, cores=1, memory_gib=2.0, max_nodes=3)


def _node(machine: Machine) -> Node:
    born = machine.launched_at.timestamp()
    gone = machine.ended_at.timestamp() if machine.ended_at else None
    return Node(
        provider_id=machine.instance_id,
        token=f"{machine.tags[GANG]}-{machine.index}",
        deployment=machine.tags[DEPLOYMENT],
        pool=machine.tags[POOL],
        made_at=born,
        up_at=born,
        listed_at=born,
        asked_at=gone,
        stopped_at=gone if machine.state == "terminated" else None,
    )
