"""Two real nodes for a test."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from scsched.cluster import processes
from scsched.cluster.attempt import AttemptSpec, as_json
from scsched.cluster.dask_cluster import DaskCluster
from scsched.cluster.gang import Gang
from scsched.cluster.local import LocalProvider
from scsched.cluster.processes import Process
from scsched.cluster.provider import LaunchRequest

OnBench = Callable[..., None]


class Bench:
    """Two nodes of one core each, up and joined."""

    def __init__(self, cluster: DaskCluster, provider: LocalProvider, folder: Path) -> None:
        self.cluster = cluster
        self.provider = provider
        self.folder = folder
        self.out = folder / "out.txt"

    def spec(
        self,
        *argv: str,
        gang: Gang | None = None,
        run_token: str = "r1",  # noqa: S107
    ) -> dict[str, object]:
        return as_json(
            AttemptSpec(
                run_token=run_token,
                argv=argv,
                cwd=str(self.folder),
                stdout=str(self.out),
                stderr=str(self.out),
                scratch_dir=str(self.folder / "scratch"),
                gang=gang,
            )
        )

    def main_of(self, request: LaunchRequest) -> Process:
        (found,) = [s for s in self.provider.list() if s.token == request.token]
        return processes.parse(found.provider_id)

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines() if self.out.exists() else []


async def until(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)
