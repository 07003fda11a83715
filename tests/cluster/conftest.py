"""A workflow's keys, a local provider and requests for its nodes; everything is ended after."""

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import processes, tags, tls
from scsched.cluster.dask_cluster import start_scheduler
from scsched.cluster.local import LocalProvider
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import Join, LaunchRequest, Owner
from tests.cluster.bench import Bench, until


@pytest.fixture
def weird_dir(tmp_path: Path) -> Path:
    """A directory whose name no shell line would survive."""
    path = tmp_path / 'it\'s a "dir" $HOME;'
    path.mkdir()
    return path


@pytest.fixture
def tls_dir(weird_dir: Path) -> Path:
    tls.make(weird_dir / "tls", now=datetime.now(UTC))
    return weird_dir / "tls"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[str]:
    name = f"test-{tmp_path.name}-{os.getpid()}"
    yield name
    processes.kill_tagged({tags.DEPLOYMENT: name})


@pytest.fixture
def provider(weird_dir: Path, deployment: str) -> Iterator[LocalProvider]:
    local = LocalProvider(weird_dir / "state", deployment)
    yield local
    local.terminate([seen.token for seen in local.list()])


@pytest.fixture
def request_node(tls_dir: Path, deployment: str) -> Callable[..., LaunchRequest]:
    """A request for node n<k> of a pool of two nodes with one core each."""
    account = pwd.getpwuid(os.getuid())
    owner = Owner(uid=account.pw_uid, gid=account.pw_gid, username=account.pw_name)
    pool = Pool(
        name="local-spot",
        provider="local",
        market=Market.SPOT,
        max_nodes=2,
        cores=1,
        memory_gib=4.0,
    )

    def make(number: int, address: str = "tls://127.0.0.1:9", **changes: object) -> LaunchRequest:
        join = Join(
            scheduler_address=address, tls_dir=tls_dir, work_dir=tls_dir.with_name("work dir")
        )
        fields: dict[str, object] = {
            "token": f"{deployment}n{number}-0".replace("_", "-"),
            "name": f"n{number}",
            "pool": pool,
            "owner": owner,
            "join": join,
            "deployment": deployment,
        }
        return LaunchRequest(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def on_bench(
    provider: LocalProvider,
    request_node: Callable[..., LaunchRequest],
    tls_dir: Path,
    weird_dir: Path,
) -> Callable[[Callable[[Bench], Awaitable[None]], int], None]:
    def run(scenario: Callable[[Bench], Awaitable[None]], nodes: int = 2) -> None:
        async def main() -> None:
            async with start_scheduler(tls_dir) as cluster:
                provider.launch([request_node(k + 1, cluster.address) for k in range(nodes)])
                await until(lambda: len(cluster.nodes_up()) == nodes)
                await scenario(Bench(cluster, provider, weird_dir))

        asyncio.run(asyncio.wait_for(main(), 180))

    return run
