"""The nodes of a run: intended or taken over when it opens, freed when it ends."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol, Self

from sqlalchemy import bindparam, insert, select, update

from scsched.db import charges
from scsched.db.batches import one_of_ids, portions
from scsched.db.events import event, record
from scsched.db.models import Market, NodeState, nodes, workflows
from scsched.db.moves import Moved, undo
from scsched.db.session import Session
from scsched.steps.errors import StaleStep


@dataclass(frozen=True, slots=True)
class NewNode:
    """The intent to have a node. The provider is called under `token` and tags the node so."""

    token: str
    provider: str
    cores: int
    memory_gib: float
    usd_per_hour: Decimal
    gpus: int = 0
    kind: str = ""
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a gang is to be asked for instead. Its nodes get tokens `<gang>-<index>`."""

    gang: str
    kind: str
    zone: str
    usd_per_hour: Decimal


class _Wanted(Protocol):
    @property
    def pool(self) -> str: ...
    @property
    def market(self) -> Market: ...
    @property
    def new_nodes(self) -> tuple[NewNode, ...]: ...
    @property
    def reuse_nodes(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Gang:
    """The nodes that a run is to have."""

    run_id: int
    step_id: int
    workflow_id: int
    epoch: int
    pool: str
    market: Market
    new_nodes: tuple[NewNode, ...]
    reuse_nodes: tuple[int, ...]

    @classmethod
    def of(cls, step: Moved, run_id: int, wanted: _Wanted) -> Self:
        return cls(
            run_id=run_id,
            step_id=step.step_id,
            workflow_id=step.workflow_id,
            epoch=step.epoch,
            pool=wanted.pool,
            market=wanted.market,
            new_nodes=wanted.new_nodes,
            reuse_nodes=wanted.reuse_nodes,
        )


def assemble(session: Session, gangs: Sequence[Gang], now: datetime) -> dict[int, tuple[int, ...]]:
    """Intend the new nodes of each gang and take over the others; the node ids of each run.

    :raises StaleStep: a node to be reused is gone or busy. The whole transaction is undone.
    """
    _take_over(session, gangs, now)
    id_of = _intend(session, gangs, now)
    return {
        gang.run_id: (*(id_of[new.token] for new in gang.new_nodes), *gang.reuse_nodes)
        for gang in gangs
    }


def retarget(session: Session, node_ids: Iterable[int], target: Target, now: datetime) -> None:
    """Intend other nodes in place of these, before the provider hears of it.

    Those that were launched all the same work for nobody, and are to be ended.
    """
    asked = [
        row
        for portion in portions(sorted(set(node_ids)))
        for row in session.execute(_OF_GANG, {"ids": portion})
    ]
    left = [row.id for row in asked if row.launched_at is not None]
    if left:
        session.execute(_LEAVE, {"ids": left, "now": now})
        charges.switch(session, dict.fromkeys(left), now)
    told = []
    for index, row in enumerate(asked):
        new = {"token": f"{target.gang}-{index}", "kind": target.kind, "zone": target.zone,
               "usd_per_hour": target.usd_per_hour}  # fmt: skip
        if row.launched_at is None:
            session.execute(update(nodes).where(nodes.c.id == row.id).values(new))
            node_id = row.id
        else:
            again = {column: getattr(row, column) for column in _KEPT}
            values = {**again, **new, "state": NodeState.REQUESTED, "created_at": now}
            node_id = session.scalars(insert(nodes).returning(nodes.c.id), values).one()
        where = " in ".join(word for word in (target.kind, target.zone) if word) or "another"
        told.append(
            event("node_retargeted", f"n{node_id}: {where} instead", workflow_id=row.workflow_id,
                  run_id=row.run_id, node_id=node_id)
        )  # fmt: skip
    record(session, now, told)


_OF_GANG = (
    select(nodes)
    .where(one_of_ids(nodes.c.id), nodes.c.ended_at.is_(None))
    .where(nodes.c.terminate_asked_at.is_(None))
    .order_by(nodes.c.id)
)
_LEAVE = (
    update(nodes)
    .where(one_of_ids(nodes.c.id))
    .values(
        run_id=None,
        spare_for=None,
        idle_since=bindparam("now", type_=nodes.c.idle_since.type),
        terminate_asked_at=bindparam("now", type_=nodes.c.terminate_asked_at.type),
        state=NodeState.DRAINING,
    )
)
_KEPT = (
    "workflow_id", "uid", "pool", "provider", "market", "cores", "memory_gib", "gpus", "run_id",
    "last_run_id", "spare_for",
)  # fmt: skip


def free(session: Session, run_ids: Iterable[int], now: datetime) -> None:
    """The nodes of these runs work for nobody from now on."""
    freed: list[int] = []
    for portion in portions(run_ids):
        freed += session.scalars(_FREE, {"ids": portion, "now": now})
    charges.switch(session, dict.fromkeys(freed), now)


_FREE = (
    update(nodes)
    .where(one_of_ids(nodes.c.run_id))
    .values(run_id=None, idle_since=bindparam("now", type_=nodes.c.idle_since.type))
    .returning(nodes.c.id)
)


def _take_over(session: Session, gangs: Sequence[Gang], now: datetime) -> None:
    for gang in gangs:
        for node_id in gang.reuse_nodes:
            _take(session, gang, node_id)
    run_of: Mapping[int, int | None] = {
        node_id: gang.run_id for gang in gangs for node_id in gang.reuse_nodes
    }
    charges.switch(session, run_of, now)


def _take(session: Session, gang: Gang, node_id: int) -> None:
    taken = session.execute(_TAKE, {
        "of_node": node_id, "of_workflow": gang.workflow_id, "new_run_id": gang.run_id,
    })  # fmt: skip
    if taken.rowcount != 1:
        found = f"given node n{node_id}, which is gone or busy,"
        undo(session, StaleStep(gang.step_id, "CONFIGURING", found))


_TAKE = (
    update(nodes)
    .where(nodes.c.id == bindparam("of_node"), nodes.c.workflow_id == bindparam("of_workflow"))
    .where(nodes.c.run_id.is_(None), nodes.c.terminate_asked_at.is_(None))
    .where(nodes.c.state.in_([NodeState.REQUESTED, NodeState.STARTING, NodeState.UP]))
    .values(
        run_id=bindparam("new_run_id"),
        last_run_id=bindparam("new_run_id"),
        idle_since=None,
        spare_for=None,
    )
)


def _intend(session: Session, gangs: Sequence[Gang], now: datetime) -> dict[str, int]:
    uid_of = _uids(session, {gang.workflow_id for gang in gangs if gang.new_nodes})
    rows = [
        {
            "workflow_id": gang.workflow_id,
            "uid": uid_of[gang.workflow_id],
            "pool": gang.pool,
            "provider": new.provider,
            "market": gang.market,
            "token": new.token,
            "state": NodeState.REQUESTED,
            "cores": new.cores,
            "memory_gib": new.memory_gib,
            "gpus": new.gpus,
            "usd_per_hour": new.usd_per_hour,
            "created_at": now,
            "run_id": gang.run_id,
            "last_run_id": gang.run_id,
            "kind": new.kind,
            "zone": new.zone,
        }
        for gang in gangs
        for new in gang.new_nodes
    ]
    if not rows:
        return {}
    made = session.execute(insert(nodes).returning(nodes.c.token, nodes.c.id), rows)
    id_of = {row.token: row.id for row in made}
    record(session, now, [
        event("node_requested", f"n{id_of[new.token]}: {new.cores} cores at {gang.pool}",
              workflow_id=gang.workflow_id, step_id=gang.step_id, run_id=gang.run_id,
              node_id=id_of[new.token], epoch=gang.epoch)
        for gang in gangs
        for new in gang.new_nodes
    ])  # fmt: skip
    return id_of


def _uids(session: Session, workflow_ids: set[int]) -> dict[int, int]:
    query = select(workflows.c.id, workflows.c.uid)
    return {
        workflow_id: uid
        for portion in portions(sorted(workflow_ids))
        for workflow_id, uid in session.execute(query.where(workflows.c.id.in_(portion)))
    }
