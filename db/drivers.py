"""Drivers: one process for each workflow that has something to do.

    none ──intend_start──► intended ──started──► started ──hello──► connected
      ▲                        │                    │                   │
      └──── lost, ended ───────┴────────────────────┴───────────────────┘

A driver is known by its token. A new intent takes a new token and epoch; whoever comes with the
old one is told that it was given up, and stops.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, exists, or_, select, update

from scsched.db.batches import portions
from scsched.db.events import event, record
from scsched.db.models import (
    ELIGIBLE_STEPS,
    GATE_PASSED,
    LIVE_STEPS,
    Exact,
    events,
    steps,
    workflows,
)
from scsched.db.session import Session
from scsched.steps.errors import NotFound
from scsched.steps.state import StepState


@dataclass(frozen=True, slots=True)
class DriverRec:
    """A workflow's driver as recorded; no token: there is none."""

    workflow_id: int
    uid: int
    username: str
    name: str
    project: str | None
    exact: Exact
    play_spot: str | None
    epoch: int
    token: str | None
    asked_at: datetime | None
    pid: int | None
    started_ticks: int | None
    """The process's start time in clock ticks, which tells it from a later one of that pid."""
    address: str | None
    seen_at: datetime | None
    failures: int
    info: Mapping[str, object] | None


def wanted(session: Session) -> list[DriverRec]:
    """Of the workflows with an active step, or one that waits for nothing but a time or nodes."""
    return _found(session, _WANTED)


def known(session: Session) -> list[DriverRec]:
    """All that were intended and not given up since."""
    return sorted(_found(session, _KNOWN), key=lambda record: record.workflow_id)


def get(session: Session, workflow_id: int) -> DriverRec:
    """:raises NotFound: no such workflow."""
    found = _found(session, _ONE, of_workflow=workflow_id)
    if not found:
        raise NotFound(f"no workflow {workflow_id}")
    return found[0]


def intend_start(session: Session, workflow_id: int, token: str, now: datetime) -> int:
    """Record that a driver is to be started under this token; its epoch. The former is given up.

    :raises NotFound: no such workflow.
    """
    epoch = session.scalar(
        update(workflows)
        .where(workflows.c.id == workflow_id)
        .values(
            driver_epoch=workflows.c.driver_epoch + 1,
            driver_token=token,
            driver_asked_at=now,
            **_NOTHING_KNOWN,
        )
        .returning(workflows.c.driver_epoch)
    )
    if not isinstance(epoch, int):
        raise NotFound(f"no workflow {workflow_id}")
    _tell(session, workflow_id, epoch, "driver_intended", "a driver is to be started", now)
    return epoch


def started(
    session: Session, workflow_id: int, epoch: int, pid: int, ticks: int, now: datetime
) -> bool:
    """Its process runs. False: it was given up meanwhile; end it."""
    known = _under(session, workflow_id, epoch, driver_pid=pid, driver_started=ticks)
    if known:
        text = f"the driver started as process {pid}"
        _tell(session, workflow_id, epoch, "driver_started", text, now)
    return known


def hello(
    session: Session,
    workflow_id: int,
    token: str,
    address: str,
    info: Mapping[str, object],
    now: datetime,
) -> bool:
    """It has connected, for the first time or again. False: it was given up; it has to stop."""
    epoch = session.scalar(
        update(workflows)
        .where(workflows.c.id == workflow_id, workflows.c.driver_token == token)
        .values(driver_address=address, driver_info=dict(info), driver_seen_at=now)
        .returning(workflows.c.driver_epoch)
    )
    if isinstance(epoch, int):
        _tell(session, workflow_id, epoch, "driver_connected", "the driver connected", now)
    return epoch is not None


def silent(session: Session, workflow_id: int, epoch: int, why: str, now: datetime) -> None:
    """It lives and does not speak: it is about to be killed."""
    _tell(session, workflow_id, epoch, "driver_silent", f"the driver is silent: {why}", now)


