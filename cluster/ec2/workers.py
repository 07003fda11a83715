"""The worker machines of one gang, on dask-cloudprovider's EC2 worker.

Of its EC2Worker we keep what a worker on EC2 is (image, type, disk, network, spot), its session and
its way from `start` to `close`; it makes one machine a call, without token, and for docker, so both
calls to EC2 are our own. Its cluster, a SpecCluster, is not used.

Importing this takes seconds: do it where a machine is made.
"""

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as Late
from functools import cache
from types import SimpleNamespace
from typing import Any

from aiobotocore.session import AioSession  # type: ignore[import-untyped,unused-ignore]
from dask_cloudprovider.aws.ec2 import (  # type: ignore[import-untyped,unused-ignore]
    EC2Worker,
)

from scsched.cluster.ec2 import clients
from scsched.cluster.ec2.request import Launch, arguments

_LATE_S = clients.CONNECT_S + clients.LAUNCH_S + 2.0
_starting = threading.Lock()

# Any: an instance as botocore describes it.
Described = Mapping[str, Any]


class GangWorkers(EC2Worker):  # type: ignore[misc]
    """All machines of one gang: one call to make them, all or none."""

    def __init__(self, launch: Launch) -> None:
        asked: Mapping[str, Any] = arguments(launch)
        super().__init__(
            launch.requests[0].join.scheduler_address,
            cluster=SimpleNamespace(uuid=launch.gang, boto_session=_session(), _log=_silent),
            config={},
            region=launch.site.region,
            ami=asked["ImageId"],
            instance_type=asked["InstanceType"],
            subnet_id=asked["NetworkInterfaces"][0]["SubnetId"],
            security_groups=list(launch.site.security_groups),
            filesystem_size=asked["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"],
            use_private_ip=not launch.site.public_ip,
            spot="InstanceMarketOptions" in asked,
            instance_tags={},
            volume_tags={},
        )
        self.name = launch.gang
        self.asked = asked
        self.instances: Sequence[Described] = ()

    async def create_vm(self) -> tuple[str | None, None]:
        """One RunInstances, never repeated here: its token makes the caller's repeat safe."""
        async with self._client(clients.LAUNCH_S) as client:
            answer = await client.run_instances(**self.asked)
        self.instances = answer.get("Instances", ())
        lead = self.instances[0] if self.instances else {}
        return lead.get("PrivateIpAddress"), None

    async def destroy_vm(self) -> None:
        """Ends what `create_vm` made."""
        ids = [instance["InstanceId"] for instance in self.instances]
        if ids:
            async with self._client(clients.READ_S) as client:
                await client.terminate_instances(InstanceIds=ids)

    def _client(self, read_s: float) -> Any:
        return self.cluster.boto_session.create_client(
            "ec2", region_name=self.region, config=clients.config(read_s, attempts=1)
        )


def launch(asked: Launch) -> Sequence[Described]:
    """The gang's instances, as RunInstances tells of them; may be called from any thread.

    Raises botocore's errors and TimeoutError; `BadRequest` before any call.
    """

    async def start() -> Sequence[Described]:
        workers = GangWorkers(asked)
        await workers.start()
        return workers.instances

    return _wait(start())


def _wait(work: Coroutine[Any, Any, Sequence[Described]]) -> Sequence[Described]:
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result(_LATE_S)
    except Late:
        future.cancel()
        raise TimeoutError(f"no answer within {_LATE_S:.0f} s") from None


def _loop() -> asyncio.AbstractEventLoop:
    """One loop for all launches: the session's locks belong to it."""
    with _starting:
        return _running()


@cache
def _running() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="ec2 launches", daemon=True).start()
    return loop


@cache
def _session() -> AioSession:
    """Of the process: it reads the large description of EC2 once."""
    return AioSession()


def _silent(*_: object) -> None:
    """Its cluster's log; ours is the ledger."""
