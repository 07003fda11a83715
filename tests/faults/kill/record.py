"""All that is known when a campaign is over: the database's rows, and what happened outside."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from sqlalchemy import Table, select

from scsched.db import models as tables
from scsched.db.session import Session, open_store
from scsched.steps.state import EndReason, StepState
from tests.faults.kill.harness import Outcome
from tests.faults.kill.journal import Entry, Kind
from tests.faults.kill.nodes import Node


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    id: int
    outcome: tables.Outcome | None
    driver_token: str | None


@dataclass(frozen=True, slots=True)
class SubmissionRow:
    key: str
    workflow_id: int


@dataclass(frozen=True, slots=True)
class StepRow:
    id: int
    workflow_id: int
    ref: str
    state: StepState
    attempts: int


@dataclass(frozen=True, slots=True)
class RunRow:
    id: int
    step_id: int
    epoch: int
    started_at: datetime
    running_at: datetime | None
    ended_at: datetime | None
    end_reason: EndReason | None
    layout: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NodeRow:
    id: int
    token: str
    provider_id: str | None
    state: tables.NodeState
    launched_at: datetime | None
    up_at: datetime | None
    terminate_asked_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None


@dataclass(frozen=True, slots=True)
class ChargeRow:
    id: int
    node_id: int
    run_id: int | None
    started_at: datetime
    ended_at: datetime | None
    usd_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class EventRow:
    id: int
    step_id: int | None
    run_id: int | None
    node_id: int | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """All that is known at the end."""

    outcome: Outcome
    deployment: str
    faults: tuple[str, ...]
    journal: Sequence[Entry]
    outside: Sequence[Node]
    bill: Mapping[str, Decimal] | None
    """Of those outside, by the provider's id; None: there nobody bills."""
    workflows: Sequence[WorkflowRow]
    submissions: Sequence[SubmissionRow]
    steps: Sequence[StepRow]
    runs: Sequence[RunRow]
    nodes: Sequence[NodeRow]
    charges: Sequence[ChargeRow]
    events: Sequence[EventRow]

    @classmethod
    def of(cls, outcome: Outcome) -> "Record":
        site = outcome.site
        store = open_store(site.settings.database_url)
        try:
            faults = store.faults()
            deployment = store.deployment()
            with store.read() as session:
                return cls(
                    outcome=outcome,
                    deployment=deployment,
                    faults=faults,
                    journal=site.journal.read(),
                    outside=site.world.nodes(),
                    bill=site.world.bill(),
                    workflows=_rows(session, WorkflowRow, tables.workflows),
                    submissions=_rows(session, SubmissionRow, tables.submissions),
                    steps=_rows(session, StepRow, tables.steps),
                    runs=_rows(session, RunRow, tables.runs),
                    nodes=_rows(session, NodeRow, tables.nodes),
                    charges=_rows(session, ChargeRow, tables.charges),
                    events=_rows(session, EventRow, tables.events),
                )
        finally:
            store.close()

    def entries(self, *kinds: Kind) -> list[Entry]:
        return [entry for entry in self.journal if entry.kind in kinds]


def executions(journal: Iterable[Entry]) -> Iterator[tuple[Entry, dict[int, Entry]]]:
    """Each line, with the executions going on before it: their `begin` by run."""
    going: dict[int, Entry] = {}
    for entry in journal:
        yield entry, going
        if entry.kind is Kind.BEGIN:
            going[entry.run] = entry
        elif entry.kind is Kind.END:
            going.pop(entry.run, None)
        elif entry.kind is Kind.DIES:
            for run in [run for run, begin in going.items() if begin.pid == entry.pid]:
                del going[run]


_Row = TypeVar("_Row")


def _rows(session: Session, row: type[_Row], table: Table) -> list[_Row]:
    columns = [table.c[field.name] for field in fields(row)]  # type: ignore[arg-type]
    return [row(*found) for found in session.execute(select(*columns))]
