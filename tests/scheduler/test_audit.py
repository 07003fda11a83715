"""The audit tells what the ledger and the providers' lists do not say alike, and mends it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest

from scsched.cluster.pools import ANY, Candidate
from scsched.cluster.provider import Credentials, NodeState, Unreachable
from scsched.scheduler import answers
from scsched.scheduler.audit import Found
from scsched.steps.spec import ResourceClass
from scsched.steps.state import StepState
from tests.scheduler.test_launching import stray
from tests.scheduler.world import World, pool, step

MakeWorld = Callable[..., World]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """Two nodes run."""
    world = make_world()
    world.submit(step("1", width=2))
    world.until_state(StepState.RUNNING)
    return world


def audit(world: World, *, fix: bool = False) -> Found:
    return world.services.audit.run(world.now, fix=fix)


def kinds(found: Found) -> list[str]:
    return [one.kind for one in found.differences]


def change(world: World, **values: object) -> str:
    token = min(world.cloud.nodes)
    world.cloud.nodes[token] = replace(world.cloud.nodes[token], **values)  # type: ignore[arg-type]
    return token


def test_where_all_agree_there_is_no_difference(world: World) -> None:
    found = audit(world)
    assert (found.ok, found.nodes, found.usd_per_hour) == (True, 2, Decimal(2))
    assert answers.audit(found) == {
        "ok": True, "nodes": 2, "usd_per_hour": 2.0, "unpriced": 0, "items": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "usd_per_hour", "unpriced"),
    [
        ({"usd_per_hour": Decimal("0.7")}, "2.7", 0),
        ({"candidate": Candidate("big", "a")}, "5", 0),
        ({"candidate": Candidate("small", "a")}, "4", 0),
        ({}, "4", 0),
        ({"pool": "former"}, "2", 1),
        ({"pool": "free"}, "2", 1),
    ],
)
def test_a_stranger_costs_what_its_provider_or_its_pool_says(
    make_world: MakeWorld, values: dict[str, object], usd_per_hour: str, unpriced: int
) -> None:
    """The cheapest of the pool's types where nobody says which it is."""
    cpu = pool(types=("big", "small"), prices={"big": Decimal(3), "small": Decimal(2)})
    gpu = frozenset({ResourceClass.GPU})
    world = make_world(cpu, pool("free", remote=True, usd_per_hour=Decimal(0), classes=gpu))
    world.submit(step("1"))
    world.until_state(StepState.RUNNING)
    stray(world, "theirs")
    seen = replace(world.cloud.nodes["theirs"], state=NodeState.RUNNING, usd_per_hour=None)
    world.cloud.nodes["theirs"] = replace(seen, **{"candidate": ANY} | values)  # type: ignore[arg-type]
    found = audit(world)
    assert (found.nodes, found.usd_per_hour) == (2, Decimal(usd_per_hour))
    assert found.unpriced == unpriced


def test_a_node_on_no_record_is_ended_when_that_is_wanted(world: World) -> None:
    stray(world, "theirs")
    world.cloud.nodes["theirs"] = replace(world.cloud.nodes["theirs"], state=NodeState.RUNNING)
    assert kinds(audit(world)) == ["unknown"]
    assert "theirs" in world.cloud.up()
    (one,) = audit(world, fix=True).differences
    assert one.fixed
    assert "on no record" in one.sentence
    assert "theirs" not in world.cloud.up()
    assert [event.kind for event in world.events()][-1] == "stranger_ended"
    assert audit(world).ok


def test_a_node_that_its_provider_does_not_end_is_not_called_mended(world: World) -> None:
    stray(world, "theirs")
    world.cloud.nodes["theirs"] = replace(world.cloud.nodes["theirs"], state=NodeState.RUNNING)
    world.cloud.fail("terminate", Credentials("the key has expired"))
    (one,) = audit(world, fix=True).differences
    assert not one.fixed
    assert "could not be ended: the key has expired" in one.sentence
    assert "theirs" in world.cloud.up()
    assert audit(world, fix=True).differences[0].fixed


def test_a_node_whose_record_has_ended_is_unknown_too(world: World) -> None:
    world.finish()
    world.until(lambda: not world.nodes())
    change(world, state=NodeState.RUNNING)
    (one,) = audit(world).differences
    assert (one.kind, one.node is not None) == ("unknown", True)
    assert "has ended" in one.sentence


def test_a_node_that_is_not_listed_is_closed_when_that_is_wanted(world: World) -> None:
    world.cloud.hide(min(world.cloud.nodes))
    assert kinds(audit(world)) == ["missing"]
    assert len(world.nodes()) == 2
    assert audit(world, fix=True).differences[0].fixed
    assert len(world.nodes()) == 1
    assert audit(world).ok


def test_a_node_may_be_missing_for_as_long_as_its_provider_lists_late(world: World) -> None:
    world.cloud.traits = replace(world.cloud.traits, listing_lag_s=3600.0)
    world.cloud.hide(*world.cloud.nodes)
    assert audit(world).ok


def test_a_node_that_has_ended_is_closed_at_the_provider_s_time(world: World) -> None:
    ended_at = world.now - timedelta(seconds=2)
    change(world, state=NodeState.TERMINATED, ended_at=ended_at, reason="spot")
    assert kinds(audit(world)) == ["state"]
    assert audit(world, fix=True).differences[0].fixed
    assert audit(world).ok


def test_another_price_or_interval_is_told_and_left_to_a_person(world: World) -> None:
    launched_at = world.now - timedelta(hours=1)
    change(world, usd_per_hour=Decimal("0.9"), launched_at=launched_at)
    found = audit(world, fix=True)
    assert kinds(found) == ["price", "interval"]
    assert not any(one.fixed for one in found.differences)
    assert found.usd_per_hour == Decimal("1.9")
    assert kinds(audit(world)) == ["price", "interval"]


def test_an_end_that_was_billed_otherwise_is_told(world: World) -> None:
    world.finish()
    world.until(lambda: not world.nodes())
    change(world, ended_at=world.now + timedelta(seconds=30))
    (one,) = audit(world).differences
    assert one.kind == "interval"
    assert "billed until" in one.sentence


def test_a_silent_provider_is_a_difference(world: World) -> None:
    world.cloud.fail("list", Unreachable("no answer"))
    found = audit(world)
    assert (kinds(found), found.ok) == (["silent"], False)
    assert answers.audit(found)["items"] == [
        {
            "kind": "silent",
            "node": None,
            "provider": "fake",
            "provider_id": None,
            "sentence": "provider fake does not answer: no answer",
            "fixed": False,
        }
    ]


def test_a_silence_is_logged_once_for_as_long_as_it_lasts(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        world.cloud.fail("list", Unreachable("no answer"), times=5)
        world.tick(6)
    said = [one.message for one in caplog.records if "does not answer" in one.message]
    assert said == ["provider fake does not answer: no answer"] * 2
