"""Factories for what the tests put into a store, and empty stores of both kinds to put it in."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count, pairwise
from pathlib import Path

from scsched.db import migrate, queries, queue, runs, submissions
from scsched.db.models import Market
from scsched.db.runs import NewNode, NewRun, OpenedRun, RunEnd
from scsched.db.session import Session, Store, open_store
from scsched.db.submissions import NewStep, NewWorkflow
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import EndReason, StepState
from tests import postgres

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
PRICE = Decimal("0.36")
"""Dollars an hour: 0.0001 a second."""

_number = count()


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def new_step(ref: str, *parents: str, gate: str = "", **values: object) -> NewStep:
    step = NewStep(
        ref=ref,
        label=f"step {ref}",
        protocol="ProtRelionRefine3D",
        resource_class=ResourceClass.MEMORY,
        resume=Resume.ITERATION,
        demand=Demand(ranks=3),
        gate=gate,
        parents=parents,
    )
    return replace(step, **values)  # type: ignore[arg-type]


def new_workflow(*steps: NewStep, **values: object) -> NewWorkflow:
    workflow = NewWorkflow(
        uid=1000,
        username="alice",
        name="betagal",
        document="[]",
        filename="workflow.json",
        steps=steps or (new_step("2"),),
        key=f"key {next(_number)}",
        sha256="0" * 64,
    )
    return replace(workflow, **values)  # type: ignore[arg-type]


def chain(length: int) -> tuple[NewStep, ...]:
    """Steps 1, 2, ... of which each waits for the one before it."""
    refs = [str(number) for number in range(1, length + 1)]
    first = new_step(refs[0])
    return (first, *(new_step(ref, before) for before, ref in pairwise(refs)))


def new_node(**values: object) -> NewNode:
    node = NewNode(
        token=f"node {next(_number)}",
        provider="local",
        cores=2,
        memory_gib=4.0,
        usd_per_hour=PRICE,
    )
    return replace(node, **values)  # type: ignore[arg-type]


def new_run(step_id: int, epoch: int = 0, **values: object) -> NewRun:
    run = NewRun(
        step_id=step_id,
        epoch=epoch,
        pool="local",
        market=Market.SPOT,
        layout={"nodes": 1, "ranks": 3, "threads": 1},
        token=f"run {next(_number)}",
    )
    return replace(run, **values)  # type: ignore[arg-type]


def submit(store: Store, *steps: NewStep, **values: object) -> int:
    with store.write() as session:
        return submissions.submit(session, new_workflow(*steps, **values), NOW).id


def open_all(session: Session, now: datetime = NOW, **values: object) -> list[OpenedRun]:
    """A run for every step that could start."""
    found = queue.eligible(session, now, 100)
    return runs.open_runs(
        session, [new_run(step.step_id, step.epoch, **values) for step in found], now
    )


def end(
    opened: OpenedRun,
    reason: EndReason = EndReason.COMPLETED,
    then: StepState = StepState.COMPLETED,
    **values: object,
) -> RunEnd:
    run_end = RunEnd(run_id=opened.run_id, epoch=opened.epoch, reason=reason, then=then)
    return replace(run_end, **values)  # type: ignore[arg-type]


def states(store: Store, workflow_id: int) -> dict[str, StepState]:
    with store.read() as session:
        return {step.ref: step.state for step in queries.steps_of(session, workflow_id, NOW)}


MakeUrl = Callable[[], str]


@contextmanager
def sqlite_urls(folder: Path) -> Iterator[MakeUrl]:
    """URLs of new SQLite stores, copies of one."""
    template = folder / "template.sqlite"
    migrate.upgrade(f"sqlite:///{template}")

    def make() -> str:
        path = folder / f"store {next(_number)}.sqlite"
        shutil.copy(template, path)
        return f"sqlite:///{path}"

    yield make


@contextmanager
def postgres_urls() -> Iterator[MakeUrl]:
    """URLs of new Postgres stores, copies of one."""
    with postgres.cluster() as server:
        template = server.database()
        migrate.upgrade(template)
        yield lambda: server.database(template)


@contextmanager
def opened(url: str, *, busy_timeout_s: float = 5.0) -> Iterator[Store]:
    store = open_store(url, busy_timeout_s=busy_timeout_s)
    try:
        yield store
    finally:
        store.close()
