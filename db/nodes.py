"""Nodes: intended before the provider is called, paid for from launch to end.

    REQUESTED ──► STARTING ──► UP ──► DRAINING ──► ENDED      any of them may go to ENDED at once
     (intent)     launched     up     notice, or
                  (charged)           its end was asked for

Every verb may be repeated: a node that is past it is left alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    update,
)

from scsched.db import charges
from scsched.db.batches import one_of_ids, portions
from scsched.db.events import event, record
from scsched.db.models import Market, NodeState, nodes
from scsched.db.models import charges as charges_table
from scsched.db.session import Session


@dataclass(frozen=True, slots=True)
class NodeRec:
    """A node as recorded. Its name is `n<id>`."""

    id: int
    workflow_id: int
    uid: int
    pool: str
    provider: str
    market: Market
    token: str
    provider_id: str | None
    state: NodeState
    cores: int
    memory_gib: float
    gpus: int
    usd_per_hour: Decimal
    created_at: datetime
    launched_at: datetime | None
    up_at: datetime | None
    notice_at: datetime | None
    notice_deadline: datetime | None
    idle_since: datetime | None
    terminate_asked_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    run_id: int | None
    kind: str
    """Instance type, where its provider has such."""
    zone: str
    last_run_id: int | None
    """The run it worked for last, or works for."""
    spare_for: int | None
    """The step it was launched for while that still ran, on nodes under notice."""
    priced_until: datetime | None
    """Up to when its charges follow the provider's prices."""

    @property
    def name(self) -> str:
        return f"n{self.id}"


class Birth(NamedTuple):
    """The provider has made a node; what it does not tell is None."""

    node_id: int
    provider_id: str
    at: datetime | None = None
    """From when it bills."""
    usd_per_hour: Decimal | None = None


class Death(NamedTuple):
    """A node is gone."""

    node_id: int
    why: str
    at: datetime | None = None
    """Until when the provider bills, where it tells."""


_LIVE = nodes.c.ended_at.is_(None)
_COLUMNS = tuple(nodes.c[field.name] for field in fields(NodeRec))
_ALL_LIVE = select(*_COLUMNS).where(_LIVE).order_by(nodes.c.id)
_LIVE_OF = _ALL_LIVE.where(nodes.c.workflow_id == bindparam("of_workflow"))
_OF_RUNS = select(*_COLUMNS).where(one_of_ids(nodes.c.run_id)).order_by(nodes.c.id)


def live(session: Session, workflow_id: int | None = None) -> list[NodeRec]:
    """All that have not ended, intents included; of one workflow, or of all."""
    if workflow_id is None:
        return _read(session, _ALL_LIVE)
    return _read(session, _LIVE_OF, of_workflow=workflow_id)


def get(session: Session, node_ids: Iterable[int]) -> list[NodeRec]:
    """These nodes, ended ones too."""
    return [node for ids in portions(node_ids) for node in _found(session, nodes.c.id.in_(ids))]


def of_runs(session: Session, run_ids: Iterable[int]) -> list[NodeRec]:
    """The nodes that work for these runs now, ended ones too until the run ends."""
    return [node for ids in portions(run_ids) for node in _read(session, _OF_RUNS, ids=ids)]


def launched(
    session: Session,
    answers: Iterable[Birth | tuple[int, str]],
    now: datetime,
) -> frozenset[int]:
    """The provider has made these; they are paid for from the moment that it tells, or from now
    on. Gives the nodes for which this was new.

    Its moment may be later than `now`: a tick hears of launches that happen while it works, and
    clocks differ.
    """
    new: list[NodeRec] = []
    for answer in answers:
        birth = Birth(*answer)
        at = birth.at or now
        price = {} if birth.usd_per_hour is None else {"usd_per_hour": birth.usd_per_hour}
        new += _changed(
            session,
            [nodes.c.id == birth.node_id, nodes.c.launched_at.is_(None), _LIVE],
            provider_id=birth.provider_id,
            launched_at=at,
            priced_until=at - _HOUR,
            state=case(
                (nodes.c.state == NodeState.REQUESTED, literal(NodeState.STARTING, _STATE)),
                else_=nodes.c.state,
            ),
            **price,
        )
    charges.start(session, [_launched(node) for node in new])
    return _told(session, now, "launched", new, "launched as {0.provider_id}{1}")


def up(session: Session, node_ids: Iterable[int], now: datetime) -> frozenset[int]:
    """They answer."""
    new = [
        node
        for ids in portions(node_ids)
        for node in _changed(
            session,
            [nodes.c.id.in_(ids), nodes.c.state == NodeState.STARTING],
            state=NodeState.UP,
            up_at=now,
            idle_since=case((nodes.c.run_id.is_(None), literal(now, nodes.c.up_at.type))),
        )
    ]
    return _told(session, now, "up", new, "up")


