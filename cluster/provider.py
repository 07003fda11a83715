"""The contract of a provider of nodes, and the errors by what the caller can do.

ProviderError            shown to the user as one line
├── NoCapacity       75  nothing was launched; another pool, or later
├── QuotaExceeded     3  nothing was launched; fewer nodes, or a person asks for a higher limit
├── Throttled        75  nothing was done; repeat after `retry_after_s`
├── Credentials       3  nothing was done; a person must look
├── BadRequest        3  nothing was done, and never will be; our request is wrong
└── Unreachable      75  it may or may not have been done; repeat with the same token

A node is known by its token: our own id, fixed before the provider hears of it. Every verb may be
repeated at any time, by another process too: a provider answers from what it sees, never from
memory.

Nodes of one gang have tokens `<gang>-<index>` with index 0, 1, ...; a provider launches the
requests of one gang that it is handed in one call all or none, of one kind in one zone. Of a gang
that is partly there, from a call before, the missing nodes are launched together or refused
together, and those that are there stay; once a node of it has ended it gets no more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from scsched.cluster.pools import ANY, Candidate, Market, Pool
from scsched.steps.errors import ScschedError


class ProviderError(ScschedError):
    """Base of what a provider raises or refuses with."""

    code = "provider"


class NoCapacity(ProviderError):
    """The provider has no such node to give now. Nothing was launched."""

    exit_code = 75
    code = "no_capacity"


class QuotaExceeded(ProviderError):
    """The account's limit is reached. Nothing was launched."""

    exit_code = 3
    code = "quota"


