"""What a RunInstances call asks for, and whether EC2 would grant it.

Client tokens as EC2 documents them: a token holds in one zone; the same token with the same words
gives the same instances, with other words IdempotentParameterMismatch, and that of an instance
which is gone IdempotentInstanceTerminated.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from tests.cloudbox.faults import Call, Refusal

USER_DATA_BYTES = 16 * 1024
TOKEN_LENGTH = 64
_NOT_COMPARED = frozenset({"ClientToken", "DryRun", "Version", "Action"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchCall:
    """The words of one RunInstances that the box itself understands."""

    kind: str
    zone: str
    spot: bool
    least: int
    most: int
    group: str
    """Of the placement groups; empty: none."""
    token: str
    words: str
    """Hash of all that a repeat must say in the same way."""
    max_price: Decimal | None

    @property
    def call(self) -> Call:
        market = "spot" if self.spot else "on-demand"
        return Call(action="RunInstances", kind=self.kind, zone=self.zone, market=market)


def read(form: Mapping[str, str], zone_of: Callable[[str], str]) -> LaunchCall:
    """The call from its form; `zone_of` gives a subnet's zone.

    :raises Refusal: EC2 would refuse it whatever the state of the cloud.
    """
    subnet = form.get("SubnetId") or form.get("NetworkInterface.1.SubnetId", "")
    _check(form, subnet)
    price = form.get("InstanceMarketOptions.SpotOptions.MaxPrice")
    return LaunchCall(
        kind=form["InstanceType"],
        zone=zone_of(subnet),
        spot=form.get("InstanceMarketOptions.MarketType") == "spot",
        least=int(form.get("MinCount", "1")),
        most=int(form.get("MaxCount", "1")),
        group=form.get("Placement.GroupName", ""),
        token=form.get("ClientToken", ""),
        words=_words(form),
        max_price=Decimal(price) if price else None,
    )


def _check(form: Mapping[str, str], subnet: str) -> None:
    if not subnet:
        raise Refusal("VPCIdNotSpecified", "No default VPC for this user; name a subnet")
    if _asks_for_public_address(form):
        raise Refusal("UnauthorizedOperation", "public addresses are not given here")
    if not form.get("InstanceType"):
        raise Refusal("MissingParameter", "The request must contain the parameter InstanceType")
    if not 1 <= int(form.get("MinCount", "1")) <= int(form.get("MaxCount", "1")):
        raise Refusal("InvalidParameterValue", "MinCount must be 1 to MaxCount")
    if len(base64.b64decode(form.get("UserData", ""))) > USER_DATA_BYTES:
        raise Refusal("InvalidParameterValue", "User data is limited to 16384 bytes")
    token = form.get("ClientToken", "")
    if len(token) > TOKEN_LENGTH or not token.isascii():
        raise Refusal("InvalidParameterValue", "ClientToken: up to 64 ASCII characters")


def _asks_for_public_address(form: Mapping[str, str]) -> bool:
    return any(
        key.endswith("AssociatePublicIpAddress") and value.lower() == "true"
        for key, value in form.items()
    )


def _words(form: Mapping[str, str]) -> str:
    compared = sorted((key, form[key]) for key in form if key not in _NOT_COMPARED)
    return hashlib.sha256(repr(compared).encode()).hexdigest()


@dataclass(slots=True)
class Tokens:
    """Tokens that were used, by zone, and what they made."""

    _made: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    def reservation(self, launch: LaunchCall) -> str | None:
        """The reservation this very call has made before.

        :raises Refusal: the token has said other words.
        """
        made = self._made.get((launch.token, launch.zone))
        if made is None:
            return None
        words, reservation = made
        if words != launch.words:
            raise Refusal(
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in "
                "previous request(s).",
            )
        return reservation

    def remember(self, launch: LaunchCall, reservation: str) -> None:
        if launch.token:
            self._made[launch.token, launch.zone] = (launch.words, reservation)


def terminated() -> Refusal:
    """The answer to a token whose instance has ended."""
    return Refusal(
        "IdempotentInstanceTerminated",
        "The client token you have provided is associated with a terminated instance. "
        "Please use a different client token.",
    )


@dataclass(slots=True)
class Limits:
    """How much there is. Unset: without end."""

    capacity: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Instances by (type, zone, market); "" in a place: any."""
    spot_instances: int | None = None
    on_demand_vcpus: int | None = None

    def grant(
        self, launch: LaunchCall, up: Sequence[Call], vcpus: Mapping[str, int], price: Decimal
    ) -> int:
        """How many instances this call gets. `up`: what runs already, one Call each.

        :raises Refusal: fewer than it takes.
        """
        if launch.spot and launch.max_price is not None and launch.max_price < price:
            raise Refusal(
                "SpotMaxPriceTooLow",
                f"Your Spot request price of {launch.max_price} is lower than the minimum "
                f"required Spot request fulfillment price of {price}.",
            )
        self._check_quota(launch, up, vcpus)
        free = self._free(launch, up)
        if free < launch.least:
            raise Refusal(
                "InsufficientInstanceCapacity",
                f"We currently do not have sufficient {launch.kind} capacity in the "
                f"Availability Zone you requested ({launch.zone}).",
            )
        return min(launch.most, free)

    def _check_quota(
        self, launch: LaunchCall, up: Sequence[Call], vcpus: Mapping[str, int]
    ) -> None:
        spot = sum(one.market == "spot" for one in up)
        if launch.spot and self.spot_instances is not None:
            if spot + launch.least > self.spot_instances:
                raise Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
        elif not launch.spot and self.on_demand_vcpus is not None:
            used = sum(vcpus[one.kind] for one in up if one.market != "spot")
            if used + launch.least * vcpus[launch.kind] > self.on_demand_vcpus:
                raise Refusal(
                    "VcpuLimitExceeded",
                    "You have requested more vCPU capacity than your current vCPU limit of "
                    f"{self.on_demand_vcpus} allows.",
                )

    def _free(self, launch: LaunchCall, up: Sequence[Call]) -> int:
        rooms = [
            room - sum(_fits(place, one) for one in up)
            for place, room in self.capacity.items()
            if _fits(place, launch.call)
        ]
        return min([*rooms, launch.most])


def _fits(place: tuple[str, str, str], call: Call) -> bool:
    mine = (call.kind, call.zone, call.market)
    return all(wanted in ("", got) for wanted, got in zip(place, mine, strict=True))
