"""Plays the spot market with local nodes: takes them back when a workflow's schedule says so."""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from scsched.db import plays
from scsched.db.models import Market, NodeState
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun, open_runs_of
from scsched.db.plays import Play
from scsched.db.session import Store
from scsched.scheduler.play import Interruption, parse

log = logging.getLogger("scsched.player")


class Reclaims(Protocol):
    """The part of the local provider that plays spot."""

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        """Take a node back, after a notice or at once. Safe to repeat."""
        ...

    def tick(self, now: datetime) -> object:
        """End the nodes whose notice has run out."""
        ...


class Player:
    """Fires every entry of a schedule once, recorded before it is done."""

    def __init__(self, store: Store, provider: Reclaims) -> None:
        self._store = store
        self._provider = provider

    def tick(self, now: datetime) -> None:
        self._provider.tick(now)
        with self._store.read() as session:
            playing = plays.open_plays(session)
            runs = open_runs_of(session) if playing else []
        for play in playing:
            mine = [run for run in runs if run.workflow_id == play.workflow_id]
            self._play(play, mine, now)

    def _play(self, play: Play, runs: Iterable[OpenRun], now: datetime) -> None:
        working = {run.ref: _iteration(run) for run in runs}
        elapsed_s = (now - play.submitted_at).total_seconds()
        for index, entry in enumerate(parse(play.schedule)):
            if index in play.fired or not entry.due(elapsed_s=elapsed_s, iterations=working):
                continue
            nodes = list(_victims(entry, runs))
            if nodes:
                self._fire(play, index, entry, nodes, now)

    def _fire(
        self, play: Play, index: int, entry: Interruption, nodes: list[NodeRec], now: datetime
    ) -> None:
        names = ", ".join(node.name for node in nodes)
        how = "without notice" if entry.notice_s is None else f"in {entry.notice_s:.0f} s"
        with self._store.write() as session:
            plays.fired(session, play.workflow_id, index, f"spot played: {names} taken {how}", now)
        for node in nodes:
            self._provider.play(node.token, entry.notice_s, now=now)


def _victims(entry: Interruption, runs: Iterable[OpenRun]) -> Iterable[NodeRec]:
    """Spot nodes of the runs that are hit."""
    for run in runs:
        if entry.step is not None and run.ref != entry.step:
            continue
        spot = [
            node for node in run.nodes if node.market is Market.SPOT and node.state is NodeState.UP
        ]
        yield from spot[-1:] if entry.one else spot


def _iteration(run: OpenRun) -> int:
    found = (run.progress or {}).get("iteration")
    return found if isinstance(found, int) else 0