class Throttled(ProviderError):
    """Too many calls. Nothing was done."""

    exit_code = 75
    code = "throttled"

    def __init__(self, message: str, *, retry_after_s: float = 5.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Credentials(ProviderError):
    """The provider does not accept who we are. Nothing was done."""

    exit_code = 3
    code = "credentials"


class BadRequest(ProviderError):
    """The request can never succeed. Nothing was done."""

    exit_code = 3
    code = "bad_request"


class Unreachable(ProviderError):
    """No answer. What was asked may have been done: repeat with the same token before any other."""

    exit_code = 75
    code = "provider_unreachable"


class InProgress(ProviderError):
    """The call is still under way: repeat it to hear the answer."""

    exit_code = 75
    code = "in_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The person whose processes run on the node."""

    uid: int
    gid: int
    username: str


@dataclass(frozen=True, slots=True)
class Desk:
    """Where a remote node fetches the workflow's keys, once, with its ticket."""

    address: str
    """host:port on the submission host."""
    fingerprint: str
    """SHA-256 of the desk's certificate in DER, in hex: public, so it may stand in user data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """What a node needs to join its workflow: paths as the owner sees them."""

    scheduler_address: str
    tls_dir: Path
    work_dir: Path
    """A node of this machine writes its log here, as `<node name>.log`."""
    desk: Desk | None = None
    """For remote nodes, which cannot see `tls_dir`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One node to launch. The same token with other content is a `BadRequest`, or is ignored."""

    token: str
    name: str
    pool: Pool
    owner: Owner
    join: Join
    deployment: str
    candidate: Candidate = ANY
    ticket: str = ""
    """Lets a remote node fetch its keys at the desk, once. Worth nothing after that."""


@dataclass(frozen=True, slots=True)
class Launched:
    """The node exists. `provider_id` is the provider's own name for it."""

    token: str
    provider_id: str
    launched_at: datetime | None = None
    """From when the provider bills; None: from now."""
    usd_per_hour: Decimal | None = None
    """Its price at launch; None: as the pool says."""


@dataclass(frozen=True, slots=True)
class Refused:
    """No node, except after `Unreachable`, which leaves that open."""

    token: str
    error: ProviderError


class NodeState(StrEnum):
    """What the provider says of a node."""

    PENDING = "pending"
    """Accepted; not running yet."""
    RUNNING = "running"
    """It runs; whether its worker answers is the driver's to know."""
    STOPPING = "stopping"
    """On its way out, or dead with processes left; `terminate` may be repeated."""
    TERMINATED = "terminated"
    """Nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node of our deployment. `reason` says why it ended: `spot`, or the provider's own word."""

    token: str
    provider_id: str
    state: NodeState
    reason: str = ""
    pool: str = ""
    launched_at: datetime | None = None
    ended_at: datetime | None = None
    """Until when the provider bills, where it tells."""
    usd_per_hour: Decimal | None = None
    candidate: Candidate = ANY
    built: bool = True
    """False: there may never be a node; the answer to its launch will tell."""


@dataclass(frozen=True, slots=True)
class Notice:
    """The node will be taken back at `deadline`."""

    token: str
    deadline: datetime


@dataclass(frozen=True, slots=True)
class Price:
    """What one node costs from `since` on."""

    candidate: Candidate
    market: Market
    usd_per_hour: Decimal
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How a provider behaves, as far as its caller must know."""

    remote: bool
    """Calls go over a network and may take seconds: never from the thread that ticks."""
    listing_lag_s: float
    """How long after a launch listings may lack the node, or show another's old state."""
    stranger_grace_s: float
    """How old a node must be that no record knows, until it is ended as an orphan."""
    tells_spot_prices: bool = False
    """`prices` has something to say of every spot pool."""


class Provider(Protocol):
    """Where nodes come from. Calls block; none takes longer than about 10 s a node.

    Each method may be called again after any error or crash without harm.
    """

    @property
    def traits(self) -> Traits: ...

    def launch(self, requests: Sequence[LaunchRequest]) -> Sequence[Launched | Refused]:
        """One answer per request, in order; raises nothing of its own.

        A token that has a live node gets that node again. After `Refused` with `Unreachable`
        repeat the same token until the answer is another one: only then try another candidate or
        pool. The token of a node that has ended launches nothing and is refused with `BadRequest`.
        """
        ...

    def list(self) -> Sequence[Seen]:
        """Every node of our deployment; ended ones for about an hour.

        A node launched a moment ago may be missing still: count a node as gone when two listings
        a grace period apart lack it.

        :raises ProviderError: nothing can be said about any node.
        """
        ...

    def terminate(self, tokens: Sequence[str]) -> None:
        """End these nodes and all that runs on them. A token without a node counts as done.

        On return each is ended or ending; `list` says TERMINATED when nothing is left.

        :raises ProviderError: any of them may still run; repeat with all.
        """
        ...

    def notices(self) -> Sequence[Notice]:
        """Announced reclaims of nodes that are still up.

        :raises ProviderError: nothing can be said about any node.
        """
        ...

    def prices(self, pools: Sequence[Pool], since: datetime) -> Sequence[Price]:
        """Prices of these pools' candidates in force at `since` and their changes after it.

        Empty where the provider knows no prices: then the pools' own hold.

        :raises ProviderError: nothing can be said about prices.
        """
        ...


def gang_of(token: str) -> str:
    """The part of a token that the nodes of one gang share."""
    return token.rpartition("-")[0] or token


def by_gang(requests: Sequence[LaunchRequest]) -> Sequence[Sequence[LaunchRequest]]:
    """The requests of each gang, in their order."""
    gangs: dict[str, list[LaunchRequest]] = {}
    for request in requests:
        gangs.setdefault(gang_of(request.token), []).append(request)
    return tuple(gangs.values())


def in_order(
    requests: Sequence[LaunchRequest], answers: Iterable[Launched | Refused]
) -> tuple[Launched | Refused, ...]:
    """One answer per request."""
    by_token = {answer.token: answer for answer in answers}
    return tuple(by_token[request.token] for request in requests)


def index_of(token: str) -> int:
    """The node's place in its gang, from 0."""
    last = token.rpartition("-")[2]
    return int(last) if last.isdecimal() else 0
