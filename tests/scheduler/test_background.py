"""No call of a remote provider blocks the thread that ticks, and none is made twice at once."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from scsched.cluster.fake import FakeProvider
from scsched.cluster.pools import Candidate, Market
from scsched.cluster.provider import (
    InProgress,
    Join,
    Launched,
    LaunchRequest,
    NoCapacity,
    Owner,
    Price,
    ProviderError,
    Refused,
    Seen,
    Throttled,
    Unreachable,
)
from scsched.scheduler.background import Background, Pace
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.watcher import Every
from tests.db.rows import NOW
from tests.scheduler.world import pool, wait_until

Make = Callable[..., Background]


class Slow(FakeProvider):
    """Every call waits at a gate; every launch is written down."""

    def __init__(self, deployment: str) -> None:
        super().__init__(deployment)
        self.gate = threading.Event()
        self.gate.set()
        self.launches: list[tuple[str, ...]] = []
        self.ended: list[tuple[str, ...]] = []
        self.broken = False

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        self.launches.append(tuple(request.token for request in requests))
        assert self.gate.wait(10)
        if self.broken:
            raise KeyError("Reservations")
        return super().launch(requests)

    def list(self) -> tuple[Seen, ...]:
        assert self.gate.wait(10)
        return super().list()

    def terminate(self, tokens: Sequence[str]) -> None:
        self.ended.append(tuple(tokens))
        assert self.gate.wait(10)
        super().terminate(tokens)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cloud() -> Slow:
    return Slow("d")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(cloud: Slow, clock: Clock) -> Iterator[Make]:
    made: list[Background] = []

    def make(**values: object) -> Background:
        given: dict[str, object] = {
            "every": Every(list_s=0.02),
            "pace": Pace(rate_per_s=1000.0, burst=10**6),
            "clock": clock,
        }
        made.append(Background(cloud, **given | values))  # type: ignore[arg-type]
        return made[-1]

    yield make
    cloud.gate.set()
    for one in made:
        one.close()


def ask(*tokens: str) -> list[LaunchRequest]:
    owner = Owner(uid=0, gid=0, username="root")
    join = Join(scheduler_address="tls://x", tls_dir=Path("/t"), work_dir=Path("/w"))
    return [
        LaunchRequest(
            token=token, name=token, pool=pool(max_nodes=9), owner=owner, join=join, deployment="d"
        )
        for token in tokens
    ]


def error_of(answer: Launched | Refused) -> type[ProviderError]:
    assert isinstance(answer, Refused)
    return type(answer.error)


def answers(background: Background, *tokens: str) -> list[Launched | Refused]:
    """Ask until there is another answer than that it is under way."""
    found: list[Launched | Refused] = []

    def there() -> bool:
        found[:] = background.launch(ask(*tokens))
        return not any(isinstance(a, Refused) and isinstance(a.error, InProgress) for a in found)

    wait_until(there)
    return found


def listed(background: Background) -> Background:
    """Wait for its first listing."""

    def there() -> bool:
        with suppress(InProgress, Unreachable):
            background.list()
        return background.number > 0

    wait_until(there)
    return background


def tokens_of(seen: Sequence[Seen]) -> set[str]:
    return {one.token for one in seen}


def test_a_launch_is_under_way_until_its_answer_is_there_and_is_made_once(
    make: Make, cloud: Slow
) -> None:
    cloud.gate.clear()
    background = make()
    for _ in range(5):
        assert [error_of(answer) for answer in background.launch(ask("g-0", "g-1"))] == [
            InProgress, InProgress,
        ]  # fmt: skip
    assert background.under_way("g-1")
    cloud.gate.set()
    found = answers(background, "g-0", "g-1")
    assert [answer.token for answer in found] == ["g-0", "g-1"]
    assert all(isinstance(answer, Launched) for answer in found)
    assert cloud.launches == [("g-0", "g-1")]
    assert not background.under_way("g-1")


def test_gangs_are_asked_for_apart_and_at_the_same_time(make: Make, cloud: Slow) -> None:
    cloud.gate.clear()
    background = make()
    background.launch(ask("g-0", "g-1", "h-0"))
    wait_until(lambda: len(cloud.launches) == 2)
    assert sorted(cloud.launches) == [("g-0", "g-1"), ("h-0",)]


def test_an_answer_wakes_the_ticker(make: Make, cloud: Slow) -> None:
    woken = threading.Event()
    background = make(wake=woken.set, every=Every(list_s=3600.0))
    background.launch(ask("g-0"))
    assert woken.wait(10)
    assert len(answers(background, "g-0")) == 1


@pytest.mark.parametrize("error", [NoCapacity("none"), Throttled("slow", retry_after_s=0.0)])
def test_a_refusal_is_told_once_and_who_asks_again_asks_the_provider(
    make: Make, cloud: Slow, error: ProviderError, clock: Clock
) -> None:
    cloud.refuse(error)
    background = make()
    assert error_of(answers(background, "g-0")[0]) is type(error)
    clock.now += 60.0
    assert isinstance(answers(background, "g-0")[0], Launched)
    assert len(cloud.nodes) == 1


def test_a_launch_that_breaks_leaves_open_whether_it_happened(make: Make, cloud: Slow) -> None:
    cloud.broken = True
    assert error_of(answers(make(), "g-0")[0]) is Unreachable


def test_a_launch_that_nobody_waits_for_any_more_is_not_begun(
    make: Make, cloud: Slow, clock: Clock
) -> None:
    cloud.gate.clear()
    background = make(pace=Pace(rate_per_s=1000.0, burst=10**6, launchers=1))
    background.launch(ask("g-0"))
    wait_until(lambda: cloud.launches == [("g-0",)])
    background.launch(ask("h-0"))
    clock.now += 60.0
    cloud.gate.set()
    wait_until(lambda: not background.under_way("h-0"))
    assert cloud.launches == [("g-0",)]


def test_a_listing_never_blocks_and_is_the_newest(make: Make, cloud: Slow) -> None:
    background = listed(make())
    assert background.list() == ()
    before = background.number
    cloud.launch(ask("g-0"))
    wait_until(lambda: tokens_of(background.list()) == {"g-0"})
    assert background.number > before
    assert background.taken_at is not None
    assert datetime.now(UTC) - background.taken_at < timedelta(seconds=60)
    cloud.gate.clear()
    assert tokens_of(background.list()) == {"g-0"}


def test_before_the_first_listing_nothing_is_known(make: Make, cloud: Slow) -> None:
    cloud.gate.clear()
    with pytest.raises(InProgress, match="first list"):
        make().list()
    fleet = Fleet([pool()], {"fake": make()})
    assert fleet.census().silent == {"fake"}
    (hold,) = fleet.holds(NOW).values()
    assert hold.sentence == "provider fake was just asked: its first list of the nodes is awaited"


def test_an_old_listing_says_nothing_any_more(make: Make, cloud: Slow, clock: Clock) -> None:
    background = listed(make())
    cloud.fail("list", Unreachable("no route"), times=1000)
    clock.now += 59.0
    assert background.list() == ()
    clock.now += 2.0
    wait_until(lambda: background.taken_at is not None)
    with pytest.raises(Unreachable):
        background.list()
    with pytest.raises(Unreachable):
        background.notices()


def test_a_provider_whose_notices_do_not_come_still_lists(make: Make, cloud: Slow) -> None:
    background = listed(make())
    cloud.launch(ask("g-0"))
    cloud.notify("g-0", NOW)
    wait_until(lambda: bool(background.notices()))
    cloud.fail("notices", NoCapacity("no queue"), times=10**6)
    before = background.number
    wait_until(lambda: background.number > before + 2)
    assert [notice.token for notice in background.notices()] == ["g-0"]


def test_notices_are_heard_between_two_listings_and_wake_a_tick(make: Make, cloud: Slow) -> None:
    """The news is there before the tick is woken."""
    woken: list[int] = []
    every = Every(list_s=3600.0, hear_s=0.02)
    background: Background = make(wake=lambda: woken.append(background.news), every=every)
    answers(background, "g-0")
    wait_until(lambda: tokens_of(background.list()) == {"g-0"})
    before = background.listing()
    cloud.notify("g-0", NOW)
    wait_until(lambda: before.news + 1 in woken)
    assert [notice.token for notice in background.notices()] == ["g-0"]
    assert background.number == before.number


def test_who_is_woken_finds_the_news_in_the_next_census(make: Make, cloud: Slow) -> None:
    """However young the last one is: a notice waits for no pause."""
    woken = threading.Event()
    fleet = Fleet([pool()], {"fake": listed(make(wake=woken.set))})
    before = fleet.census(age_s=3600.0)
    assert fleet.census(age_s=3600.0) is before
    cloud.launch(ask("g-0"))
    wait_until(woken.is_set)
    assert fleet.census(age_s=3600.0).seen.keys() == {"g-0"}
    woken.clear()
    cloud.notify("g-0", NOW)
    wait_until(woken.is_set)
    assert fleet.census(age_s=3600.0).notices.keys() == {"g-0"}


def test_the_nodes_are_looked_at_at_once_after_a_launch(make: Make, cloud: Slow) -> None:
    background = listed(make(every=Every(list_s=3600.0)))
    answers(background, "g-0")
    wait_until(lambda: tokens_of(background.list()) == {"g-0"})


def test_a_termination_is_handed_over_once(make: Make, cloud: Slow, clock: Clock) -> None:
    background = make()
    cloud.launch(ask("g-0"))
    cloud.gate.clear()
    for _ in range(5):
        background.terminate(["g-0"])
    wait_until(lambda: cloud.ended == [("g-0",)])
    cloud.gate.set()
    wait_until(lambda: not cloud.up())
    background.terminate(["g-0"])
    assert cloud.ended == [("g-0",)]
    clock.now += 60.0
    background.terminate(["g-0"])
    wait_until(lambda: len(cloud.ended) == 2)


def test_a_termination_that_failed_may_be_repeated_at_once(make: Make, cloud: Slow) -> None:
    background = make()
    cloud.launch(ask("g-0"))
    cloud.fail("terminate", NoCapacity("odd"))

    def is_gone() -> bool:
        background.terminate(["g-0"])
        return not cloud.up()

    wait_until(is_gone)
    assert cloud.ended == [("g-0",), ("g-0",)]


def test_who_ends_nodes_himself_hears_how_it_went(make: Make, cloud: Slow) -> None:
    background = make()
    cloud.launch(ask("g-0"))
    cloud.fail("terminate", NoCapacity("odd"))
    with pytest.raises(NoCapacity, match="odd"):
        background.end(["g-0"])
    background.end(["g-0"])
    assert not cloud.up()


def test_too_many_calls_pause_all_of_them(make: Make, cloud: Slow, clock: Clock) -> None:
    cloud.refuse(Throttled("slow down", retry_after_s=30.0))
    background = listed(make())
    answers(background, "g-0")
    wait_until(lambda: background.launch(ask("h-0")) is not None and background.under_way("h-0"))
    calls = cloud.calls["list"]
    assert cloud.launches == [("g-0",)]
    assert cloud.calls["list"] <= calls + 1


def test_prices_come_from_memory_once_they_are_there(make: Make, cloud: Slow) -> None:
    price = Price(Candidate("x"), Market.SPOT, Decimal(1), NOW)
    cloud.price_list.append(price)
    background, pools = make(), [pool(types=("x",))]
    with pytest.raises(Unreachable, match="not there yet"):
        background.prices(pools, NOW)

    def there() -> bool:
        try:
            return background.prices(pools, NOW) == (price,)
        except Unreachable:
            return False

    wait_until(there)
    assert cloud.calls["prices"] == 1
    with pytest.raises(Unreachable):
        background.prices(pools, NOW - timedelta(hours=3))
    wait_until(lambda: cloud.calls["prices"] == 2)


def test_the_traits_are_the_provider_s_own(make: Make, cloud: Slow) -> None:
    cloud.traits = replace(cloud.traits, remote=True, stranger_grace_s=300.0)
    assert make().traits is cloud.traits
