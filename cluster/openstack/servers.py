"""What Nova says of a server, in the contract's words.

    BUILD ──► ACTIVE and the like ──► SHUTOFF, ERROR, SHELVED ──► DELETED
    PENDING   RUNNING                 STOPPING: to be ended       TERMINATED

OpenStack keeps a server that powered itself off, with its place and its price: so it counts as
on its way out, and whoever lists it has to `terminate` it.

Nova shows deleted servers only to those who ask for changes since a time, and then without their
metadata and their fault: all that is left is the name. So the name has the deployment and the
token, and, from just before the deletion, why it was.

    scsched-1f8a90c3d2-41-0          a node on demand, of the deployment with that digest
    scspot-1f8a90c3d2-41-0.asked     one of the spot market, which we ended
    scsched-1f8a90c3d2-41-0.no_capacity      it could not be built, so its gang was not launched
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from scsched.cluster.openstack.errors import of_fault
from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    NodeState,
    ProviderError,
    QuotaExceeded,
    Seen,
)

DEPLOYMENT = "scsched_deployment"
GANG = "scsched_gang"
NODE = "scsched_node"
POOL = "scsched_pool"
OWNER = "scsched_owner"
FLAVOR = "scsched_flavor"
ZONE = "scsched_zone"
DOUBLE = "~"
"""Parts token and server id in the token of a server that nobody needs: the second of a token."""

_NAME = re.compile(r"(scsched|scspot)-([0-9a-f]{10})-([A-Za-z0-9-]+?)(?:\.([a-z_]+))?")
_PREFIX: Mapping[Market, str] = {Market.ON_DEMAND: "scsched", Market.SPOT: "scspot"}
_ASKED = "asked"
_OF_STATUS: Mapping[str, str] = {"ERROR": "error", "SHUTOFF": "powered_off", "SHELVED": "shelved"}
_NOT_BUILT: Mapping[str, type[ProviderError]] = {
    error.code: error for error in (NoCapacity, QuotaExceeded, BadRequest, Credentials)
}
_SPOT = "spot"
_NEVER = datetime.max.replace(tzinfo=UTC)
_STATES: Mapping[str, NodeState] = {
    "BUILD": NodeState.PENDING,
    "ACTIVE": NodeState.RUNNING,
    "HARD_REBOOT": NodeState.RUNNING,
    "MIGRATING": NodeState.RUNNING,
    "PASSWORD": NodeState.RUNNING,
    "PAUSED": NodeState.RUNNING,
    "REBOOT": NodeState.RUNNING,
    "REBUILD": NodeState.RUNNING,
    "RESCUE": NodeState.RUNNING,
    "RESIZE": NodeState.RUNNING,
    "REVERT_RESIZE": NodeState.RUNNING,
    "SUSPENDED": NodeState.RUNNING,
    "UNKNOWN": NodeState.RUNNING,
    "VERIFY_RESIZE": NodeState.RUNNING,
    "ERROR": NodeState.STOPPING,
    "SHELVED": NodeState.STOPPING,
    "SHELVED_OFFLOADED": NodeState.STOPPING,
    "SHUTOFF": NodeState.STOPPING,
    "SOFT_DELETED": NodeState.STOPPING,
    "DELETED": NodeState.TERMINATED,
}
"""https://docs.openstack.org/api-guide/compute/server_concepts.html. Whether the worker on a paused
one answers is the driver's to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server of ours."""

    server_id: str
    name: str
    seen: Seen
    status: str
    fault: str
    """Why Nova could not build it, or what it says of an error; empty: nothing."""
    mark: str
    """Why we ended it, or are about to; empty: we did not."""
    created: datetime | None
    is_placed: bool
    """A host has it: the cloud had room."""
    ran: bool

    @property
    def is_up(self) -> bool:
        return self.seen.state in (NodeState.PENDING, NodeState.RUNNING)

    @property
    def is_gone(self) -> bool:
        return self.seen.state is NodeState.TERMINATED

    @property
    def was_not_built(self) -> bool:
        """Its gang counts as never launched."""
        unbuilt = self.status == "ERROR" and not self.ran
        return unbuilt or self.mark in _NOT_BUILT

    @property
    def refusal(self) -> type[ProviderError] | None:
        """With what its gang was refused before; None: it was not."""
        return _NOT_BUILT.get(self.mark)


def name_of(deployment: str, token: str, market: Market) -> str:
    """The name of the server of that token."""
    return f"{_PREFIX[market]}-{_digest(deployment)}-{token}"


