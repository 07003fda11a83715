"""A provider whose nodes live outside the broker, as a cloud's do: no death of ours touches them.

It honours tokens and is unkind within the contract: replies to launches that happened get lost,
there is no capacity, it throttles, it lists new nodes late, it takes nodes back. Its nodes are
rows of a small database of its own; what time makes of them (up, listed, taken back) is read off
the clock, so nobody has to be there for it.
"""

import random
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Price,
    Refused,
    Seen,
    Throttled,
    Traits,
    Unreachable,
)
from tests.faults.kill.journal import Journal, Kind

LISTED_S = 60.0
"""How long an ended node is still listed."""
LATEST_LISTING_S = 1.0

_TABLE = """
CREATE TABLE IF NOT EXISTS nodes (
    number INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, deployment TEXT NOT NULL,
    pool TEXT NOT NULL, name TEXT, address TEXT, made_at REAL NOT NULL, up_at REAL NOT NULL,
    listed_at REAL NOT NULL, notice_at REAL, taken_at REAL, asked_at REAL, stopped_at REAL
)
"""
_END = "min(coalesce(taken_at, 9e99), coalesce(stopped_at, 9e99))"


@dataclass(frozen=True, slots=True)
class Node:
    """What is outside; times in seconds since the epoch."""

    number: int
    token: str
    deployment: str
    pool: str
    name: str | None
    address: str | None
    made_at: float
    up_at: float
    listed_at: float
    notice_at: float | None
    taken_at: float | None
    asked_at: float | None
    stopped_at: float | None

    @property
    def provider_id(self) -> str:
        return f"out-{self.number}"

    @property
    def ended_at(self) -> float | None:
        return min((at for at in (self.taken_at, self.stopped_at) if at is not None), default=None)

    def state(self, now: float) -> NodeState:
        if self.ended_at is not None and self.ended_at <= now:
            return NodeState.TERMINATED
        if self.asked_at is not None:
            return NodeState.STOPPING
        return NodeState.PENDING if now < self.up_at else NodeState.RUNNING

    def reason(self, now: float) -> str:
        taken = self.taken_at is not None and self.taken_at <= now
        return "spot" if taken and self.taken_at == self.ended_at else ""


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


class World:
    """The nodes, for whoever may look: the provider, the drivers, the judge."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nodes.db"
        self.journal = Journal(folder / "journal")

    def create(self) -> None:
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL").close()
            db.execute(_TABLE)

    def nodes(self, where: str = "1", *values: object) -> list[Node]:
        with self._open() as db:
            rows = db.execute(f"SELECT * FROM nodes WHERE {where} ORDER BY number", values)  # noqa: S608
            return [Node(*row) for row in rows]

    def up(self, address: str) -> set[str]:
        """Names of the nodes that run and have joined the driver at `address`."""
        now = time.time()
        found = self.nodes(f"address = ? AND up_at <= ? AND {_END} > ?", address, now, now)
        return {node.name for node in found if node.name is not None}

    def change(self, statement: str, *values: object) -> int:
        """Rows changed by one transaction; synced like the cloud's own memory."""
        with self._open() as db:
            return db.execute(statement, values).rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        try:
            yield db
        finally:
            db.close()


