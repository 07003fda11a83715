"""The retry policy: every case of `decide`, and that it always comes to an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.scheduler.retry import (
    CAPACITY_BACKOFF_S,
    Ended,
    GiveUp,
    Past,
    Requeue,
    RetryPolicy,
    decide,
)
from scsched.steps.state import INFRASTRUCTURE, EndReason

POLICY = RetryPolicy()
R = EndReason


def ended(
    *reasons: EndReason, gained: bool = False, resumable: bool = True, larger: bool = False
) -> Ended:
    history = tuple(Past(reason, gained) for reason in reasons)
    return Ended(history=history, resumable=resumable, larger_exists=larger)


@pytest.mark.parametrize("reason", sorted(INFRASTRUCTURE))
def test_a_lost_node_runs_again_at_once(reason: EndReason) -> None:
    decision = decide(ended(reason), POLICY)
    assert isinstance(decision, Requeue)
    assert decision.delay_s == 0.0


def test_losses_in_vain_wait_longer_each_time_up_to_the_cap() -> None:
    waits = [_delay(ended(*[R.PREEMPTED] * n)) for n in range(1, 15)]
    assert waits == sorted(waits)
    assert waits[:4] == [0.0, 15.0, 30.0, 60.0]
    assert max(waits) <= POLICY.max_backoff_s


def test_a_loss_that_gained_an_iteration_costs_no_wait() -> None:
    assert _delay(ended(*[R.PREEMPTED] * 12, gained=True)) == 0.0


def test_spot_losses_in_vain_move_the_step_to_on_demand() -> None:
    assert _requeue(ended(R.PREEMPTED, R.PREEMPTED)).allow_spot
    assert not _requeue(ended(R.PREEMPTED, R.PREEMPTED, R.PREEMPTED)).allow_spot


def test_preemptions_do_not_count_against_the_program() -> None:
    history = ended(R.PREEMPTED, R.FAILED, R.NODE_FAIL, R.PREEMPTED)
    assert isinstance(decide(history, POLICY), Requeue)


def test_a_poison_step_is_given_up_after_its_own_number_of_failures() -> None:
    assert isinstance(decide(ended(R.FAILED), POLICY), Requeue)
    assert isinstance(decide(ended(R.FAILED, R.PREEMPTED, R.FAILED), POLICY), GiveUp)


def test_nodes_lost_in_vain_too_often_end_it() -> None:
    losses = [R.LOST] * POLICY.max_infrastructure_ends
    assert isinstance(decide(ended(*losses[:-1]), POLICY), Requeue)
    assert isinstance(decide(ended(*losses), POLICY), GiveUp)


def test_a_step_that_finds_no_node_waits_for_days_and_is_not_given_up() -> None:
    refused = [R.NO_CAPACITY] * 1000
    assert _delay(ended(*refused)) == CAPACITY_BACKOFF_S
    losses = [R.LOST] * (POLICY.max_infrastructure_ends - 1)
    assert isinstance(decide(ended(*losses, *refused), POLICY), Requeue)
    assert isinstance(decide(ended(*losses, *refused, R.LOST), POLICY), GiveUp)


def test_a_step_that_finds_no_spot_node_moves_to_on_demand_ones() -> None:
    assert not _requeue(ended(*[R.NO_CAPACITY] * 3)).allow_spot


def test_out_of_memory_gets_one_larger_slot_if_there_is_one() -> None:
    assert _requeue(ended(R.OUT_OF_MEMORY, larger=True)).larger
    assert isinstance(decide(ended(R.OUT_OF_MEMORY), POLICY), GiveUp)
    assert isinstance(decide(ended(R.OUT_OF_MEMORY, R.OUT_OF_MEMORY, larger=True), POLICY), GiveUp)


def test_a_wall_time_is_used_up_again_only_by_a_step_that_resumes() -> None:
    assert isinstance(decide(ended(R.TIMEOUT), POLICY), Requeue)
    assert isinstance(decide(ended(R.TIMEOUT, resumable=False), POLICY), GiveUp)


def test_a_stall_goes_on_from_its_checkpoint_a_few_times() -> None:
    assert isinstance(decide(ended(R.STALLED, R.STALLED), POLICY), Requeue)
    assert isinstance(decide(ended(R.STALLED, R.STALLED, R.STALLED), POLICY), GiveUp)


def test_a_cancelled_step_is_left_alone() -> None:
    assert isinstance(decide(ended(R.CANCELLED), POLICY), GiveUp)


def test_there_is_nothing_to_decide_about_success() -> None:
    with pytest.raises(ValueError, match="nothing to decide"):
        decide(ended(R.COMPLETED), POLICY)


@given(
    st.lists(
        st.sampled_from([r for r in EndReason if r not in (R.COMPLETED, R.NO_CAPACITY)]),
        min_size=90,
        max_size=90,
    )
)
def test_without_progress_every_history_of_runs_that_had_nodes_ends(
    reasons: list[EndReason],
) -> None:
    decisions = [decide(ended(*reasons[:n], larger=True), POLICY) for n in range(1, 91)]
    assert any(isinstance(decision, GiveUp) for decision in decisions)


def _requeue(history: Ended) -> Requeue:
    decision = decide(history, POLICY)
    assert isinstance(decision, Requeue)
    return decision


def _delay(history: Ended) -> float:
    return _requeue(history).delay_s