def notice(session: Session, node_id: int, deadline: datetime | None, now: datetime) -> bool:
    """The market takes the node back at `deadline`. One that is earlier than what was known takes
    its place. False: it was known, is later, or the node has ended."""
    sooner: ColumnElement[bool] = nodes.c.notice_at.is_(None)
    if deadline is not None:
        known = nodes.c.notice_deadline
        sooner = or_(sooner, known.is_(None), known > deadline)
    new = _changed(
        session,
        [nodes.c.id == node_id, _LIVE, sooner],
        notice_at=func.coalesce(nodes.c.notice_at, literal(now, nodes.c.notice_at.type)),
        notice_deadline=deadline,
        state=NodeState.DRAINING,
    )
    left = f", {max(0, round((deadline - now).total_seconds()))} s left" if deadline else ""
    return bool(_told(session, now, "notice", new, f"the market takes it back{left}"))


def ask_terminate(
    session: Session, node_ids: Iterable[int], why: str, now: datetime
) -> frozenset[int]:
    """Record the intent to end these nodes, before the provider is called."""
    new = [
        node
        for ids in portions(node_ids)
        for node in _changed(
            session,
            [nodes.c.id.in_(ids), _LIVE, nodes.c.terminate_asked_at.is_(None)],
            terminate_asked_at=now,
            state=NodeState.DRAINING,
        )
    ]
    return _told(session, now, "terminate_asked", new, f"to be ended: {_escaped(why)}")


def ended(
    session: Session, gone: Iterable[Death | tuple[int, str]], now: datetime
) -> frozenset[int]:
    """The provider says that these are gone. Nothing is paid for them after the moment that it
    tells, or from now on."""
    new: list[NodeRec] = []
    for one in gone:
        death = Death(*one)
        found = _changed(
            session,
            [nodes.c.id == death.node_id, _LIVE],
            state=NodeState.ENDED,
            ended_at=_not_before_launch(now) if death.at is None else _of_its_life(death.at),
            end_reason=death.why,
        )
        for node in found if death.at is not None else ():
            charges.cut(session, node.id, node.ended_at or now)
        new += found
    charges.stop(session, [node.id for node in new], now)
    return _told(session, now, "node_ended", new, "ended: {0.end_reason}")


_STATE = nodes.c.state.type
_HOUR = timedelta(hours=1)
"""The first one does not follow the provider's prices yet."""


def _not_before_launch(now: datetime) -> ColumnElement[datetime]:
    """`now`, also when the clock was set back since the last charge began."""
    at = literal(now, nodes.c.ended_at.type)
    last = (
        select(func.max(charges_table.c.started_at))
        .where(charges_table.c.node_id == nodes.c.id)
        .scalar_subquery()
    )
    return case((last > at, last), else_=at)


def _of_its_life(at: datetime) -> ColumnElement[datetime]:
    """`at`, but never before the launch."""
    then = literal(at, nodes.c.ended_at.type)
    late = and_(nodes.c.launched_at.is_not(None), nodes.c.launched_at > then)
    return case((late, nodes.c.launched_at), else_=then)


def _launched(node: NodeRec) -> charges.Launched:
    at = node.launched_at or node.created_at
    return charges.Launched(node.id, node.run_id, node.workflow_id, node.uid, node.usd_per_hour, at)


def _found(session: Session, *which: ColumnElement[bool]) -> list[NodeRec]:
    return _read(session, select(*_COLUMNS).where(*which).order_by(nodes.c.id))


def _read(session: Session, statement: Select[Any], **values: object) -> list[NodeRec]:
    return [NodeRec(*row) for row in session.execute(statement, values)]


def _changed(
    session: Session, which: Iterable[ColumnElement[bool]], **values: object
) -> list[NodeRec]:
    rows = session.execute(update(nodes).where(*which).values(**values).returning(*_COLUMNS))
    return [NodeRec(*row) for row in rows]


def _told(
    session: Session, now: datetime, kind: str, changed: Iterable[NodeRec], text: str
) -> frozenset[int]:
    told = [
        event(
            kind,
            f"{node.name}: {text.format(node, _what(node))}",
            workflow_id=node.workflow_id,
            run_id=node.run_id,
            node_id=node.id,
        )
        for node in changed
    ]
    record(session, now, told)
    return frozenset(node.id for node in changed)


def _what(node: NodeRec) -> str:
    """What it is and where, as far as its provider has such words."""
    words = " in ".join(word for word in (node.kind, node.zone) if word)
    return f", {words}" if words else ""


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
