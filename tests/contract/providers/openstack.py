"""OpenStack, before a stand-in for Keystone and Nova on the loopback.

The same suite runs before the real ones in tests/cluster/openstack.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scsched.cluster.pools import Candidate
from scsched.cluster.provider import Desk, NodeState, Provider
from tests.contract.providers import MakeSubject, Subject, pool_of_two

if TYPE_CHECKING:
    from tests.openstack.cloud import Cloud

KIND = "m1.medium"
"""Of which the test cloud has room for two."""
ZONE = "nova"


@contextmanager
def opened(directory: Path) -> Iterator[MakeSubject]:
    for library in ("openstack", "dask_cloudprovider"):
        pytest.importorskip(library, reason=f"openstack needs {library}")
    from tests.openstack import cloud

    with cloud.stand_in(directory) as box:
        yield partial(subject, box)


@contextmanager
def subject(box: "Cloud", _: Path, deployment: str) -> Iterator[Subject]:
    """Of that test cloud."""
    from scsched.cluster.openstack import provider as openstack
    from tests.openstack.options import OPTIONS, hush

    hush()
    pool = pool_of_two(types=(KIND,), zones=(ZONE,), remote=True)

    def make() -> openstack.OpenStackProvider:
        return openstack.from_config("box", OPTIONS, deployment=deployment, pools=[pool])

    with box.current():
        provider = make()
        try:
            yield Subject(
                provider=provider,
                again=make,
                pool=pool,
                candidate=Candidate(KIND, ZONE),
                desk=Desk("127.0.0.1:9", "0" * 64),
            )
        finally:
            provider.terminate([node.token for node in provider.list()])
            _wait_until_gone(provider)


def _wait_until_gone(provider: Provider) -> None:
    """The hosts have their places back then."""
    end = time.monotonic() + 60.0
    while left := [one for one in provider.list() if one.state is not NodeState.TERMINATED]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
