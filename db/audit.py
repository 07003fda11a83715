"""What the audit and the reaper compare with the providers' lists, and what they write."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from sqlalchemy import insert, select

from scsched.db import nodes as node_rows
from scsched.db.batches import portions
from scsched.db.models import events, nodes
from scsched.db.nodes import NodeRec
from scsched.db.session import Session


def by_token(session: Session, tokens: Iterable[str]) -> Mapping[str, NodeRec]:
    """The node that each of these tokens was given to, ended or not."""
    ids = [
        node_id
        for portion in portions(tokens)
        for node_id in session.scalars(select(nodes.c.id).where(nodes.c.token.in_(portion)))
    ]
    return {node.token: node for node in node_rows.get(session, ids)}


def tell(
    session: Session, kind: str, text: str, now: datetime, node: NodeRec | None = None
) -> None:
    """An event that belongs to a node of ours, or to no workflow at all."""
    row = {
        "at": now,
        "kind": kind,
        "text": text,
        "workflow_id": node.workflow_id if node else None,
        "node_id": node.id if node else None,
    }
    session.execute(insert(events).values(row))
