"""A gang is launched whole or not at all; what is refused for good is asked for otherwise."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import insert

from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    InProgress,
    Join,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Owner,
    ProviderError,
    QuotaExceeded,
    Seen,
    Throttled,
    Unreachable,
    gang_of,
)
from scsched.db.models import NodeState as Recorded
from scsched.db.models import nodes
from scsched.scheduler.caps import Limits
from scsched.steps.state import EndReason, PendingReason, StepState
from tests.scheduler.world import SPOT, World, pool, step

MakeWorld = Callable[..., World]
RUNNING = StepState.RUNNING
NONE = NoCapacity("nothing of that kind to give")
A, B = Candidate("dear", "a"), Candidate("dear", "b")
CHEAP = Candidate("cheap", "a")
CHOICE = pool(
    types=("dear", "cheap"), zones=("a", "b"), max_nodes=4,
    prices={"dear": Decimal(3), "cheap": Decimal(2)},
)  # fmt: skip


@pytest.fixture
def choosy(make_world: MakeWorld) -> World:
    """One pool of two types in two zones."""
    return make_world(CHOICE)


def kinds(world: World) -> set[Candidate]:
    """What the nodes that are up were asked for as."""
    return {world.cloud.requests[token].candidate for token in world.cloud.up()}


def test_the_cheapest_is_asked_for_first(choosy: World) -> None:
    choosy.submit(step("1", width=2))
    choosy.until_state(RUNNING)
    assert kinds(choosy) == {CHEAP}
    assert {(node.kind, node.zone, node.usd_per_hour) for node in choosy.nodes()} == {
        ("cheap", "a", Decimal(2))
    }


@pytest.mark.parametrize("state", [NodeState.PENDING, NodeState.STOPPING])
def test_what_is_listed_before_it_is_built_is_left_to_its_launch(
    choosy: World, monkeypatch: pytest.MonkeyPatch, state: NodeState
) -> None:
    """A cloud may list what it tries to build, and then refuse it: that is no node that ended."""
    choosy.submit(step("1"))
    choosy.cloud.refuse(InProgress("it still looks for a host"), times=9)
    choosy.until(lambda: bool(choosy.cloud.asked))
    tried = Seen(choosy.cloud.asked[0][0], "i-1", state, built=False)
    with monkeypatch.context() as patch:
        listed = choosy.cloud.list
        patch.setattr(choosy.cloud, "list", lambda: (*listed(), tried))
        choosy.tick(2)
        choosy.cloud.scarce = {CHEAP: NONE}
        choosy.tick()
    choosy.until_state(RUNNING)
    assert kinds(choosy) == {Candidate("cheap", "b")}
    assert choosy.ends() == []
    assert not [event for event in choosy.events() if event.kind == "node_ended"]


def test_what_is_refused_is_asked_for_otherwise_by_the_same_run_as_a_whole(choosy: World) -> None:
    choosy.cloud.scarce = {CHEAP: NONE, Candidate("cheap", "b"): NONE}
    choosy.submit(step("1", width=2))
    choosy.until_state(RUNNING)
    assert kinds(choosy) == {A}
    assert [node.usd_per_hour for node in choosy.nodes()] == [3, 3]
    assert choosy.ends() == []
    told = [event.text for event in choosy.events() if event.kind == "node_retargeted"]
    assert [text.split(": ")[1] for text in told] == ["cheap in b instead"] * 2 + [
        "dear in a instead"
    ] * 2


def test_every_candidate_gets_new_tokens_with_a_gang_of_their_own(choosy: World) -> None:
    choosy.cloud.scarce = {CHEAP: NONE}
    choosy.submit(step("1", width=3))
    choosy.until_state(RUNNING)
    gangs = {gang_of(token): candidate for token, candidate in choosy.cloud.asked}
    assert len(gangs) == len(set(gangs.values())) == 2
    assert {token.rpartition("-")[2] for token in choosy.cloud.up()} == {"0", "1", "2"}


def test_a_new_target_is_committed_before_the_provider_hears_of_it(choosy: World) -> None:
    choosy.cloud.scarce = {CHEAP: NONE}
    choosy.submit(step("1", width=2))
    choosy.until(lambda: any(e.kind == "node_retargeted" for e in choosy.events()))
    tokens = {node.token for node in choosy.nodes()}
    assert not tokens & {token for token, _ in choosy.cloud.asked}
    choosy.restart()
    choosy.until_state(RUNNING)
    assert set(choosy.cloud.nodes) == tokens


def test_after_no_answer_no_other_candidate_is_tried(choosy: World) -> None:
    choosy.cloud.scarce = {CHEAP: Unreachable("no answer")}
    choosy.submit(step("1", width=2))
    choosy.tick(20)
    assert {candidate for _, candidate in choosy.cloud.asked} == {CHEAP}
    assert len({token for token, _ in choosy.cloud.asked}) == 2
    choosy.cloud.scarce = {CHEAP: NONE}
    choosy.until_state(RUNNING)
    assert kinds(choosy) == {Candidate("cheap", "b")}


def test_when_all_are_refused_the_run_ends_and_the_pool_waits(choosy: World) -> None:
    choosy.cloud.scarce = dict.fromkeys(CHOICE.candidates(), NONE)
    choosy.submit(step("1", width=2))
    choosy.until(lambda: bool(choosy.ends()))
    assert choosy.ends() == [EndReason.NO_CAPACITY]
    assert "nothing of that kind to give" in choosy.runs()[0].detail
    assert choosy.cloud.nodes == {}
    hold = choosy.services.fleet.holds(choosy.now)["cpu"]
    assert hold.reason is PendingReason.SPOT_CAPACITY
    assert len(choosy.cloud.asked) == 8
    choosy.cloud.scarce = {}
    choosy.tick(50)
    assert len(choosy.cloud.asked) == 8
    choosy.until_state(RUNNING)
    assert choosy.ends() == [EndReason.NO_CAPACITY]


def test_a_gang_that_takes_over_a_node_stays_in_its_zone(choosy: World) -> None:
    choosy.cloud.scarce = {CHEAP: NONE, A: NONE}
    choosy.submit(step("1"), step("2", "1", width=2))
    choosy.until_state(RUNNING)
    choosy.cloud.scarce = {Candidate("cheap", "b"): NONE}
    choosy.finish()
    choosy.until_state(RUNNING, "2")
    assert kinds(choosy) == {Candidate("cheap", "b"), B}


def test_a_part_that_was_launched_all_the_same_is_ended_and_the_whole_tried_again(
    choosy: World,
) -> None:
    """No provider should do that; ours would not leave it running."""
    choosy.cloud.tears = True
    choosy.cloud.refuse(NONE)
    choosy.submit(step("1", width=2))
    choosy.until_state(RUNNING)
    assert kinds(choosy) == {Candidate("cheap", "b")}
    assert len(choosy.cloud.up()) == 2
    choosy.until(lambda: len(choosy.nodes()) == 2)
    ended = [node for node in choosy.cloud.nodes.values() if node.token not in choosy.cloud.up()]
    assert len(ended) == 1
    assert choosy.ends() == []


@pytest.mark.parametrize(
    ("error", "reason", "lasts_s"),
    [
        (QuotaExceeded("vCPU limit reached"), PendingReason.QUOTA_VCPU, 300),
        (Credentials("the key has expired"), PendingReason.RESOURCES, 60),
        (BadRequest("no such image"), PendingReason.RESOURCES, 300),
    ],
)
def test_what_speaks_for_the_account_holds_the_pool_and_tries_no_candidate(
    choosy: World, error: ProviderError, reason: PendingReason, lasts_s: float
) -> None:
    choosy.cloud.scarce = dict.fromkeys(CHOICE.candidates(), error)
    choosy.submit()
    choosy.until(lambda: bool(choosy.ends()))
    assert choosy.ends() == [EndReason.NO_CAPACITY]
    hold = choosy.services.fleet.holds(choosy.now)["cpu"]
    assert (hold.reason, str(error) in hold.sentence) == (reason, True)
    asked = len(choosy.cloud.asked)
    choosy.tick(10)
    assert len(choosy.cloud.asked) == asked == 1
    choosy.cloud.scarce = {}
    choosy.tick(seconds=lasts_s)
    assert choosy.services.fleet.holds(choosy.now) == {}
    choosy.until_state(RUNNING)


def test_the_token_of_a_node_that_came_and_went_unheard_of_holds_nothing(choosy: World) -> None:
    choosy.cloud.lose_replies()
    choosy.cloud.delay_listing(1000)
    choosy.submit()
    choosy.until(lambda: bool(choosy.cloud.nodes))
    choosy.cloud.reclaim(next(iter(choosy.cloud.nodes)))
    choosy.tick(5)
    assert choosy.services.fleet.holds(choosy.now) == {}
    choosy.cloud.delay_listing(0)
    choosy.until_state(RUNNING)


def test_not_now_is_heeded(world: World) -> None:
    world.cloud.refuse(Throttled("too fast", retry_after_s=10.0))
    world.submit()
    world.until(lambda: len(world.cloud.asked) == 1)
    world.tick(9)
    assert len(world.cloud.asked) == 1
    world.until_state(RUNNING)


def test_silence_is_met_with_ever_longer_pauses(world: World) -> None:
    world.cloud.refuse(Unreachable("no answer"), times=1000)
    world.submit()
    world.tick(120)
    assert 5 <= len(world.cloud.asked) <= 10
    assert len({token for token, _ in world.cloud.asked}) == 1


def test_nothing_is_launched_while_nobody_can_count(world: World) -> None:
    world.submit()
    world.tick()
    world.cloud.fail("list", Unreachable("no answer"), times=20)
    world.tick(15)
    assert world.cloud.asked == []
    assert len(world.nodes()) == 1
    hold = world.services.fleet.holds(world.now)["cpu"]
    assert (hold.reason, hold.sentence) == (
        PendingReason.RESOURCES, "provider fake does not answer: no answer",
    )  # fmt: skip
    world.until_state(RUNNING)
    assert world.services.fleet.holds(world.now) == {}


def test_a_zone_that_has_no_more_holds_nothing_but_the_gang_that_is_there(choosy: World) -> None:
    choosy.submit(step("1"), step("2", "1", width=2))
    choosy.until_state(RUNNING)
    choosy.cloud.scarce = {CHEAP: NONE, A: NONE}
    choosy.finish()
    choosy.until(lambda: bool([run for run in choosy.runs() if run.step == "2"]))
    choosy.tick(4)
    assert choosy.services.fleet.holds(choosy.now) == {}


def test_a_cap_counts_nodes_that_only_the_provider_knows(make_world: MakeWorld) -> None:
    world = make_world(pool(max_nodes=2))
    stray(world, "theirs")
    world.cloud.hide("theirs")
    world.submit(step("1", width=2))
    world.tick()
    world.cloud.show("theirs")
    world.cloud.fail("terminate", Unreachable("it stays"), times=30)
    world.until(lambda: bool(world.ends()))
    assert world.ends() == [EndReason.NO_CAPACITY]
    assert "1 of 2 nodes are up or asked for" in world.runs()[0].detail
    assert world.cloud.asked == []
    hold = world.services.fleet.holds(world.now)["cpu"]
    assert hold.reason is PendingReason.QUOTA_VCPU
    world.until_state(RUNNING, "1")


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({"max_usd_per_hour": Decimal(3)}, Limits()),
        ({}, Limits(max_nodes=3)),
        ({}, Limits(max_usd_per_hour=Decimal("3.5"))),
    ],
)
def test_caps_in_dollars_and_of_the_site_hold_the_pool_before_a_run_is_opened(
    make_world: MakeWorld, values: dict[str, object], limits: Limits
) -> None:
    world = make_world(pool("cpu", max_nodes=9, **values), limits=limits)
    world.submit(*(step(str(number)) for number in range(1, 7)))
    for _ in range(60):
        world.tick()
        assert len(world.cloud.up()) <= 3
        if len(world.cloud.up()) == 3:
            break
    world.tick(40)
    assert len(world.cloud.up()) == 3
    assert world.services.fleet.holds(world.now)["cpu"].reason is PendingReason.QUOTA_VCPU
    ends = len(world.ends())
    world.tick(30)
    assert len(world.ends()) == ends


def test_a_spare_is_launched_kept_for_its_step_and_let_go_in_time(make_world: MakeWorld) -> None:
    world = make_world(pool("spot", market=Market.SPOT, boot_s=30.0, warm_s=10.0, max_nodes=4))
    world.submit(market=SPOT)
    world.until_state(RUNNING)
    spare(world, world.now)
    world.until(lambda: len(world.cloud.up()) == 2)
    world.tick(34)
    assert len(world.cloud.up()) == 2
    world.tick(8)
    assert len(world.cloud.up()) == 1
    assert world.at() is RUNNING


def test_a_spare_whose_step_has_ended_is_let_go(make_world: MakeWorld) -> None:
    world = make_world(pool("spot", market=Market.SPOT, boot_s=300.0, max_nodes=4))
    world.submit(step("1"), step("2"), step("3", "2"), market=SPOT)
    world.until(lambda: world.at("1") is RUNNING and world.at("2") is RUNNING)
    spare(world, world.now)
    world.until(lambda: len(world.cloud.up()) == 3)
    world.finish("1")
    world.tick(2)
    assert all(node.spare_for is None for node in world.nodes() if not node.terminate_asked_at)


def stray(world: World, token: str) -> None:
    """A node of ours that no record knows, and that takes its time to end."""
    request = LaunchRequest(
        token=token,
        name="n99",
        pool=pool("other", max_nodes=99),
        owner=Owner(uid=0, gid=0, username="root"),
        join=Join(scheduler_address="", tls_dir=Path("/t"), work_dir=Path("/w")),
        deployment=world.store.deployment(),
    )
    world.cloud.launch([request])
    found = world.cloud.nodes[token]
    world.cloud.nodes[token] = replace(found, state=NodeState.STOPPING, pool="cpu")
    world.cloud.asked.clear()


def spare(world: World, now: datetime) -> None:
    """A replacement for a node of step 1, as it is asked for at a notice."""
    (first, *_) = world.nodes()
    step_id = world.steps()["1"].id
    with world.store.write() as session:
        session.execute(
            insert(nodes).values(
                workflow_id=first.workflow_id, uid=first.uid, pool=first.pool,
                provider=first.provider, market=first.market, token="spare-0",
                state=Recorded.REQUESTED, cores=first.cores,
                memory_gib=first.memory_gib, usd_per_hour=first.usd_per_hour,
                created_at=now, spare_for=step_id,
            )
        )  # fmt: skip


def test_pauses_are_forgotten_with_their_gangs(world: World) -> None:
    world.cloud.refuse(Throttled("too fast", retry_after_s=3600.0))
    world.submit(step("1"), step("2"))
    world.until(lambda: len(world.cloud.asked) >= 2)
    world.person("cancel", "1")
    world.person("cancel", "2")
    world.until(lambda: not world.nodes(), ticks=80)
    assert world.services.scale._launching._pauses == {}
