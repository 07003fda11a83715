"""Placement groups, which moto has not: made, shown and deleted, and whether a launch fits in one.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/placement-groups.html
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from moto.ec2.models.instance_types import INSTANCE_TYPES

from tests.cloudbox.faults import Refusal
from tests.cloudbox.launching import LaunchCall

CREATE, DESCRIBE, DELETE = (f"{verb}PlacementGroup" for verb in ("Create", "Describe", "Delete"))
ACTIONS = frozenset({CREATE, f"{DESCRIBE}s", DELETE})
STRATEGIES = ("cluster", "partition", "spread")


@dataclass(slots=True)
class Groups:
    """Those of the account, and which instances are in them."""

    state: str = "available"
    _strategies: dict[str, str] = field(default_factory=dict)
    _members: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Group and zone, by instance."""

    def answer(self, form: Mapping[str, str], is_up: Callable[[str], bool]) -> str:
        """The body of the answer to one of `ACTIONS`.

        :raises Refusal: as EC2 would.
        """
        action, name = form["Action"], form.get("GroupName", "")
        if action == CREATE:
            return self._created(action, name, form.get("Strategy", "cluster"))
        if action == DELETE:
            return self._deleted(action, name, is_up)
        names = [value for key, value in form.items() if key.startswith("GroupName.")]
        for one in names:
            self._known(one)
        items = "".join(map(self._item, names or sorted(self._strategies)))
        return _body(action, f"<placementGroupSet>{items}</placementGroupSet>")

    def check(self, launch: LaunchCall, is_up: Callable[[str], bool]) -> None:
        """:raises Refusal: this may not be launched into the group that it names."""
        if not launch.group:
            return
        if self._known(launch.group) != "cluster":
            return
        supported = INSTANCE_TYPES[launch.kind].get("PlacementGroupInfo", {})
        if "cluster" not in supported.get("SupportedStrategies", ()):
            raise Refusal(
                "InvalidParameterCombination",
                f"Cluster placement groups are not supported by the '{launch.kind}' instance "
                "type. Specify a supported instance type or change the placement group strategy, "
                "and try again.",
            )
        for zone in self._zones(launch.group, is_up) - {launch.zone}:
            raise Refusal(
                "InvalidPlacementGroup.InUse",
                f"The placement group '{launch.group}' is in use in another availability zone: "
                f"{zone}",
            )

    def join(self, launch: LaunchCall, instances: Sequence[str]) -> None:
        if launch.group:
            self._members |= dict.fromkeys(instances, (launch.group, launch.zone))

    def _created(self, action: str, name: str, strategy: str) -> str:
        if name in self._strategies:
            raise Refusal(
                "InvalidPlacementGroup.Duplicate", f"The Placement Group '{name}' already exists."
            )
        if strategy not in STRATEGIES:
            raise Refusal("InvalidParameterValue", f"Value ({strategy}) for strategy is invalid.")
        self._strategies[name] = strategy
        inside = self._item(name).replace("item>", "placementGroup>")
        return _body(action, inside)

    def _deleted(self, action: str, name: str, is_up: Callable[[str], bool]) -> str:
        self._known(name)
        if self._zones(name, is_up):
            raise Refusal(
                "InvalidPlacementGroup.InUse",
                f"The placement group '{name}' is in use and may not be deleted.",
            )
        del self._strategies[name]
        return _body(action, "<return>true</return>")

    def _known(self, name: str) -> str:
        if name not in self._strategies:
            raise Refusal(
                "InvalidPlacementGroup.Unknown", f"The Placement Group '{name}' is unknown."
            )
        return self._strategies[name]

    def _zones(self, name: str, is_up: Callable[[str], bool]) -> set[str]:
        return {
            zone
            for instance, (group, zone) in self._members.items()
            if group == name and is_up(instance)
        }

    def _item(self, name: str) -> str:
        number = sorted(self._strategies).index(name)
        return (
            f"<item><groupName>{escape(name)}</groupName><state>{self.state}</state>"
            f"<strategy>{self._strategies[name]}</strategy>"
            f"<groupId>pg-{number:017x}</groupId></item>"
        )


def _body(action: str, inside: str) -> str:
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    return (
        f'<{action}Response xmlns="{space}"><requestId>cloudbox</requestId>{inside}'
        f"</{action}Response>"
    )
