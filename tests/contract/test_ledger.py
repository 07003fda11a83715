"""What nodes cost, on SQLite and on Postgres alike: as the provider bills, never a gap."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from scsched.db import bills, charges, gangs, nodes, pricing, queries, queue, runs, soon, spares
from scsched.db import models as tables
from scsched.db.bills import Life
from scsched.db.gangs import Target
from scsched.db.models import Market, NodeState
from scsched.db.nodes import Birth, Death
from scsched.db.runs import OpenedRun
from scsched.db.session import Session, Store
from scsched.db.spares import NewSpare
from scsched.steps.state import EndReason, StepState
from tests import postgres
from tests.db.rows import (
    NOW,
    MakeUrl,
    chain,
    end,
    later,
    new_node,
    new_run,
    new_step,
    open_all,
    opened,
    postgres_urls,
    sqlite_urls,
    submit,
)

HOUR = 3600.0
SECOND = Decimal("0.0001")
"""What a second costs at the price of `new_node`."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def make_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeUrl]:
    if request.param == "sqlite":
        with sqlite_urls(tmp_path_factory.mktemp("stores")) as make:
            yield make
        return
    if postgres.missing():
        pytest.skip(postgres.missing())
    with postgres_urls() as make:
        yield make


@pytest.fixture
def store(make_url: MakeUrl) -> Iterator[Store]:
    with opened(make_url()) as store:
        yield store


@dataclass(frozen=True, slots=True)
class Paid:
    """One charge."""

    run_id: int | None
    start_s: float
    end_s: float | None
    usd_per_hour: Decimal


def paid(store: Store, node_id: int) -> list[Paid]:
    """The charges of a node in the order of time; they follow each other without a gap."""
    with store.read() as session:
        rows = session.execute(
            select(tables.charges)
            .where(tables.charges.c.node_id == node_id)
            .order_by(tables.charges.c.started_at, tables.charges.c.id)
        ).all()
        (node,) = nodes.get(session, [node_id])
    assert [row.started_at for row in rows[1:]] == [row.ended_at for row in rows[:-1]]
    assert rows[0].started_at == node.launched_at
    assert rows[-1].ended_at == node.ended_at
    return [
        Paid(row.run_id, _s(row.started_at) or 0.0, _s(row.ended_at), row.usd_per_hour)
        for row in rows
    ]


def _s(at: datetime | None) -> float | None:
    return None if at is None else (at - NOW).total_seconds()


def launch(store: Store, **values: object) -> tuple[OpenedRun, int]:
    """Step 1 of a chain of two with a node that was launched at NOW and is up."""
    submit(store, *chain(2), market=Market.SPOT)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(**values),))
        nodes.launched(session, [Birth(run.node_ids[0], "i-1", NOW)], later(3))
        nodes.up(session, run.node_ids, later(60))
    return run, run.node_ids[0]


def test_the_provider_s_word_on_the_launch_holds(store: Store) -> None:
    submit(store)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        born = Birth(run.node_ids[0], "i-1", later(-2), Decimal("0.5"))
        nodes.launched(session, [born], later(5))
        (node,) = nodes.live(session)
    assert (node.launched_at, node.usd_per_hour, node.priced_until) == (
        later(-2), Decimal("0.5"), later(-2 - HOUR),
    )  # fmt: skip
    assert paid(store, node.id) == [Paid(run.run_id, -2.0, None, Decimal("0.5"))]


def test_a_node_launched_after_its_tick_began_is_paid_for_from_its_launch(store: Store) -> None:
    """To the microsecond: six nodes that cost a fifth of a cent too much each are a cent."""
    submit(store)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        nodes.launched(session, [Birth(run.node_ids[0], "i-1", later(5.2))], later(5))
        nodes.up(session, run.node_ids, later(6))
        nodes.ended(session, [Death(run.node_ids[0], "spot", later(7.2))], later(8))
    assert paid(store, run.node_ids[0]) == [Paid(run.run_id, 5.2, 7.2, Decimal("0.36"))]


