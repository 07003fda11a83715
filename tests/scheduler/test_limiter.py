"""One budget of calls for all, and pauses when the provider wants them."""

import pytest

from scsched.cluster.provider import NoCapacity, Throttled, Unreachable
from scsched.scheduler.limiter import MAX_PAUSE_S, Caller, Limiter, pause_s


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(2.0, 3, clock)


def test_a_burst_goes_at_once_and_then_the_rate_holds(limiter: Limiter, clock: Clock) -> None:
    assert [limiter.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.5
    assert [limiter.take(), limiter.take()] == [0, 0.5]
    clock.now += 3600
    assert [limiter.take() for _ in range(4)] == [0, 0, 0, 0.5]


def test_too_many_pauses_all_calls_for_as_long_as_it_says(limiter: Limiter, clock: Clock) -> None:
    limiter.heard(Throttled("slow down", retry_after_s=7.0))
    assert limiter.take() == pytest.approx(7.0)
    clock.now += 7.0
    assert limiter.take() == 0


def test_silence_pauses_ever_longer_until_something_is_heard(
    limiter: Limiter, clock: Clock
) -> None:
    pauses = []
    for _ in range(12):
        limiter.heard(Unreachable("no answer"))
        pauses.append(limiter.take())
        clock.now += pauses[-1]
    assert 0.25 <= pauses[0] <= 0.5
    assert all(later > before * 0.99 for before, later in zip(pauses, pauses[2:8], strict=False))
    assert MAX_PAUSE_S / 2 <= pauses[-1] <= MAX_PAUSE_S
    limiter.heard(None)
    limiter.heard(Unreachable("no answer"))
    assert limiter.take() <= 0.5


def test_a_definite_answer_is_no_reason_to_pause(limiter: Limiter) -> None:
    limiter.heard(NoCapacity("none"))
    assert limiter.take() == 0


def test_pauses_double_up_to_a_minute() -> None:
    assert [pause_s(n) for n in (1, 2, 3)] == [0.5, 1.0, 2.0]
    assert pause_s(1000) == MAX_PAUSE_S
    assert pause_s(2, jitter=0.0) == 0.5


def test_whatever_goes_wrong_in_a_call_leaves_open_whether_it_was_done(limiter: Limiter) -> None:
    def broken() -> None:
        raise KeyError("Reservations")

    with pytest.raises(Unreachable, match="Reservations"):
        Caller(limiter).call(broken)
    assert limiter.take() > 0


def test_nobody_waits_for_his_turn_any_more_when_it_is_closed(limiter: Limiter) -> None:
    caller = Caller(limiter)
    limiter.heard(Throttled("slow down", retry_after_s=3600.0))
    caller.closed.set()
    assert caller.call(lambda: 4) == 4
