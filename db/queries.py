"""Reading for display. The number of queries never depends on the number of rows."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256

from sqlalchemy import ColumnElement, select

from scsched.db.batches import portions
from scsched.db.charges import paid_for
from scsched.db.models import charges, events, nodes, runs, steps, workflows
from scsched.db.money import usd
from scsched.db.receipts import hist as hist
from scsched.db.receipts import receipt as receipt
from scsched.db.receipts import runs_of as runs_of
from scsched.db.session import Session
from scsched.db.step_queries import steps_of as steps_of
from scsched.db.views import Document, EventView, NodeView
from scsched.db.workflow_queries import workflow as workflow
from scsched.db.workflow_queries import workflow_rows as workflow_rows
from scsched.steps.errors import NotFound


def document(session: Session, workflow_id: int) -> Document:
    """:raises NotFound: no such workflow."""
    row = session.execute(
        select(workflows.c.filename, workflows.c.document).where(workflows.c.id == workflow_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"no workflow {workflow_id}", hint="scsched queue lists them")
    return Document(row.filename, row.document, sha256(row.document.encode()).hexdigest())


def node_rows(
    session: Session, now: datetime, *, workflow_id: int | None = None, live: bool = True
) -> list[NodeView]:
    """Nodes of one workflow or of all; those not ended, or all that ever were."""
    which: list[ColumnElement[bool]] = [nodes.c.ended_at.is_(None)] if live else []
    if workflow_id is not None:
        which.append(nodes.c.workflow_id == workflow_id)
    rows = session.execute(_NODES.where(*which).order_by(nodes.c.id)).all()
    paid = paid_for(session, charges.c.node_id, [row.id for row in rows])
    return [NodeView(**row._mapping, usd=usd(paid[row.id], now)) for row in rows]


def events_after(
    session: Session,
    after: int = 0,
    *,
    workflow_id: int | None = None,
    step_id: int | None = None,
    limit: int = 500,
) -> list[EventView]:
    """Events with larger ids, oldest first. Ids grow in the order of the commits."""
    which = [events.c.id > after]
    if step_id is not None:
        which.append(events.c.step_id == step_id)
    elif workflow_id is not None:
        which.append(events.c.workflow_id == workflow_id)
    rows = session.execute(_EVENTS.where(*which).order_by(events.c.id).limit(limit))
    return [EventView(**row._mapping) for row in rows]


def last(session: Session, uid: int | None = None) -> int | None:
    """The newest workflow, of one user or of all. None: there is none."""
    newest = select(workflows.c.id).order_by(workflows.c.id.desc()).limit(1)
    return session.scalar(newest if uid is None else newest.where(workflows.c.uid == uid))


def tagged(
    session: Session, value: str, key: str | None = None, uid: int | None = None
) -> list[int]:
    """Workflows with the tag `key=value`, or with `value` under any key; oldest first."""
    query = select(workflows.c.id, workflows.c.tags).order_by(workflows.c.id)
    rows = session.execute(query if uid is None else query.where(workflows.c.uid == uid))
    return [row.id for row in rows if _has_tag(row.tags, value, key)]


def live_workflows(session: Session, uid: int | None = None) -> list[int]:
    """Those that have not ended; oldest first."""
    query = select(workflows.c.id).where(workflows.c.ended_at.is_(None)).order_by(workflows.c.id)
    return list(session.scalars(query if uid is None else query.where(workflows.c.uid == uid)))


def lives_in(session: Session, project: str, *, but: int) -> int | None:
    """Another workflow that has not ended and works in this Scipion project, if there is one."""
    return session.scalar(
        select(workflows.c.id)
        .where(workflows.c.project == project, workflows.c.ended_at.is_(None))
        .where(workflows.c.id != but)
        .limit(1)
    )


def owners(session: Session, workflow_ids: Iterable[int]) -> dict[int, int]:
    """The uid of each of these workflows that exists."""
    query = select(workflows.c.id, workflows.c.uid)
    return {
        row.id: row.uid
        for ids in portions(workflow_ids)
        for row in session.execute(query.where(workflows.c.id.in_(ids)))
    }


def step_ids(
    session: Session, workflow_id: int, refs: Sequence[str] | None = None
) -> dict[str, int]:
    """The id of each step by its ref; of these refs, or of the whole workflow.

    :raises NotFound: it has no step of such a ref.
    """
    query = select(steps.c.ref, steps.c.id).where(steps.c.workflow_id == workflow_id)
    found = {row.ref: row.id for row in session.execute(query.order_by(steps.c.position))}
    if refs is None:
        return found
    for ref in refs:
        if ref not in found:
            raise NotFound(f"workflow {workflow_id} has no step {ref}")
    return {ref: found[ref] for ref in refs}


_NODES = (
    select(
        nodes.c.id,
        nodes.c.workflow_id,
        workflows.c.username,
        nodes.c.pool,
        nodes.c.provider,
        nodes.c.provider_id,
        nodes.c.kind,
        nodes.c.zone,
        nodes.c.market,
        nodes.c.state,
        nodes.c.cores,
        nodes.c.memory_gib,
        nodes.c.gpus,
        nodes.c.usd_per_hour,
        nodes.c.run_id,
        steps.c.ref.label("step"),
        nodes.c.created_at,
        nodes.c.launched_at,
        nodes.c.up_at,
        nodes.c.idle_since,
        nodes.c.notice_deadline,
        nodes.c.ended_at,
        nodes.c.end_reason,
    )
    .join(workflows, workflows.c.id == nodes.c.workflow_id)
    .outerjoin(runs, runs.c.id == nodes.c.run_id)
    .outerjoin(steps, steps.c.id == runs.c.step_id)
)
_EVENTS = select(
    events.c.id,
    events.c.at,
    events.c.workflow_id,
    steps.c.ref.label("step"),
    events.c.run_id,
    events.c.node_id,
    events.c.epoch,
    events.c.actor_uid,
    events.c.kind,
    events.c.text,
).outerjoin(steps, steps.c.id == events.c.step_id)


def _has_tag(tags: Mapping[str, str], value: str, key: str | None) -> bool:
    return value in tags.values() if key is None else tags.get(key) == value