@pytest.mark.parametrize("told", [True, False])
def test_a_provider_s_clock_may_be_ahead_of_ours(store: Store, told: bool) -> None:
    """What it bills is paid for, and nothing but that, whatever happens before it is so late."""
    submit(store, *chain(2))
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        node_id = run.node_ids[0]
        nodes.launched(session, [Birth(node_id, "i-1", later(900))], later(5))
        nodes.up(session, run.node_ids, later(20))
        runs.end_runs(session, [end(run)], later(100))
        died = Death(node_id, "asked", later(1050) if told else None)
        nodes.ended(session, [died], later(150))
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(9999))
    until = 1050 if told else 900
    assert [(one.start_s, one.end_s) for one in paid(store, node_id)] == [(900, 900), (900, until)]
    assert receipt.total_usd == (until - 900) * SECOND
    assert receipt.boot_usd == 0


def test_nothing_is_paid_after_the_end_that_the_provider_tells(store: Store) -> None:
    """Its run had been closed since, and the node was thought idle."""
    run, node_id = launch(store)
    with store.write() as session:
        runs.end_runs(session, [end(run, EndReason.LOST, StepState.PENDING)], later(100))
        nodes.ended(session, [Death(node_id, "spot", later(95))], later(130))
    assert [(one.start_s, one.end_s) for one in paid(store, node_id)] == [(0, 95), (95, 95)]
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(9999))
    assert receipt.total_usd == 95 * SECOND
    assert receipt.idle_usd == 0


def test_an_end_is_never_before_the_launch(store: Store) -> None:
    _, node_id = launch(store)
    with store.write() as session:
        nodes.ended(session, [Death(node_id, "spot", later(-50))], later(130))
    assert [(one.start_s, one.end_s) for one in paid(store, node_id)] == [(0, 0)]


def told_late(store: Store, node_id: int, start_s: float, end_s: float) -> bool:
    """The provider tells of a life; whether that was news. Twice is never."""
    with store.write() as session:
        (node,) = nodes.get(session, [node_id])
        life = Life(node, "i-1", later(start_s), later(end_s))
        first = bills.correct(session, [life], later(500))
        (node,) = nodes.get(session, [node_id])
        again = bills.correct(session, [replace(life, node=node), life], later(501))
    assert not again
    return bool(first)


def test_a_node_that_was_lost_is_paid_for_until_the_end_that_is_told_late(store: Store) -> None:
    """Before the moment at which it was given up."""
    run, node_id = launch(store)
    with store.write() as session:
        runs.end_runs(session, [end(run, EndReason.LOST, StepState.PENDING)], later(100))
        nodes.ended(session, [(node_id, "lost")], later(130))
    assert told_late(store, node_id, 0, 95)
    assert [(one.start_s, one.end_s) for one in paid(store, node_id)] == [(0, 95), (95, 95)]


def test_a_node_that_lived_on_after_it_was_given_up_is_paid_for(store: Store) -> None:
    run, node_id = launch(store)
    with store.write() as session:
        nodes.ended(session, [(node_id, "lost")], later(130))
        runs.end_runs(session, [end(run, EndReason.LOST, StepState.PENDING)], later(131))
    assert told_late(store, node_id, 0, 400)
    price = Decimal("0.36")
    assert paid(store, node_id) == [Paid(run.run_id, 0, 130, price), Paid(None, 130, 400, price)]
    with store.read() as session:
        assert queries.receipt(session, 1, later(9999)).total_usd == 400 * SECOND


def test_a_node_of_whose_launch_nobody_heard_in_time_is_paid_for(store: Store) -> None:
    submit(store)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        node_id = run.node_ids[0]
        nodes.ended(session, [(node_id, "not needed any more")], later(130))
    assert told_late(store, node_id, 20, 400)
    assert paid(store, node_id) == [Paid(None, 20, 400, Decimal("0.36"))]
    with store.read() as session:
        (node,) = nodes.get(session, [node_id])
    assert (node.provider_id, node.ended_at) == ("i-1", later(400))


def test_what_was_told_in_time_is_not_corrected(store: Store) -> None:
    _, node_id = launch(store)
    assert not told_late(store, node_id, 0, 95)
    with store.write() as session:
        nodes.ended(session, [Death(node_id, "spot", later(95))], later(130))
    assert not told_late(store, node_id, 0, 95)


