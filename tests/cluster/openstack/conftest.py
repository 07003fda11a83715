"""Test clouds that speak OpenStack, and nodes to ask them for."""

import os
import pwd
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from scsched.cluster.openstack import provider as openstack
from scsched.cluster.openstack.provider import OpenStackProvider
from scsched.cluster.pools import Candidate, Market, Pool, Storage
from scsched.cluster.provider import Desk, Join, LaunchRequest, NodeState, Owner, Seen
from tests.openstack.cloud import Cloud, stand_in
from tests.openstack.options import OPTIONS, hush
from tests.openstack.reality import real


@pytest.fixture(scope="session")
def real_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with real(tmp_path_factory.mktemp("real-openstack")) as cloud:
        yield cloud


@pytest.fixture(scope="session")
def false_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with stand_in(tmp_path_factory.mktemp("openstack")) as cloud:
        yield cloud


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.campaign)])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Both, so that the stand-in is what Nova is."""
    hush()
    name = "real_cloud" if request.param == "real" else "false_cloud"
    found: Cloud = request.getfixturevalue(name)
    with found.current():
        yield found


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A deployment of its own on a test cloud, without nodes."""

    cloud: Cloud
    deployment: str
    provider: OpenStackProvider

    def ask(
        self, gang: str, index: int = 0, *, kind: str = "m1.tiny", market: Market = Market.ON_DEMAND
    ) -> LaunchRequest:
        account = pwd.getpwuid(os.getuid())
        return LaunchRequest(
            token=f"{gang}-{index}",
            name=f"n{gang}_{index}",
            pool=replace(POOL, types=(kind,), market=market),
            owner=Owner(uid=account.pw_uid, gid=account.pw_gid, username=account.pw_name),
            join=Join(
                scheduler_address="tls://127.0.0.1:9",
                tls_dir=Path("/nowhere"),
                work_dir=Path("/nowhere"),
                desk=Desk("127.0.0.1:9", "0" * 64),
            ),
            deployment=self.deployment,
            candidate=Candidate(kind, "nova"),
            ticket=f"ticket-{gang}-{index}",
        )

    def other(self, **options: object) -> OpenStackProvider:
        """A provider of the same deployment, configured otherwise."""
        merged = {**OPTIONS, **options}
        return openstack.from_config("box", merged, deployment=self.deployment, pools=[POOL])

    def seen(self, token: str) -> Seen:
        (found,) = [one for one in self.provider.list() if one.token == token]
        return found

    def until(self, token: str, state: NodeState) -> Seen:
        return wait_until(lambda: self.seen(token), lambda found: found.state is state)


T = TypeVar("T")
POOL = Pool(
    name="p",
    provider="box",
    market=Market.ON_DEMAND,
    max_nodes=2,
    cores=1,
    memory_gib=0.5,
    types=("m1.tiny",),
    zones=("nova",),
    remote=True,
    storage=Storage(path="/shared", export="192.0.2.1:/export"),
)


@pytest.fixture
def lab(cloud: Cloud, tmp_path: Path) -> Iterator[Lab]:
    deployment = f"{tmp_path.name}-{os.getpid()}-{time.time_ns()}"
    provider = openstack.from_config("box", OPTIONS, deployment=deployment, pools=[POOL])
    made = Lab(cloud=cloud, deployment=deployment, provider=provider)
    yield made
    cloud.front.mend()
    ending = [one.token for one in provider.list()]
    provider.terminate(ending)
    wait_until(lambda: _left(made), lambda left: not left)


def _left(lab: Lab) -> list[Seen]:
    """They would have the place of the next test's servers."""
    return [one for one in lab.provider.list() if one.state is not NodeState.TERMINATED]


def wait_until(look: Callable[[], T], good: Callable[[T], bool], within_s: float = 30.0) -> T:
    """What `look` gives once it is `good`."""
    end = time.monotonic() + within_s
    while not good(found := look()):
        assert time.monotonic() < end, f"last seen: {found}"
        time.sleep(0.05)
    return found
