"""What is wrong in the end, with steps, attempts, machines and money: the ledger and the box."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import select

from scsched.cluster.ec2.instances import GANG
from scsched.db import models, receipts
from scsched.db.session import Session
from scsched.steps.state import EndReason, StepState
from tests.cloudbox.client import Box, Machine

DIVIDED = Decimal("1e-12")
"""Two ways to divide by the microseconds of an hour differ by less."""


def problems(session: Session, box: Box, now: datetime) -> Iterator[str]:
    """None: nothing was lost, doubled, left over or paid for by nobody."""
    machines = box.instances()
    yield from _steps(session)
    yield from _attempts(session, machines)
    yield from _machines(session, machines)
    yield from _money(session, box.bill(), now)


def _steps(session: Session) -> Iterator[str]:
    """No step is lost, and none is done twice."""
    done = Counter(
        session.scalars(
            select(models.runs.c.step_id).where(models.runs.c.end_reason == EndReason.COMPLETED)
        )
    )
    for row in session.execute(select(models.steps)):
        if row.state is not StepState.COMPLETED or done[row.id] != 1:
            yield f"step {row.ref} is {row.state} with {done[row.id]} completed runs"
    for run in session.execute(select(models.runs).where(models.runs.c.ended_at.is_(None))):
        yield f"run {run.id} is open"


def _attempts(session: Session, machines: Sequence[Machine]) -> Iterator[str]:
    """At no time an attempt had more machines than it is wide."""
    by_id = {one.instance_id: one for one in machines}
    nodes = {row.id: row.provider_id for row in session.execute(select(models.nodes))}
    used: defaultdict[int, set[int]] = defaultdict(set)
    for charge in session.execute(select(models.charges)):
        if charge.run_id is not None:
            used[charge.run_id].add(charge.node_id)
    for run in session.execute(select(models.runs)):
        lives = [by_id[nodes[node]] for node in used[run.id] if nodes[node] in by_id]
        for one in lives:
            among = [o for o in lives if _is_up_at_birth_of(o, one)]
            if len(among) > run.layout["nodes"]:
                yield f"run {run.id} of {run.layout['nodes']} nodes had {len(among)} at once"


def _is_up_at_birth_of(other: Machine, one: Machine) -> bool:
    ended = other.ended_at is not None and other.ended_at <= one.launched_at
    return other.launched_at <= one.launched_at and (other is one or not ended)


def _machines(session: Session, machines: Sequence[Machine]) -> Iterator[str]:
    """Every machine there was is the one of its token, is on record, and is gone."""
    recorded = {row.provider_id for row in session.execute(select(models.nodes))}
    tokens = [f"{one.tags[GANG]}-{one.index}" for one in machines]
    for token, times in Counter(tokens).items():
        if times > 1:
            yield f"{token} launched {times} machines"
    for one in machines:
        if one.up:
            yield f"{one.instance_id} is {one.state}"
        if one.instance_id not in recorded:
            yield f"{one.instance_id}, launched under {one.token}, is on no record"


def _usd(session: Session, node_id: int) -> Decimal:
    rows = session.execute(select(models.charges).where(models.charges.c.node_id == node_id))
    return sum((_cost(row) for row in rows), Decimal(0))


def _cost(row: Any) -> Decimal:
    """Of one charge that is closed."""
    assert row.ended_at is not None, f"n{row.node_id} is still charged for"
    micros: int = (row.ended_at - row.started_at) // timedelta(microseconds=1)
    price: Decimal = row.usd_per_hour
    return price * micros / 3_600_000_000


def _money(session: Session, bill: Mapping[str, Decimal], now: datetime) -> Iterable[str]:
    """The ledger and the cloud's own bill, instance by instance and in all; not rounded."""
    paid = {
        str(row.provider_id): _usd(session, row.id)
        for row in session.execute(select(models.nodes))
        if row.provider_id
    }
    for identity in bill.keys() | paid.keys():
        ours, theirs = paid.get(identity, Decimal(0)), bill.get(identity, Decimal(0))
        if abs(ours - theirs) > DIVIDED:
            yield f"{identity}: ${ours:.6f} on record, ${theirs:.6f} on the bill"
    ids = session.scalars(select(models.workflows.c.id)).all()
    total = sum((receipts.receipt(session, one, now).total_usd for one in ids), Decimal(0))
    billed = sum(bill.values(), Decimal(0))
    if abs(total - billed) > DIVIDED * len(bill):
        yield f"receipts: ${total:.6f}; bill: ${billed:.6f}"