def test_boot_and_idle_time_are_told_apart_and_the_parts_are_the_total(store: Store) -> None:
    run, node_id = launch(store)
    with store.write() as session:
        runs.end_runs(session, [end(run)], later(100))
        nodes.ended(session, [Death(node_id, "asked", later(150))], later(151))
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(9999))
    assert receipt.boot_usd == 60 * SECOND
    assert receipt.boot_hours == pytest.approx(60 / HOUR)
    assert receipt.idle_usd == 50 * SECOND
    assert receipt.total_usd == 150 * SECOND
    assert receipt.idle_usd + sum(line.usd for line in receipt.lines) == receipt.total_usd


def test_a_node_that_never_came_up_only_booted(store: Store) -> None:
    submit(store)
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(),))
        nodes.launched(session, [Birth(run.node_ids[0], "i-1")], NOW)
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(30))
    assert receipt.boot_usd == receipt.total_usd == 30 * SECOND


def test_a_spare_boots_before_it_is_idle_and_the_parts_are_the_total(store: Store) -> None:
    """It has no run while it comes up, and waits for its step then; its price changes meanwhile."""
    run, _ = launch(store)
    wanted = NewSpare(run.step_id, run.workflow_id, run.run_id, "spot", Market.SPOT, new_node())
    with store.write() as session:
        (spare_id,) = spares.intend(session, [wanted], later(70))
        nodes.launched(session, [Birth(spare_id, "i-2", later(80))], later(81))
        charges.reprice(session, spare_id, later(100), Decimal("0.72"))
    with store.read() as session:
        coming = queries.receipt(session, 1, later(110))
    assert coming.idle_usd == 0
    assert coming.boot_without_run_usd == (20 + 2 * 10) * SECOND
    with store.write() as session:
        nodes.up(session, [spare_id], later(120))
        nodes.ended(session, [Death(spare_id, "asked", later(150))], later(150))
        runs.end_runs(session, [end(run)], later(200))
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(200))
    assert receipt.boot_without_run_usd == (20 + 2 * 20) * SECOND
    assert receipt.boot_without_run_hours == pytest.approx(40 / HOUR)
    assert receipt.boot_usd == 60 * SECOND + receipt.boot_without_run_usd
    assert receipt.boot_hours == pytest.approx(100 / HOUR)
    assert receipt.idle_usd == 2 * 30 * SECOND
    assert receipt.idle_hours == pytest.approx(30 / HOUR)
    lines = sum(line.usd for line in receipt.lines)
    assert lines + receipt.boot_without_run_usd + receipt.idle_usd == receipt.total_usd


def test_a_price_change_splits_what_was_charged_since(store: Store) -> None:
    """Also when the node went from run to run in between, and when it has ended."""
    run, node_id = launch(store)
    with store.write() as session:
        runs.end_runs(session, [end(run)], later(5000))
        (second,) = runs.open_runs(
            session,
            [
                new_run(step.step_id, step.epoch, reuse_nodes=(node_id,))
                for step in queue.eligible(session, later(5000), 9)
            ],
            later(6000),
        )
        nodes.ended(session, [Death(node_id, "spot", later(9000))], later(9001))
        (node,) = nodes.get(session, [node_id])
        assert pricing.reprice(session, node, later(HOUR), Decimal("0.1"), later(9002))
        assert not pricing.reprice(session, node, later(HOUR), Decimal("0.1"), later(9002))
        assert pricing.reprice(session, node, later(2 * HOUR), Decimal("0.2"), later(9002))
    first, old = run.run_id, Decimal("0.36")
    assert paid(store, node_id) == [
        Paid(first, 0, HOUR, old),
        Paid(first, HOUR, 5000, Decimal("0.1")),
        Paid(None, 5000, 6000, Decimal("0.1")),
        Paid(second.run_id, 6000, 2 * HOUR, Decimal("0.1")),
        Paid(second.run_id, 2 * HOUR, 9000, Decimal("0.2")),
    ]
    with store.read() as session:
        receipt = queries.receipt(session, 1, later(9999))
        (node_row,) = queries.node_rows(session, later(9999), live=False)
        line = queries.workflow(session, 1, later(9999))
    assert receipt.total_usd == Decimal("0.36") + Decimal("0.1") + Decimal("0.2") / 2
    assert receipt.idle_usd + sum(one.usd for one in receipt.lines) == receipt.total_usd
    assert node_row.usd == line.usd == receipt.total_usd


