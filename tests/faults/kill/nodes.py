"""The nodes that there are outside of the broker, in a small database of their own.

Drivers look here for their workers, and the judge for what was left. What time makes of a node (up,
listed, taken back) is read off the clock, so nobody has to be there for it.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from scsched.cluster.provider import NodeState

_TABLE = """
CREATE TABLE IF NOT EXISTS nodes (
    number INTEGER PRIMARY KEY, provider_id TEXT NOT NULL UNIQUE, token TEXT NOT NULL,
    deployment TEXT NOT NULL, pool TEXT NOT NULL, name TEXT, address TEXT, made_at REAL NOT NULL,
    up_at REAL NOT NULL, listed_at REAL NOT NULL, notice_at REAL, taken_at REAL, asked_at REAL,
    stopped_at REAL
)
"""
END = "min(coalesce(taken_at, 9e99), coalesce(stopped_at, 9e99))"
"""When a node's end is, in SQL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What is outside; times in seconds since the epoch."""

    provider_id: str
    token: str
    deployment: str
    pool: str
    made_at: float
    up_at: float
    listed_at: float
    name: str | None = None
    address: str | None = None
    """Of the driver whose scheduler it joins."""
    number: int = 0
    notice_at: float | None = None
    taken_at: float | None = None
    asked_at: float | None = None
    stopped_at: float | None = None

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


class Nodes:
    """Of the world in that folder; any number of processes may look and write."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "nodes.db"

    def create(self) -> None:
        with self._open() as db:
            db.execute("PRAGMA journal_mode = WAL").close()
            db.execute(_TABLE)

    def all(self, where: str = "1", *values: object) -> list[Node]:
        with self._open() as db:
            rows = db.execute(f"SELECT * FROM nodes WHERE {where} ORDER BY number", values)  # noqa: S608
            return [Node(**row) for row in rows]

    def up(self, address: str) -> set[str]:
        """Names of the nodes that run and have joined the driver at `address`."""
        now = time.time()
        found = self.all(f"address = ? AND up_at <= ? AND {END} > ?", address, now, now)
        return {node.name for node in found if node.name is not None}

    def add(self, node: Node) -> None:
        """Under a number of its own. :raises IntegrityError: its provider's id is taken."""
        named = [field.name for field in fields(Node) if field.name != "number"]
        places = ", ".join("?" * len(named))
        values = [getattr(node, name) for name in named]
        self.change(f"INSERT INTO nodes ({', '.join(named)}) VALUES ({places})", *values)  # noqa: S608

    def change(self, statement: str, *values: object) -> int:
        """Rows changed by one transaction; synced like the cloud's own memory."""
        with self._open() as db:
            return db.execute(statement, values).rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        db.row_factory = sqlite3.Row
        try:
            yield db
        finally:
            db.close()
