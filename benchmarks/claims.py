"""Durable claims per second on both databases, empty and with a million rows of history.

    python benchmarks/claims.py [--history 1000000] [--seconds 3] [--batches 1,10,100]

A claim is one committed transaction: take the most urgent eligible steps, move them to CONFIGURING
under a new epoch and open their runs. Both databases wait for the disk before each answer. The
line `life` is a step's whole way, claim, running, completed, in three commits. `plan` shows that
the queue is read through its partial index; the ratio is with history over empty.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from sqlalchemy import event, text

from scsched.db import migrate, queue, runs, submissions
from scsched.db.models import Market
from scsched.db.queue import Eligible
from scsched.db.runs import NewRun, OpenedRun, RunEnd
from scsched.db.session import Session, Store, open_store
from scsched.db.submissions import NewStep, NewWorkflow
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import EndReason, StepState

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests import postgres

HISTORY = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
INSERT INTO steps (workflow_id, ref, position, label, protocol, resource_class, resume, demand,
                   state, unmet, not_before, ended_at)
SELECT :workflow, 'h' || i, i, 'old', 'ProtOld', 'light', 'none', '{}',
       'COMPLETED', 0, :now, :now FROM n
"""
_number = count()


@dataclass(frozen=True, slots=True)
class Rate:
    """Steps a second, and CPU of this process for each."""

    per_second: float
    cpu_ms: float


def main() -> None:
    options = _options()
    batches = [int(batch) for batch in options.batches.split(",")]
    for name, stores in (("sqlite", _sqlite), ("postgresql", _postgres)):
        if name == "postgresql" and postgres.missing():
            print(f"postgresql  skipped: {postgres.missing()}")
            continue
        with stores() as url:
            migrate.upgrade(url)
            store = open_store(url)
            empty = _measure(store, name, "empty", batches, options.seconds)
            _age(store, options.history)
            aged = _measure(store, name, f"{options.history} rows", batches, options.seconds)
            for key in empty:
                print(f"{name:10}  ratio {key:16} {aged[key] / empty[key]:.2f}")
            print(f"{name:10}  plan  {_plan(store)}")
            store.close()


def _measure(
    store: Store, name: str, filled: str, batches: Sequence[int], seconds: float
) -> dict[str, float]:
    rates: dict[str, float] = {}
    for what, act in (("claim", _claim), ("life", _life)):
        for batch in batches:
            rate = _rate(store, act, batch, seconds)
            rates[f"{what} by {batch}"] = rate.per_second
            print(
                f"{name:10}  {filled:13} {what:5} batch {batch:4}  "
                f"{rate.per_second:8.0f} steps/s  {rate.cpu_ms:.3f} ms CPU/step",
                flush=True,
            )
    return rates


def _rate(store: Store, act: Callable[[Store, int], int], batch: int, seconds: float) -> Rate:
    """Submits as it goes, off the clock."""
    done, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        _submit(store, steps=max(20, batch * 4))
        turn = act(store, batch)  # warm up
        clock, process = time.perf_counter(), time.process_time()
        while (moved := act(store, batch)) == turn:
            done += moved
            if time.perf_counter() - clock > seconds:
                break
        wall += time.perf_counter() - clock
        cpu += time.process_time() - process
    with store.write() as session:  # leave an empty queue behind
        ids = [step.step_id for step in queue.eligible(session, _now(), 100_000)]
        queue.cancel(session, ids, _now(), 0)
    return Rate(per_second=done / wall, cpu_ms=cpu / max(1, done) * 1e3)


def _claim(store: Store, batch: int) -> int:
    with store.write() as session:
        return len(_open(session, batch))


def _life(store: Store, batch: int) -> int:
    now = _now()
    with store.write() as session:
        opened = _open(session, batch)
    reports = [(run.run_id, run.epoch) for run in opened]
    with store.write() as session:
        runs.set_running(session, reports, now)
    with store.write() as session:
        ends = [
            RunEnd(run_id, epoch, EndReason.COMPLETED, StepState.COMPLETED, exit_code=0)
            for run_id, epoch in reports
        ]
        runs.end_runs(session, ends, now)
        queue.settle(session, {run.workflow_id for run in opened}, now)
    return len(opened)


def _open(session: Session, batch: int) -> list[OpenedRun]:
    now = _now()
    return runs.open_runs(
        session, [_run(step) for step in queue.eligible(session, now, batch)], now
    )


def _run(step: Eligible) -> NewRun:
    return NewRun(
        step_id=step.step_id,
        epoch=step.epoch,
        pool="local",
        market=Market.ON_DEMAND,
        layout={"nodes": 1, "ranks": 1, "threads": 1, "memory_gib": 1.0},
        token=f"{step.step_id}-{step.epoch}-{next(_number)}",
    )


def _submit(store: Store, *, steps: int) -> int:
    new = NewWorkflow(
        uid=0,
        username="root",
        name="benchmark",
        document="[]",
        filename="benchmark.json",
        key=f"{time.time_ns()}",
        sha256="",
        steps=tuple(
            NewStep(
                ref=str(number),
                label=f"step {number}",
                protocol="ProtNothing",
                resource_class=ResourceClass.LIGHT,
                resume=Resume.NONE,
                demand=Demand(),
            )
            for number in range(steps)
        ),
    )
    with store.write() as session:
        return submissions.submit(session, new, _now()).id


def _age(store: Store, rows: int) -> None:
    """Add completed steps of long ago, in one statement."""
    workflow = _submit(store, steps=1)
    with store.write() as session:
        if store.dialect == "postgresql":
            session.execute(text("SET LOCAL statement_timeout = 0"))
        at = _now().replace(tzinfo=None) if store.dialect == "sqlite" else _now()
        session.execute(text(HISTORY), {"rows": rows, "workflow": workflow, "now": str(at)})


def _plan(store: Store) -> str:
    """What the database says of the query that the broker itself runs."""
    seen: list[tuple[str, object]] = []

    def listen(*arguments: object) -> None:
        seen.append((str(arguments[2]), arguments[3]))

    explain = "EXPLAIN QUERY PLAN" if store.dialect == "sqlite" else "EXPLAIN"
    with store.read() as session:
        event.listen(session, "before_cursor_execute", listen)
        queue.eligible(session, _now(), 10)
        event.remove(session, "before_cursor_execute", listen)
        statement, parameters = seen[0]
        rows = session.exec_driver_sql(f"{explain} {statement}", parameters)  # type: ignore[call-overload]
        lines = [str(row[-1]).strip() for row in rows]
    used = [line for line in lines if "ix_steps_eligible" in line]
    return used[0] if used else f"DOES NOT USE THE INDEX: {lines}"


def _now() -> datetime:
    return datetime.now(UTC)


@contextmanager
def _sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        yield f"sqlite:///{Path(folder).absolute()}/claims.sqlite"


@contextmanager
def _postgres() -> Iterator[str]:
    with postgres.cluster(durable=True) as server:
        yield server.database()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batches", default="1,10,100")
    return parser.parse_args()


if __name__ == "__main__":
    main()