def test_the_charge_of_a_live_node_stays_open_at_the_new_price(store: Store) -> None:
    run, node_id = launch(store)
    with store.write() as session:
        charges.reprice(session, node_id, later(HOUR), Decimal(9))
    assert paid(store, node_id)[-1] == Paid(run.run_id, HOUR, None, Decimal(9))


def test_a_node_is_unpriced_until_its_last_hour_is_charged(store: Store) -> None:
    _, node_id = launch(store)
    with store.write() as session:
        assert [node.id for node in pricing.unpriced(session)] == [node_id]
        nodes.ended(session, [Death(node_id, "spot", later(5000))], later(5000))
        assert [node.id for node in pricing.unpriced(session)] == [node_id]
        pricing.priced(session, [(node_id, later(5000))])
        assert pricing.unpriced(session) == []


def test_another_target_gives_a_gang_new_tokens_and_leaves_what_was_launched(store: Store) -> None:
    submit(store)
    target = Target("next", "big", "b", Decimal(3))
    with store.write() as session:
        (run,) = open_all(session, new_nodes=(new_node(token="g-0"), new_node(token="g-1")))
        one, other = run.node_ids
        nodes.launched(session, [Birth(other, "i-1", NOW)], NOW)
        gangs.retarget(session, run.node_ids, target, later(5))
        gang = nodes.of_runs(session, [run.run_id])
        (left,) = nodes.get(session, [other])
    assert [(node.token, node.kind, node.zone, node.usd_per_hour) for node in gang] == [
        ("next-0", "big", "b", Decimal(3)), ("next-1", "big", "b", Decimal(3)),
    ]  # fmt: skip
    assert [node.state for node in gang] == [NodeState.REQUESTED] * 2
    assert gang[0].id == one
    assert (left.state, left.run_id, left.terminate_asked_at) == (
        NodeState.DRAINING, None, later(5),
    )  # fmt: skip
    assert [(p.run_id, p.start_s, p.end_s) for p in paid(store, other)] == [
        (run.run_id, 0, 5), (None, 5, None),
    ]  # fmt: skip


def test_soon_are_steps_that_wait_for_nothing_but_what_moves(store: Store) -> None:
    number = submit(
        store,
        new_step("1"),
        new_step("2", "1"),
        new_step("3", "2"),
        new_step("4", "1", gate="look"),
        new_step("5"),
        new_step("6", "1", "5"),
        new_step("7", "4"),
    )
    with store.write() as session:
        queue.hold(session, queries.step_ids(session, number, ["5"]).values(), NOW, 0)
        assert refs(session, number) == {"1", "2"}
        open_all(session)
        assert refs(session, number) == {"2"}
        queue.release(session, queries.step_ids(session, number, ["5"]).values(), NOW, 0)
        assert refs(session, number) == {"2", "5", "6"}
        queue.hold_workflows(session, [number], NOW, 0)
        assert refs(session, number) == set()


def refs(session: Session, number: int) -> set[str]:
    names = {step_id: ref for ref, step_id in queries.step_ids(session, number).items()}
    return {names[one.step_id] for one in soon.soon(session, [number])}


def test_a_step_that_ended_wants_no_node_any_more(store: Store) -> None:
    number = submit(store, new_step("1"), new_step("2"))
    with store.write() as session:
        ids = queries.step_ids(session, number)
        queue.cancel(session, [ids["1"]], NOW, 0)
        assert soon.unfinished(session, ids.values()) == {ids["2"]}


def test_a_node_of_old_without_a_price_date_is_charged_like_others(store: Store) -> None:
    _, node_id = launch(store)
    with store.write() as session:
        session.execute(update(tables.nodes).values(priced_until=None))
        (node,) = pricing.unpriced(session)
    assert node.id == node_id
    assert node.launched_at is not None
    assert timedelta(0) == node.launched_at - NOW
