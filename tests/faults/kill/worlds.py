"""What may be outside of the broker that is killed: where nodes come from, and who bills them.

    outside   nodes are rows of a small database; the provider is unkind by itself
    ec2       the real EC2 provider behind the broker's threads, over HTTP to a cloud in a box
    booting   the same, in fair weather, with machines that boot and join their drivers

Everything of a world lives in its folder, so that the harness, each broker and each driver can come
to it; no death of any of them touches it.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Protocol

from scsched.db.session import Store
from scsched.scheduler.config import Settings
from scsched.scheduler.wiring import Outside
from tests.faults.kill.nodes import Node


class World(Protocol):
    """A new object may be made of the same world at any time, in any process."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Of a broker that works in it: its pools, and what they name."""
        ...

    # ---- the harness's verbs

    def there(self) -> AbstractContextManager[None]:
        """It is there for the length of the block, and unkind."""
        ...

    def plant(self, deployment: str) -> None:
        """A node with our tag that nobody has on record."""
        ...

    # ---- the broker's

    def preload(self) -> None:
        """All that a broker imports for it, and nothing opened: brokers are forked after this."""
        ...

    def outside(self, settings: Settings, store: Store) -> Outside:
        """The real thing, or what stands for it; the graces of this process become as short."""
        ...

    # ---- the judge's

    def nodes(self) -> Sequence[Node]:
        """Every node that there ever was."""
        ...

    def bill(self) -> Mapping[str, Decimal] | None:
        """US dollars by the provider's id; None: nobody bills here."""
        ...


@cache
def find(name: str, folder: Path) -> World:
    """The world of that name in that folder."""
    # Each knows of pools and providers, and the broker's imports are to be counted.
    if name == "ec2":
        from tests.faults.kill.ec2 import Ec2World

        return Ec2World(folder)
    if name == "booting":
        from tests.faults.kill.booting import BootingWorld

        return BootingWorld(folder)
    from tests.faults.kill.outside import OutsideWorld

    return OutsideWorld(folder)
