"""Corrects what was recorded of a node's end without its provider's word, once that comes.

A listing keeps nodes that have ended for a while. Each is compared with the record once.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime

from scsched.cluster.provider import NodeState, Seen
from scsched.db import audit as records
from scsched.db import bills
from scsched.db.bills import Life
from scsched.db.nodes import NodeRec
from scsched.db.session import Store
from scsched.scheduler.fleet import Census

log = logging.getLogger("scsched.bills")


class Bills:
    """Remembers of which nodes the record is right."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._right: set[str] = set()

    def tick(self, now: datetime, census: Census) -> None:
        """One look at what is listed as ended."""
        over = {
            token: seen
            for token, seen in census.seen.items()
            if seen.state is NodeState.TERMINATED and seen.ended_at is not None
        }
        self._right &= over.keys()
        new = over.keys() - self._right
        if not new:
            return
        with self._store.read() as session:
            known = records.by_token(session, new)
        lives = [life for life in _lives(known, over) if life.is_new]
        if lives:
            with self._store.write() as session:
                corrected = bills.correct(session, lives, now)
            log.warning("nodes %s were billed otherwise than recorded", sorted(corrected))
        living = {token for token, node in known.items() if node.ended_at is None}
        self._right |= new - living


def _lives(known: Mapping[str, NodeRec], over: Mapping[str, Seen]) -> Iterable[Life]:
    """As far as the provider tells; who never had a launch was never billed."""
    for token, node in known.items():
        seen = over[token]
        launched_at = seen.launched_at or node.launched_at
        if launched_at is not None and seen.ended_at is not None:
            yield Life(node, seen.provider_id, launched_at, seen.ended_at)
