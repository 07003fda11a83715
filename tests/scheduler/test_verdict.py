"""Why a run ended is read off the hosts, not off the exit code."""

import pytest

from scsched.scheduler.protocol import Hint
from scsched.scheduler.verdict import judge
from scsched.steps.state import EndReason


@pytest.mark.parametrize("hint", [Hint.FAILED, Hint.NODE_LOST, Hint.OUT_OF_MEMORY, Hint.STOPPED])
def test_a_reclaimed_node_makes_it_a_preemption_whatever_the_program_said(hint: Hint) -> None:
    assert judge(hint, lost=["spot"]) is EndReason.PREEMPTED


def test_a_dead_node_that_nobody_took_back_is_a_node_failure() -> None:
    assert judge(Hint.FAILED, lost=["lost"]) is EndReason.NODE_FAIL


def test_a_run_that_nobody_is_left_to_tell_of_is_lost() -> None:
    assert judge(Hint.LOST, lost=["terminated"]) is EndReason.LOST
    assert judge(Hint.LOST, lost=["spot"]) is EndReason.PREEMPTED


def test_one_reclaimed_node_of_a_gang_is_enough() -> None:
    assert judge(Hint.FAILED, lost=["lost", "spot"]) is EndReason.PREEMPTED


def test_a_failure_with_all_nodes_alive_is_the_programs_own() -> None:
    assert judge(Hint.FAILED, noticed=True) is EndReason.FAILED


def test_success_stays_success_though_the_node_went_a_moment_later() -> None:
    assert judge(Hint.COMPLETED, lost=["spot"]) is EndReason.COMPLETED


def test_what_the_broker_asked_for_wins_over_what_the_program_made_of_it() -> None:
    assert judge(Hint.FAILED, stop_reason=EndReason.CANCELLED) is EndReason.CANCELLED


def test_a_node_lost_under_notice_was_preempted() -> None:
    assert judge(Hint.NODE_LOST, noticed=True) is EndReason.PREEMPTED
