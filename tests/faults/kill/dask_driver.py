"""The null driver with real nodes: they fetch their keys at its desk, join its Dask scheduler, and
live on the leases that it renews. Only the work is null, and takes as long as they live.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from scsched.cluster import tls
from scsched.cluster.dask_cluster import DaskCluster, start_scheduler
from scsched.cluster.enrol import Desk
from scsched.scheduler.driver import members
from scsched.scheduler.protocol import NodeOrder
from tests.cloudbox.client import Box
from tests.faults.kill import null_driver
from tests.faults.kill.null_driver import Plan

T = TypeVar("T")
CALL_S = 30.0
RENEW_S = 1.0


class DaskDriver(null_driver.Driver):
    """Its scheduler has a thread of its own."""

    def __init__(self, *, socket: Path, workflow: int, work_dir: Path, outside: Path) -> None:
        super().__init__(socket=socket, workflow=workflow, work_dir=work_dir, outside=outside)
        self._host = Box(outside / "box").attach().gateway
        self._tls_dir = work_dir / "tls"
        tls.make(self._tls_dir, now=datetime.now(UTC))
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()
        serving = threading.Thread(
            target=self._loop.run_until_complete, args=(self._serve(),), daemon=True
        )
        serving.start()
        if not self._open.wait(CALL_S):
            raise RuntimeError("the scheduler does not start")

    def seconds(self, plan: Plan) -> float:
        return null_driver.LONGEST_LIFE_S

    def up(self) -> set[str]:
        async def look() -> set[str]:
            return set(self._cluster.nodes_up())

        return self._there(look)

    def _reconcile(self, orders: Mapping[str, Any]) -> None:
        """The broker has answered, as the real driver takes it: so its nodes may live on."""
        mine = [*orders["nodes"], *(one for order in orders["runs"] for one in order["nodes"])]

        async def hear() -> None:
            self._members.expect(NodeOrder.model_validate(one) for one in mine)
            self._members.renew_leases()

        self._there(hear)
        super()._reconcile(orders)

    async def _serve(self) -> None:
        async with (
            start_scheduler(self._tls_dir, host=self._host) as cluster,
            Desk(self._tls_dir, host=self._host) as desk,
        ):
            self._cluster: DaskCluster = cluster
            self._members = members.Members(cluster, desk)
            self._address = cluster.address
            self._desk = {"address": desk.address, "fingerprint": desk.fingerprint}
            self._open.set()
            await asyncio.Event().wait()

    def _there(self, work: Callable[[], Awaitable[T]]) -> T:
        """In the scheduler's thread."""

        async def call() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(CALL_S)


if __name__ == "__main__":
    members.RENEW_S = RENEW_S
    raise SystemExit(null_driver.main(make=DaskDriver))
