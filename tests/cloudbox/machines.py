"""An instance as the box knows it, and what a thing must do that runs instances."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from moto.ec2.models.instances import Instance

from tests.cloudbox.notices import Tree
from tests.cloudbox.prices import Interval


class Machines(Protocol):
    """What really runs. Both may be called again; `kill` returns when nothing is left."""

    def boot(self, record: "Record", up: Callable[[], None], gone: Callable[[], None]) -> None: ...

    def kill(self, instance_id: str, *, silent: bool) -> None: ...

    def tell(self, record: "Record") -> None:
        """Its metadata has changed."""
        ...


class Imaginary:
    """Machines that are not there: the fake EC2 for fault tests."""

    def boot(self, record: "Record", up: Callable[[], None], gone: Callable[[], None]) -> None:
        up()

    def kill(self, instance_id: str, *, silent: bool) -> None:
        pass

    def tell(self, record: "Record") -> None:
        pass


@dataclass(slots=True, kw_only=True)
class Record:
    """What the box knows of an instance beside moto's record."""

    instance: Instance
    spot: bool
    launched_at: datetime
    tree: Tree
    ended_at: datetime | None = None
    """When its end began: until then it is paid."""

    @property
    def metadata(self) -> Mapping[str, object]:
        options = self.instance.metadata_options
        return {"required": options.http_tokens == "required", "tree": self.tree}

    @property
    def interval(self) -> Interval:
        return Interval(
            instance_id=self.instance.id,
            kind=self.instance.instance_type,
            zone=self.instance.availability_zone or "",
            spot=self.spot,
            launched_at=self.launched_at,
            ended_at=self.ended_at,
        )