def lost(session: Session, workflow_id: int, epoch: int, why: str, now: datetime) -> bool:
    """It died or could not be started. False: it is not the driver any more."""
    failures = workflows.c.driver_failures + 1
    gone = _under(session, workflow_id, epoch, driver_failures=failures, **_NO_DRIVER)
    if gone:
        _tell(session, workflow_id, epoch, "driver_lost", f"{_LOST}{why}", now)
    return gone


def last_loss(session: Session, workflow_id: int) -> str:
    """Why its newest lost driver was lost; empty: none was."""
    text = session.scalar(
        select(events.c.text)
        .where(events.c.workflow_id == workflow_id, events.c.kind == "driver_lost")
        .order_by(events.c.id.desc())
        .limit(1)
    )
    return str(text or "").removeprefix(_LOST)


def ended(session: Session, workflow_id: int, epoch: int, now: datetime) -> bool:
    """It has stopped, as it was asked to. False: it is not the driver any more."""
    gone = _under(session, workflow_id, epoch, **_NO_DRIVER)
    if gone:
        _tell(session, workflow_id, epoch, "driver_ended", "the driver stopped", now)
    return gone


def healthy(session: Session, workflow_ids: Iterable[int]) -> None:
    """They have done something useful: count their failures anew."""
    for portion in portions(workflow_ids):
        session.execute(
            update(workflows)
            .where(workflows.c.id.in_(portion), workflows.c.driver_failures > 0)
            .values(driver_failures=0)
        )


_LOST = "the driver is lost: "
_NOTHING_KNOWN: dict[str, None] = {
    "driver_pid": None,
    "driver_started": None,
    "driver_address": None,
    "driver_seen_at": None,
    "driver_info": None,
}
_NO_DRIVER: dict[str, None] = {**_NOTHING_KNOWN, "driver_token": None, "driver_asked_at": None}


def _under(session: Session, workflow_id: int, epoch: int, **values: object) -> bool:
    changed = session.execute(
        update(workflows)
        .where(workflows.c.id == workflow_id, workflows.c.driver_epoch == epoch)
        .where(workflows.c.driver_token.is_not(None))
        .values(**values)
    )
    return changed.rowcount == 1


def _tell(
    session: Session, workflow_id: int, epoch: int, kind: str, text: str, now: datetime
) -> None:
    record(session, now, [event(kind, text, workflow_id=workflow_id, epoch=epoch)])


def _found(session: Session, which: Select[Any], **values: object) -> list[DriverRec]:
    return [DriverRec(**row._mapping) for row in session.execute(which, values)]


_DRIVERS = select(
    workflows.c.id.label("workflow_id"),
    workflows.c.uid,
    workflows.c.username,
    workflows.c.name,
    workflows.c.project,
    workflows.c.exact,
    workflows.c.play_spot,
    workflows.c.driver_epoch.label("epoch"),
    workflows.c.driver_token.label("token"),
    workflows.c.driver_asked_at.label("asked_at"),
    workflows.c.driver_pid.label("pid"),
    workflows.c.driver_started.label("started_ticks"),
    workflows.c.driver_address.label("address"),
    workflows.c.driver_seen_at.label("seen_at"),
    workflows.c.driver_failures.label("failures"),
    workflows.c.driver_info.label("info"),
).order_by(workflows.c.id)
_HAS_WORK = exists().where(
    steps.c.workflow_id == workflows.c.id,
    LIVE_STEPS,
    or_(
        steps.c.state != StepState.PENDING,
        and_(ELIGIBLE_STEPS, GATE_PASSED, ~workflows.c.held),
    ),
)
_WANTED = _DRIVERS.where(workflows.c.ended_at.is_(None), _HAS_WORK)
_KNOWN = _DRIVERS.where(workflows.c.driver_token > "").order_by(None)
"""All tokens, said so that their index finds them: for IS NOT NULL, or in order, SQLite reads every
workflow that ever was, with its document."""
_ONE = _DRIVERS.where(workflows.c.id == bindparam("of_workflow"))
