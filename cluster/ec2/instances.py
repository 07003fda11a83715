"""EC2's description of an instance, read into what the contract says of a node."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from scsched.cluster.pools import Candidate
from scsched.cluster.provider import NodeState, Seen

DEPLOYMENT = "scsched:deployment"
GANG = "scsched:gang"
POOL = "scsched:pool"
OWNER = "scsched:owner"

STATES = {
    "pending": NodeState.PENDING,
    "running": NodeState.RUNNING,
    "shutting-down": NodeState.STOPPING,
    "stopping": NodeState.STOPPING,
    "stopped": NodeState.STOPPING,
    "terminated": NodeState.TERMINATED,
}
UP = frozenset({NodeState.PENDING, NodeState.RUNNING})
_SPOT = frozenset({"Server.SpotInstanceTermination", "Server.SpotInstanceShutdown"})
_ASKED = "Client.UserInitiatedShutdown"
"""By a call to the API: ours, or a person's."""
_WHEN = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")

# Any: botocore has no types for its answers; nothing of one leaves this module unread.
Described = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance: what the contract says, and what only EC2 knows."""

    seen: Seen
    instance_id: str
    gang: str

    @property
    def is_up(self) -> bool:
        return self.seen.state in UP


def read(described: Described, *, gang: str = "") -> Instance:
    """An instance as RunInstances and DescribeInstances tell of it; its gang from its tags.

    An instance with our deployment's tag and without a gang's is somebody's own doing: its token is
    its id.
    """
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", ())}
    instance_id, gang = described["InstanceId"], gang or tags.get(GANG, "")
    state = STATES.get(described.get("State", {}).get("Name", ""), NodeState.PENDING)
    ending = state not in UP
    seen = Seen(
        token=f"{gang}-{described.get('AmiLaunchIndex', 0)}" if gang else instance_id,
        provider_id=instance_id,
        state=state,
        reason=_reason(described) if ending else "",
        pool=tags.get(POOL, ""),
        launched_at=_aware(described.get("LaunchTime")),
        ended_at=_ended_at(described) if ending else None,
        candidate=Candidate(
            described.get("InstanceType", ""),
            described.get("Placement", {}).get("AvailabilityZone", ""),
        ),
    )
    return Instance(seen, instance_id, gang)


def _reason(described: Described) -> str:
    """`spot`, nothing where it was asked for, else EC2's own code.

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
    """
    code = str(described.get("StateReason", {}).get("Code", ""))
    if code in _SPOT:
        return "spot"
    return "" if code == _ASKED else code


def _ended_at(described: Described) -> datetime | None:
    """From words like `User initiated (2026-11-22 06:52:08 GMT)`; billing ends then."""
    found = _WHEN.search(str(described.get("StateTransitionReason", "")))
    if not found:
        return None
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)
