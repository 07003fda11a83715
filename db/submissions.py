"""Taking in a workflow, once: the same key with the same bytes is the same submission."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import insert, select, update

from scsched.db import demand as demands
from scsched.db.events import event, record
from scsched.db.models import (
    Exact,
    Market,
    accounts,
    step_parents,
    steps,
    submissions,
    workflows,
)
from scsched.db.session import Session
from scsched.steps.errors import UsageError
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import StepState


@dataclass(frozen=True, slots=True)
class NewStep:
    """A step as submitted. `ref` is Scipion's id of it; parents that are not submitted too,
    because only a part of the workflow runs, are taken as done."""

    ref: str
    label: str
    protocol: str
    resource_class: ResourceClass
    resume: Resume
    demand: Demand
    gate: str = ""
    long_lived: bool = False
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A checked workflow and who submits it. `sha256` is of everything that was asked for."""

    uid: int
    username: str
    name: str
    document: str
    filename: str
    steps: tuple[NewStep, ...]
    key: str
    sha256: str
    project: str | None = None
    market: Market = Market.ON_DEMAND
    priority: int = 0
    held: bool = False
    exact: Exact = Exact.AUTO
    tags: Mapping[str, str] = field(default_factory=dict)
    play_spot: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    id: int
    created: bool
    """False: this key was used before, for this very submission."""


def submit(session: Session, new: NewWorkflow, now: datetime) -> Submitted:
    """Take in the workflow, or find it by its key.

    :raises UsageError: there is no step in it, or the key was used for something else.
    """
    if not new.steps:
        raise UsageError(f"{new.filename}: no step to run", hint="check --from, --until and --only")
    former = session.execute(
        select(submissions.c.workflow_id, submissions.c.sha256).where(
            submissions.c.uid == new.uid, submissions.c.key == new.key
        )
    ).one_or_none()
    if former is None:
        return Submitted(id=_create(session, new, now), created=True)
    if former.sha256 != new.sha256:
        raise UsageError(
            f"key {new.key!r} was used for workflow {former.workflow_id}, with other contents",
            hint="leave the key out, or take a new one",
        )
    return Submitted(id=former.workflow_id, created=False)


def set_project(session: Session, workflow_id: int, project: str) -> None:
    """Record where its Scipion project is."""
    session.execute(update(workflows).where(workflows.c.id == workflow_id).values(project=project))


def _create(session: Session, new: NewWorkflow, now: datetime) -> int:
    _meet(session, new, now)
    workflow_id: int = session.execute(
        insert(workflows).returning(workflows.c.id), _workflow_row(new, now)
    ).scalar_one()
    refs = {step.ref for step in new.steps}
    session.execute(
        insert(steps),
        [
            _step_row(step, workflow_id, position, refs, new, now)
            for position, step in enumerate(new.steps)
        ],
    )
    _link(session, workflow_id, new.steps)
    session.execute(
        insert(submissions),
        {"uid": new.uid, "key": new.key, "sha256": new.sha256, "workflow_id": workflow_id},
    )
    held = ", held" if new.held else ""
    said = f"{new.username} submitted {new.name}: {len(new.steps)} steps{held}"
    record(session, now, [event("submitted", said, workflow_id=workflow_id, actor_uid=new.uid)])
    return workflow_id


def _meet(session: Session, new: NewWorkflow, now: datetime) -> None:
    """The account of the submitter; a changed name of the same uid is kept as it was first."""
    if session.scalar(select(accounts.c.uid).where(accounts.c.uid == new.uid)) is None:
        row = {"uid": new.uid, "username": new.username, "first_seen": now}
        session.execute(insert(accounts), row)


def _workflow_row(new: NewWorkflow, now: datetime) -> dict[str, object]:
    return {
        "uid": new.uid,
        "username": new.username,
        "name": new.name,
        "project": new.project,
        "document": new.document,
        "filename": new.filename,
        "market": new.market,
        "priority": new.priority,
        "held": new.held,
        "exact": new.exact,
        "tags": dict(new.tags),
        "play_spot": new.play_spot,
        "submitted_at": now,
    }


def _step_row(
    step: NewStep, workflow_id: int, position: int, refs: set[str], new: NewWorkflow, now: datetime
) -> dict[str, object]:
    return {
        "workflow_id": workflow_id,
        "ref": step.ref,
        "position": position,
        "label": step.label,
        "protocol": step.protocol,
        "resource_class": step.resource_class,
        "resume": step.resume,
        "gate": step.gate,
        "long_lived": step.long_lived,
        "demand": demands.to_json(step.demand),
        "state": StepState.PENDING,
        "unmet": len(refs.intersection(step.parents)),
        "priority": new.priority,
        "not_before": now,
    }


def _link(session: Session, workflow_id: int, new_steps: Sequence[NewStep]) -> None:
    rows = session.execute(
        select(steps.c.ref, steps.c.id).where(steps.c.workflow_id == workflow_id)
    )
    id_of = {row.ref: row.id for row in rows}
    edges = [
        {"step_id": id_of[step.ref], "parent_id": id_of[parent]}
        for step in new_steps
        for parent in dict.fromkeys(step.parents)
        if parent in id_of
    ]
    if edges:
        session.execute(insert(step_parents), edges)
