"""A provider whose nodes live outside the broker, as a cloud's do: no death of ours touches them.

It honours tokens and is unkind within the contract: replies to launches that happened get lost,
there is no capacity, it throttles, it lists new nodes late, it takes nodes back.
"""

import random
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from scsched.cluster.pools import Market
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    ProviderError,
    Refused,
    Seen,
    Throttled,
    Unreachable,
    gang_of,
)
from scsched.db.session import Store
from scsched.scheduler import presence
from scsched.scheduler.config import Settings
from scsched.scheduler.config_pools import PoolConfig
from scsched.scheduler.wiring import Outside
from tests.faults.kill import null_driver
from tests.faults.kill.journal import Journal, Kind
from tests.faults.kill.marks import Marks
from tests.faults.kill.nodes import END, Node, Nodes

LISTED_S = 60.0
"""How long an ended node is still listed."""
LATEST_LISTING_S = 1.0
POOLS = (
    PoolConfig(name="dear", max_nodes=4, cores=2, memory_gib=64.0, usd_per_hour=Decimal("1.0"),
               warm_s=1.0, boot_s=10.0),
    PoolConfig(name="spot", market=Market.SPOT, max_nodes=4, cores=2, memory_gib=64.0,
               usd_per_hour=Decimal("0.3"), warm_s=1.0, boot_s=10.0),
    PoolConfig(name="service", service=True, max_nodes=3, cores=1, memory_gib=2.0, warm_s=1.0,
               boot_s=10.0),
)  # fmt: skip
GRACE = timedelta(seconds=3 * LATEST_LISTING_S)
"""Shorter than a cloud's, as this one lists a node within a second."""


@dataclass(frozen=True, slots=True)
class Moods:
    """How unkind it is: shares of the launches, of the nodes, and times."""

    lost_reply: float = 0.10
    no_capacity: float = 0.05
    throttled: float = 0.05
    lost_terminate: float = 0.05
    listed_late: float = 0.2
    taken_back: float = 0.15
    longest_launch_s: float = 0.04