def names_like(deployment: str, gang: str | None = None) -> str:
    """A regular expression for Nova: our servers, or those of one gang."""
    return f"^sc[a-z]+-{_digest(deployment)}-" + ("" if gang is None else f"{gang}-")


def marked(server: Server, refused: ProviderError | None) -> str:
    """The server's name while we delete it, which says why: that it was never built before all."""
    if refused is not None:
        mark = refused.code
    elif server.mark in _NOT_BUILT:
        mark = server.mark
    elif server.was_not_built:
        mark = of_fault(server.fault, server.name).code
    else:
        mark = _OF_STATUS.get(server.status, _ASKED)
    return f"{server.name.partition('.')[0]}.{mark}"


# Any: a server as openstacksdk has it.
def read(server: Any, deployment: str) -> Server | None:
    """None: it is not of this deployment."""
    parts = _NAME.fullmatch(str(server.name))
    tags: Mapping[str, str] = server.metadata or {}
    status = str(server.status or "UNKNOWN").upper()
    ours = parts is not None and parts[2] == _digest(deployment)
    if parts is None or not ours or (status != "DELETED" and tags.get(DEPLOYMENT) != deployment):
        return None
    launched, mark = _time(server.launched_at), parts[4] or ""
    seen = Seen(
        token=parts[3],
        provider_id=str(server.id),
        state=_state(status, server.task_state),
        reason=_reason(status, mark, is_spot=parts[1] == _PREFIX[Market.SPOT]),
        pool=tags.get(POOL, ""),
        launched_at=launched or _time(server.created_at),
        ended_at=_time(server.terminated_at) if status == "DELETED" else None,
        candidate=Candidate(tags.get(FLAVOR, ""), tags.get(ZONE, "")),
        built=launched is not None and mark not in _NOT_BUILT,
    )
    return Server(
        server_id=str(server.id),
        name=str(server.name),
        seen=seen,
        status=status,
        fault=str((server.fault or {}).get("message", "")).strip(),
        mark=mark,
        created=_time(server.created_at),
        is_placed=bool(server.host_id) or launched is not None,
        ran=launched is not None,
    )


def by_token(listed: Iterable[Server]) -> dict[str, list[Server]]:
    """Each token's servers: those that exist before those that are gone, and the oldest first."""
    found: dict[str, list[Server]] = {}
    for one in sorted(listed, key=_age):
        found.setdefault(one.seen.token, []).append(one)
    return found


def sights(listed: Iterable[Server]) -> list[Seen]:
    """One answer per node. What was never built is no node.

    A second server of a token, from a call whose answer was lost and that was carried out late, is
    shown under a token that no record knows: so it is ended as nobody's.
    """
    seen: list[Seen] = []
    for same in by_token(one for one in listed if not _is_nothing(one)).values():
        seen.append(same[0].seen)
        seen += [_double(one) for one in same[1:] if not one.is_gone]
    return seen


def to_end(listed: Iterable[Server], tokens: Sequence[str]) -> list[Server]:
    """The servers that these tokens mean and that are not gone yet."""
    nodes = {token for token in tokens if DOUBLE not in token}
    doubles = {token.rpartition(DOUBLE)[2] for token in tokens if DOUBLE in token}
    return [
        one
        for one in listed
        if not one.is_gone and (one.seen.token in nodes or one.server_id in doubles)
    ]


def _is_nothing(server: Server) -> bool:
    return server.is_gone and server.was_not_built


def _double(server: Server) -> Seen:
    return replace(server.seen, token=f"{server.seen.token}{DOUBLE}{server.server_id}")


def _age(server: Server) -> tuple[bool, datetime, datetime, str]:
    """Creation is told to the second only."""
    created = server.created or _NEVER
    started = (server.seen.launched_at or _NEVER) if server.ran else _NEVER
    return server.is_gone, created, started, server.server_id


def _state(status: str, task: str | None) -> NodeState:
    state = _STATES.get(status, NodeState.RUNNING)
    leaving = task in ("deleting", "soft-deleting", "powering-off")
    return NodeState.STOPPING if leaving and state is not NodeState.TERMINATED else state


def _reason(status: str, mark: str, *, is_spot: bool) -> str:
    """Of a server that is gone: one that we did not end was taken by the cloud."""
    if status != "DELETED":
        return ""
    if not mark:
        return _SPOT if is_spot else "deleted"
    return "" if mark == _ASKED else mark.replace("_", " ")


def _digest(deployment: str) -> str:
    return sha256(deployment.encode()).hexdigest()[:10]


def _time(text: str | None) -> datetime | None:
    """Nova writes UTC, with or without saying so."""
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
