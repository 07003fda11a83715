"""EC2, before an imaginary cloud on the loopback that answers as EC2 does."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scsched.cluster.pools import Candidate
from scsched.cluster.provider import Desk
from tests.contract.providers import MakeSubject, Subject, pool_of_two

KIND = "t3.small"


@contextmanager
def opened(directory: Path) -> Iterator[MakeSubject]:
    for library in ("boto3", "dask_cloudprovider", "moto"):
        pytest.importorskip(library, reason=f"ec2 needs {library}")
    from tests.cloudbox.client import Box

    with Box(directory / "box") as box, pytest.MonkeyPatch.context() as patch:
        for key, value in box.env.items():
            patch.setenv(key, value)

        @contextmanager
        def subject(_: Path, deployment: str) -> Iterator[Subject]:
            from scsched.cluster.ec2 import provider as ec2

            zone = box.zones[0]
            pool = pool_of_two(types=(KIND,), zones=(zone,), remote=True)
            options = {
                "kind": "ec2",
                "region": box.region,
                "subnets": dict(box.subnets),
                "security_groups": [box.security_group],
                "image": box.image,
                "python": "/opt/scsched/bin/python",
                "interruption_queue": box.queue,
            }

            def make() -> ec2.Ec2Provider:
                return ec2.from_config("box", options, deployment=deployment, pools=[pool])

            provider = make()
            try:
                yield Subject(
                    provider=provider,
                    again=make,
                    pool=pool,
                    candidate=Candidate(KIND, zone),
                    desk=Desk("127.0.0.1:9", "0" * 64),
                    run_out=lambda: box.capacity(2),
                )
            finally:
                box.capacity(None)
                provider.terminate([node.token for node in provider.list()])

        yield subject