class OutsideWorld:
    """Its nodes are rows, and its provider runs in the broker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes = Nodes(folder)
        self._journal = Journal.of(folder)

    @property
    def settings(self) -> Mapping[str, object]:
        return {"pool": POOLS}

    @contextmanager
    def there(self) -> Iterator[None]:
        self._nodes.create()
        yield

    def plant(self, deployment: str) -> None:
        token, now = f"stranger{secrets.token_hex(4)}-0", time.time()
        self._journal.write(Kind.PLANTED, token=token)
        self._nodes.add(
            Node(
                provider_id=f"out-{token}",
                token=token,
                deployment=deployment,
                pool="spot",
                made_at=now,
                up_at=now,
                listed_at=now,
            )
        )

    def preload(self) -> None:
        """Nothing."""

    def outside(self, settings: Settings, store: Store) -> Outside:
        presence.MISSING_GRACE = GRACE
        provider = OutsideProvider(self._nodes, self._journal)
        return Outside(
            providers={"local": provider},
            reclaims=provider,
            driver_program=null_driver.program(self._folder),
        )

    def nodes(self) -> Sequence[Node]:
        return self._nodes.all()

    def bill(self) -> None:
        return None


class OutsideProvider(Marks):
    """`Provider` and `Reclaims` over the rows."""

    def __init__(self, nodes: Nodes, journal: Journal, moods: Moods | None = None) -> None:
        super().__init__(journal)
        self._nodes = nodes
        self._moods = moods or Moods()
        self._chance = random.Random()  # noqa: S311 - for moods, not for secrets

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        gangs: defaultdict[str, list[LaunchRequest]] = defaultdict(list)
        for request in requests:
            gangs[gang_of(request.token)].append(request)
        answers = {one.token: one for gang in gangs.values() for one in self._launch(gang)}
        return tuple(answers[request.token] for request in requests)

    def list(self) -> tuple[Seen, ...]:
        super().list()
        now = time.time()
        found = self._nodes.all(f"listed_at <= ? AND {END} > ?", now, now - LISTED_S)
        return tuple(
            Seen(node.token, node.provider_id, node.state(now), node.reason(now)) for node in found
        )

    def terminate(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            self.journal.write(Kind.TERMINATE, token=token)
        if self._chance.random() < self._moods.lost_terminate:
            raise Unreachable("no answer to the termination; repeat it")
        now = time.time()
        for token in tokens:
            self._nodes.change(
                "UPDATE nodes SET asked_at = ?, stopped_at = ? "
                "WHERE token = ? AND asked_at IS NULL",
                now,
                now + self._chance.uniform(0.0, 0.2),
                token,
            )

    def notices(self) -> tuple[Notice, ...]:
        now = time.time()
        found = self._nodes.all(f"notice_at <= ? AND {END} > ?", now, now)
        return tuple(
            Notice(node.token, datetime.fromtimestamp(node.taken_at, UTC))
            for node in found
            if node.taken_at is not None
        )

    def _launch(self, gang: Sequence[LaunchRequest]) -> Sequence[Launched | Refused]:
        for one in gang:
            self.journal.write(Kind.LAUNCH, token=one.token, word=one.pool.name)
        time.sleep(self._chance.uniform(0.0, self._moods.longest_launch_s))
        answers = self._answers(gang)
        time.sleep(self._chance.uniform(0.0, self._moods.longest_launch_s))
        for answer in answers:
            said = answer.error.code if isinstance(answer, Refused) else "launched"
            self.journal.write(Kind.ANSWER, token=answer.token, word=said)
        return answers

    def _answers(self, gang: Sequence[LaunchRequest]) -> Sequence[Launched | Refused]:
        """All of the gang or none, unless its caller dies meanwhile."""
        if (error := self._refusal(gang)) is not None:
            return [Refused(one.token, error) for one in gang]
        is_lost = self._chance.random() < self._moods.lost_reply
        return [self._made(one, is_lost=is_lost) for one in gang]

    def _refusal(self, gang: Sequence[LaunchRequest]) -> ProviderError | None:
        drawn, moods = self._chance.random(), self._moods
        if drawn < moods.throttled:
            return Throttled("too many calls", retry_after_s=0.2)
        if drawn >= moods.throttled + moods.no_capacity:
            return None
        if any(self._nodes.all("token = ?", one.token) for one in gang):
            return None
        return NoCapacity(f"pool {gang[0].pool.name}: nothing to give")

    def _made(self, request: LaunchRequest, *, is_lost: bool) -> Launched | Refused:
        token = request.token
        former = self._nodes.all("token = ?", token)
        node = former[0] if former else self._insert(request)
        if node.state(time.time()) is NodeState.TERMINATED:
            return Refused(token, BadRequest(f"{token}: its node has ended; use a new token"))
        self._join(request)
        if is_lost:
            return Refused(token, Unreachable(f"{token}: no answer to the launch; repeat it"))
        return Launched(token, node.provider_id)

    def _insert(self, request: LaunchRequest) -> Node:
        now, chance, moods = time.time(), self._chance, self._moods
        taken_at = notice_at = None
        if chance.random() < moods.taken_back:
            taken_at = now + chance.uniform(0.3, 3.0)
            notice_at = taken_at - 0.5 if chance.random() < 0.5 else None
        late = chance.uniform(0.0, LATEST_LISTING_S) if chance.random() < moods.listed_late else 0.0
        node = Node(
            provider_id=f"out-{request.token}",
            token=request.token,
            deployment=request.deployment,
            pool=request.pool.name,
            made_at=now,
            up_at=now + chance.uniform(0.0, 0.3),
            listed_at=now + late,
            notice_at=notice_at,
            taken_at=taken_at,
        )
        self._nodes.add(node)
        return node

    def _join(self, request: LaunchRequest) -> None:
        """A node that was launched keeps the name and the scheduler it was launched with."""
        self._nodes.change(
            "UPDATE nodes SET name = ?, address = ? WHERE token = ? AND name IS NULL",
            request.name or None,
            request.join.scheduler_address,
            request.token,
        )
