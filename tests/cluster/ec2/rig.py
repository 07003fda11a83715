"""One EC2 site over the imaginary cloud, and gangs to launch there."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest

from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.ec2.provider import Ec2Provider
from scsched.cluster.pools import Candidate, Market, Pool
from scsched.cluster.provider import (
    Desk,
    Join,
    Launched,
    LaunchRequest,
    NodeState,
    Owner,
    Refused,
    Seen,
)
from tests.cloudbox.client import Box
from tests.cluster.ec2.recorder import Recorder

KIND, OTHER = "t3.small", "t3.medium"
DEPLOYMENT = "rig"
JOIN = Join(
    scheduler_address="tls://127.0.0.1:9",
    tls_dir=Path("/nowhere"),
    work_dir=Path("/nowhere"),
    desk=Desk("127.0.0.1:9", "ab" * 32),
)
OWNER = Owner(uid=1234, gid=1234, username="ada")
PATIENCE_S = 60.0
_numbers = count(1)
T = TypeVar("T")

PLAIN: Mapping[str, object] = {
    "kind": "ec2",
    "region": "us-east-1",
    "subnets": {"us-east-1a": "subnet-0a1b2c3d"},
    "security_groups": ["sg-0a1b2c3d"],
    "image": "ami-0a1b2c3d",
    "python": "/opt/scsched/bin/python",
}
"""A table that is right and means nothing."""


def pool(**changes: object) -> Pool:
    """A spot pool of four nodes in one zone."""
    fields: dict[str, object] = {
        "name": "p",
        "provider": "box",
        "market": Market.SPOT,
        "max_nodes": 4,
        "cores": 2,
        "memory_gib": 2.0,
        "types": (KIND,),
        "zones": ("us-east-1a",),
        "remote": True,
    }
    return Pool(**{**fields, **changes})  # type: ignore[arg-type]


def gang(
    size: int = 1,
    *,
    of: Pool | None = None,
    name: str = "",
    candidate: Candidate | None = None,
    deployment: str = DEPLOYMENT,
    join: Join = JOIN,
) -> list[LaunchRequest]:
    """Requests for all nodes of one new gang."""
    mine = of or pool()
    name = name or f"g{next(_numbers)}x{time.time_ns()}"
    return [
        LaunchRequest(
            token=f"{name}-{index}",
            name=f"n{index}",
            pool=mine,
            owner=OWNER,
            join=join,
            deployment=deployment,
            candidate=candidate or mine.candidates()[0],
            ticket=f"{name}{index:02}",
        )
        for index in range(size)
    ]


def made_group(box: Box, *, strategy: str = "cluster", state: str = "available") -> str:
    """The name of a new placement group; of one that was never made, without a strategy."""
    name = f"close-{time.time_ns()}"
    if strategy:
        box.ec2().create_placement_group(GroupName=name, Strategy=strategy)
    box.placement_groups(state)
    return name


class Rig:
    """A box, what is sent to it, and a provider."""

    def __init__(self, box: Box, recorder: Recorder) -> None:
        self.box = box
        self.recorder = recorder
        self.provider = self.make()

    def options(self, **changes: object) -> dict[str, object]:
        return {
            **PLAIN,
            "region": self.box.region,
            "subnets": dict(self.box.subnets),
            "security_groups": [self.box.security_group],
            "image": self.box.image,
            **changes,
        }

    def make(self, *, deployment: str = DEPLOYMENT, **changes: object) -> Ec2Provider:
        """Another provider of the same site, as after a restart of the broker."""
        return ec2.from_config("box", self.options(**changes), deployment=deployment, pools=[])

    def launch(self, requests: list[LaunchRequest]) -> list[str]:
        """Instance ids; all must be launched."""
        answers = self.provider.launch(requests)
        assert all(isinstance(one, Launched) for one in answers), answers
        return [one.provider_id for one in answers if isinstance(one, Launched)]

    def refusals(self, requests: list[LaunchRequest]) -> list[Refused]:
        answers = self.provider.launch(requests)
        assert all(isinstance(one, Refused) for one in answers), answers
        return [one for one in answers if isinstance(one, Refused)]

    def seen(self, token: str) -> Seen | None:
        return next((one for one in self.provider.list() if one.token == token), None)

    def until(self, token: str, state: NodeState) -> Seen:
        def good(one: Seen | None) -> bool:
            return one is not None and one.state is state

        found = wait_for(lambda: self.seen(token), good)
        assert found is not None
        return found


def wait_for(look: Callable[[], T], good: Callable[[T], bool]) -> T:
    """What `look` gives once it is good."""
    deadline = time.monotonic() + PATIENCE_S
    while not good(found := look()):
        assert time.monotonic() < deadline, f"last seen: {found}"
        time.sleep(0.05)
    return found


@contextmanager
def rigged(box: Box, patch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """The rig with this process's AWS environment turned to the box."""
    with Recorder(box.endpoint) as recorder:
        for key, value in {**box.env, "AWS_ENDPOINT_URL": recorder.endpoint}.items():
            patch.setenv(key, value)
        yield Rig(box, recorder)
