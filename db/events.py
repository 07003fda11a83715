"""The append-only record of what happened and why, written with the change itself."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import insert

from scsched.db.models import events
from scsched.db.session import Session

EventRow = dict[str, object]

_INSERT = insert(events)


def event(
    kind: str,
    text: str,
    *,
    workflow_id: int,
    step_id: int | None = None,
    run_id: int | None = None,
    node_id: int | None = None,
    epoch: int | None = None,
    actor_uid: int | None = None,
) -> EventRow:
    """One event, not yet written. `kind` is a stable word, `text` a sentence for a person."""
    return {
        "kind": kind,
        "text": text,
        "workflow_id": workflow_id,
        "step_id": step_id,
        "run_id": run_id,
        "node_id": node_id,
        "epoch": epoch,
        "actor_uid": actor_uid,
    }


def record(session: Session, now: datetime, rows: Iterable[EventRow]) -> None:
    """Write the events, in this order."""
    written = [{**row, "at": now} for row in rows]
    if written:
        session.execute(_INSERT, written)
