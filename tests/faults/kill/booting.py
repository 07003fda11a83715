"""The EC2 world in fair weather, whose machines boot: a machine that nobody cares for ends itself.

Its drivers have a real Dask scheduler and desk, which the nodes join; only their work is null.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from scsched.cluster.ec2 import request as requests
from scsched.cluster.ec2.site import Site
from scsched.cluster.provider import LaunchRequest
from scsched.cluster.remote import NodeProgram
from scsched.db.session import Store
from scsched.scheduler.config import Settings
from scsched.scheduler.wiring import Outside
from tests.cloudbox.client import Box
from tests.faults.kill.ec2 import Ec2World
from tests.faults.kill.nodes import Nodes

DEAD_MAN_S = 15
"""Half an hour elsewhere."""


class BootingWorld(Ec2World):
    """Below the folder lie the box and the storage that all machines see."""

    python = sys.executable
    boot_s = 600.0
    driver = "tests.faults.kill.dask_driver"

    @cached_property
    def shared(self) -> Path:  # type: ignore[override]
        return self._folder / "shared"

    def outside(self, settings: Settings, store: Store) -> Outside:
        honest = requests.program

        def program(site: Site, request: LaunchRequest) -> NodeProgram:
            return replace(honest(site, request), dead_man_s=DEAD_MAN_S)

        requests.program = program
        return super().outside(settings, store)

    def _made(self) -> Box:
        self.shared.mkdir()
        return Box(self._folder / "box", boot=True, binds=[self.shared])

    def _weather(self, nodes: Nodes) -> AbstractContextManager[None]:
        return nullcontext()
