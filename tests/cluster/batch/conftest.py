"""One Slurm for all tests of this folder, and requests for its nodes."""

import os
import pwd
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scsched.cluster import processes, tags
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.batch.slurm import SlurmProvider
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import Desk, Join, LaunchRequest, Owner
from tests.slurm import box as slurm_box
from tests.slurm.box import Box


@pytest.fixture(scope="session")
def _box() -> Iterator[Box]:
    if why := slurm_box.missing():
        pytest.skip(why)
    with slurm_box.running() as started:
        yield started


@pytest.fixture(scope="module")
def patient_box() -> Iterator[Box]:
    """Its KillWait is Slurm's own, 30 s: what ends sooner has ended by itself."""
    if why := slurm_box.missing():
        pytest.skip(why)
    with slurm_box.running(kill_wait_s=30) as started:
        yield started


@pytest.fixture
def box(_box: Box) -> Iterator[Box]:
    """Without jobs."""
    yield _box
    _box.cancel_all()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[str]:
    name = f"test-{tmp_path.name}-{os.getpid()}"
    yield name
    processes.kill_tagged({tags.DEPLOYMENT: name})


def pool(name: str = "spot", *, partition: str = "", **changes: object) -> Pool:
    """A pool of two nodes with one core each."""
    fields: dict[str, object] = {
        "name": name,
        "provider": "home",
        "market": Market.SPOT if name == "spot" else Market.ON_DEMAND,
        "max_nodes": 2,
        "cores": 1,
        "memory_gib": 1.0,
        "remote": True,
        "boot_s": 60.0,
        "options": {"partition": partition or name},
    }
    return Pool(**{**fields, **changes})  # type: ignore[arg-type]


POOLS = (pool(), pool("normal", cores=2), pool("down"), pool("missing"), pool("short"))
ME = pwd.getpwuid(os.getuid())
OWNER = Owner(uid=ME.pw_uid, gid=ME.pw_gid, username=ME.pw_name)


@pytest.fixture
def site(tmp_path: Path) -> SiteOptions:
    return SiteOptions(
        kind="slurm",
        python=sys.executable,
        scratch=str(tmp_path / "scratch"),
        logs=str(tmp_path),
    )


@pytest.fixture
def make_provider(box: Box, site: SiteOptions, deployment: str) -> Callable[..., SlurmProvider]:
    """The provider as yet another process would make it."""

    def make(commands: str = "", **more: float) -> SlurmProvider:
        from dataclasses import replace

        options = replace(site, conf=str(box.conf), commands=commands)
        return SlurmProvider(options, deployment, POOLS, **more)

    return make


@pytest.fixture
def provider(make_provider: Callable[..., SlurmProvider]) -> SlurmProvider:
    return make_provider()


@pytest.fixture
def silent_desk() -> Iterator[Desk]:
    """One that never answers: nodes wait at it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Desk(f"127.0.0.1:{listening.getsockname()[1]}", "0" * 64)


@pytest.fixture
def ask(deployment: str, silent_desk: Desk) -> Callable[..., LaunchRequest]:
    """A request for the node at `place` of gang `number`."""
    join = Join(
        scheduler_address="tls://127.0.0.1:9",
        tls_dir=Path("/none"),
        work_dir=Path("/none"),
        desk=silent_desk,
    )

    def make(number: int = 1, place: int = 0, **changes: object) -> LaunchRequest:
        fields: dict[str, object] = {
            "token": f"{os.getpid()}x{number}-{place}",
            "name": f"n{number}_{place}",
            "pool": POOLS[0],
            "owner": OWNER,
            "join": join,
            "deployment": deployment,
            "ticket": f"{number:04}{place:04}",
        }
        return LaunchRequest(**{**fields, **changes})  # type: ignore[arg-type]

    return make
