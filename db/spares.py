"""Spares: nodes asked for while a step runs that will lose some of its own, or has lost some."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, select

from scsched.db.batches import portions
from scsched.db.events import event, record
from scsched.db.gangs import NewNode
from scsched.db.models import Market, NodeState, nodes, workflows
from scsched.db.nodes import NodeRec
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class NewSpare:
    """The intent to have one more node for a step, before any provider hears of it."""

    step_id: int
    workflow_id: int
    run_id: int
    """The run that is about to lose a node, or lacks one; the event tells of it."""
    pool: str
    market: Market
    node: NewNode
    why: str = "to take the place of a node under notice"


def intend(session: Session, spares: Sequence[NewSpare], now: datetime) -> list[int]:
    """Write these nodes down as REQUESTED, without a run; their ids."""
    if not spares:
        return []
    uid_of = _uids(session, sorted({spare.workflow_id for spare in spares}))
    rows = [
        {
            "workflow_id": spare.workflow_id,
            "uid": uid_of[spare.workflow_id],
            "pool": spare.pool,
            "provider": spare.node.provider,
            "market": spare.market,
            "token": spare.node.token,
            "state": NodeState.REQUESTED,
            "cores": spare.node.cores,
            "memory_gib": spare.node.memory_gib,
            "gpus": spare.node.gpus,
            "usd_per_hour": spare.node.usd_per_hour,
            "created_at": now,
            "kind": spare.node.kind,
            "zone": spare.node.zone,
            "spare_for": spare.step_id,
        }
        for spare in spares
    ]
    made = session.execute(insert(nodes).returning(nodes.c.token, nodes.c.id), rows)
    id_of = {row.token: row.id for row in made}
    for spare in spares:
        _tell(session, spare, id_of[spare.node.token], now)
    return [id_of[spare.node.token] for spare in spares]


def is_spare(node: NodeRec, step_id: int) -> bool:
    """Whether it is on its way for this step, or has come, and waits."""
    return (
        node.spare_for == step_id
        and node.run_id is None
        and node.terminate_asked_at is None
        and node.notice_at is None
    )


def _tell(session: Session, spare: NewSpare, node_id: int, now: datetime) -> None:
    """One event of the node, as of any other, and one of the run that it is for."""
    of_run = {"workflow_id": spare.workflow_id, "step_id": spare.step_id, "run_id": spare.run_id}
    cores = f"{spare.node.cores} cores at {spare.pool}"
    why = f"n{node_id} is asked for, {spare.why}"
    record(
        session,
        now,
        [
            event("node_requested", f"n{node_id}: {cores}", **of_run, node_id=node_id),
            event("spare_requested", why, **of_run),
        ],
    )


def _uids(session: Session, workflow_ids: Sequence[int]) -> dict[int, int]:
    query = select(workflows.c.id, workflows.c.uid)
    return {
        workflow_id: uid
        for portion in portions(workflow_ids)
        for workflow_id, uid in session.execute(query.where(workflows.c.id.in_(portion)))
    }
