"""Nodes whose pool or provider was taken out of the configuration.

not launched            ends as refused; the step goes elsewhere, or says that nothing takes it
launched, provider here runs to the end of its run, and is ended as any other
launched, provider gone nobody can end it: its driver ends when no run needs it, and it ends itself
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from scsched.db import nodes as node_rows
from scsched.db.events import event, record
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Census, Fleet
from scsched.scheduler.intents import is_intent

log = logging.getLogger("scsched.unconfigured")


def missing_part(node: NodeRec, fleet: Fleet) -> str:
    """What of its configuration is gone; empty: nothing."""
    if fleet.traits(node.provider) is None:
        return f"provider {node.provider}"
    return "" if fleet.pool(node.pool) is not None else f"pool {node.pool}"


def keeps_driver(node: NodeRec, fleet: Fleet) -> bool:
    """Whether its driver waits until it has gone: not where only that end would let it go."""
    return node.terminate_asked_at is None or fleet.traits(node.provider) is not None


class Unconfigured:
    """Tells of them once a start, and ends what was only intended."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._told: set[tuple[int, str]] = set()

    def tick(self, now: datetime, census: Census, live: Iterable[NodeRec]) -> None:
        found = [(node, part) for node in live if (part := missing_part(node, self._fleet))]
        if not found:
            return
        self._tell(found, now)
        refused = [
            (node.id, f"refused: {part} is not configured any more")
            for node, part in found
            if is_intent(node) and not self._may_come(node, census)
        ]
        if refused:
            with self._store.write() as session:
                node_rows.ended(session, refused, now)

    def _may_come(self, node: NodeRec, census: Census) -> bool:
        """Its launch may be seen yet. Should one come later, it is nobody's, and is ended so."""
        unheard = node.provider in census.silent or node.token in census.seen
        return unheard or self._fleet.under_way(node.provider, node.token)

    def _tell(self, found: Iterable[tuple[NodeRec, str]], now: datetime) -> None:
        news: defaultdict[tuple[int, str], list[NodeRec]] = defaultdict(list)
        for node, part in found:
            if (node.workflow_id, part) not in self._told:
                news[node.workflow_id, part].append(node)
        rows = []
        for (workflow_id, part), nodes in news.items():
            text = f"{part} is not configured any more: {self._outlook(nodes)}"
            log.error("workflow %d: %s", workflow_id, text)
            rows.append(event("unconfigured", text, workflow_id=workflow_id))
        if rows:
            with self._store.write() as session:
                record(session, now, rows)
        self._told |= news.keys()

    def _outlook(self, nodes: Sequence[NodeRec]) -> str:
        names = ", ".join(node.name for node in nodes)
        if self._fleet.traits(nodes[0].provider) is not None:
            return f"no step is given to {names}"
        return f"{names} cannot be ended from here; configure it again, or end them in its console"