class OutsideProvider:
    """`Provider` and `Reclaims` over a world."""

    traits = Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)

    def __init__(self, world: World, moods: Moods | None = None) -> None:
        self._world = world
        self._moods = moods or Moods()
        self._chance = random.Random()  # noqa: S311 - for moods, not for secrets
        self._ticks = 0
        self._listed = False

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        return tuple(self._launch(request) for request in requests)

    def list(self) -> tuple[Seen, ...]:
        """The broker's first tick begins with a call of this."""
        if not self._listed:
            self._world.journal.write(Kind.TICK, run=1)
        self._listed = True
        now = time.time()
        found = self._world.nodes(f"listed_at <= ? AND {_END} > ?", now, now - LISTED_S)
        return tuple(
            Seen(node.token, node.provider_id, node.state(now), node.reason(now)) for node in found
        )

    def terminate(self, tokens: Sequence[str]) -> None:
        for token in tokens:
            self._world.journal.write(Kind.TERMINATE, token=token)
        if self._chance.random() < self._moods.lost_terminate:
            raise Unreachable("no answer to the termination; repeat it")
        now = time.time()
        for token in tokens:
            self._world.change(
                "UPDATE nodes SET asked_at = ?, stopped_at = ? "
                "WHERE token = ? AND asked_at IS NULL",
                now,
                now + self._chance.uniform(0.0, 0.2),
                token,
            )

    def notices(self) -> tuple[Notice, ...]:
        now = time.time()
        found = self._world.nodes(f"notice_at <= ? AND {_END} > ?", now, now)
        return tuple(
            Notice(node.token, datetime.fromtimestamp(node.taken_at, UTC))
            for node in found
            if node.taken_at is not None
        )

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        return ()

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        """No schedule is played here: the market takes back by itself."""

    def tick(self, now: datetime) -> None:
        """Nothing to do: the clock does it. Every tick calls this once."""
        self._ticks += 1
        if self._ticks == 2:
            self._world.journal.write(Kind.TICK, run=2)

    def _launch(self, request: LaunchRequest) -> Launched | Refused:
        self._world.journal.write(Kind.LAUNCH, token=request.token, word=request.pool.name)
        time.sleep(self._chance.uniform(0.0, self._moods.longest_launch_s))
        answer = self._made(request)
        time.sleep(self._chance.uniform(0.0, self._moods.longest_launch_s))
        said = answer.error.code if isinstance(answer, Refused) else "launched"
        self._world.journal.write(Kind.ANSWER, token=request.token, word=said)
        return answer

    def _made(self, request: LaunchRequest) -> Launched | Refused:
        token, moods = request.token, self._moods
        drawn = self._chance.random()
        if drawn < moods.throttled:
            return Refused(token, Throttled("too many calls", retry_after_s=0.2))
        former = self._world.nodes("token = ?", token)
        if not former and drawn < moods.throttled + moods.no_capacity:
            return Refused(token, NoCapacity(f"pool {request.pool.name}: nothing to give"))
        node = former[0] if former else self._insert(request)
        if node.state(time.time()) is NodeState.TERMINATED:
            return Refused(token, BadRequest(f"{token}: its node has ended; use a new token"))
        self._join(request)
        if self._chance.random() < moods.lost_reply:
            return Refused(token, Unreachable(f"{token}: no answer to the launch; repeat it"))
        return Launched(token, node.provider_id)

    def _insert(self, request: LaunchRequest) -> Node:
        now, chance, moods = time.time(), self._chance, self._moods
        alive = self._world.nodes(f"pool = ? AND {_END} > ?", request.pool.name, now)
        if len(alive) >= request.pool.max_nodes:
            self._world.journal.write(Kind.OVER, token=request.token, word=request.pool.name)
        taken_at = notice_at = None
        if chance.random() < moods.taken_back:
            taken_at = now + chance.uniform(0.3, 3.0)
            notice_at = taken_at - 0.5 if chance.random() < 0.5 else None
        late = chance.uniform(0.0, LATEST_LISTING_S) if chance.random() < moods.listed_late else 0.0
        self._world.change(
            "INSERT INTO nodes (token, deployment, pool, made_at, up_at, listed_at, notice_at, "
            "taken_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            request.token,
            request.deployment,
            request.pool.name,
            now,
            now + chance.uniform(0.0, 0.3),
            now + late,
            notice_at,
            taken_at,
        )
        self._world.journal.write(Kind.MADE, token=request.token, word=request.pool.name)
        return self._world.nodes("token = ?", request.token)[0]

    def _join(self, request: LaunchRequest) -> None:
        """A node that was launched keeps the name and the scheduler it was launched with."""
        self._world.change(
            "UPDATE nodes SET name = ?, address = ? WHERE token = ? AND name IS NULL",
            request.name or None,
            request.join.scheduler_address,
            request.token,
        )
