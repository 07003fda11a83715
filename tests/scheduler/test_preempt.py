"""The time left under a notice against the seconds that the iteration still needs."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.scheduler.preempt import MARGIN_S, Finish, LetRun, StopNow, Work, decide
from scsched.steps.spec import Resume

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)


def work(**values: object) -> Work:
    given_values: dict[str, object] = {"resume": Resume.ITERATION, "iteration": 7}
    return Work(**(given_values | values))  # type: ignore[arg-type]


def test_an_iteration_that_will_be_done_in_time_is_finished() -> None:
    found = decide(60.0, work(seconds_per_iteration=40.0, elapsed_s=10.0))
    assert isinstance(found, Finish)
    assert found.iteration == 7
    assert found.why == "60 s left, iteration 7 needs 30 s more: iteration 7 is finished first"


def test_an_iteration_that_would_be_lost_anyway_is_stopped_at_once() -> None:
    found = decide(18.0, work(seconds_per_iteration=50.0, elapsed_s=9.0))
    assert found == StopNow("18 s left, iteration 7 needs 41 s more: stopped")


def test_time_is_kept_for_certifying_what_was_finished() -> None:
    assert isinstance(decide(30.0 + MARGIN_S, work(seconds_per_iteration=30.0)), Finish)
    assert isinstance(decide(29.9 + MARGIN_S, work(seconds_per_iteration=30.0)), StopNow)


def test_a_long_notice_is_used_for_as_many_iterations_as_fit() -> None:
    found = decide(3600.0, work(seconds_per_iteration=600.0, elapsed_s=300.0))
    assert isinstance(found, Finish)
    assert found.iteration == 12


def test_a_run_that_ends_by_itself_in_time_is_let_run() -> None:
    found = decide(100.0, work(of=8, seconds_per_iteration=30.0))
    assert isinstance(found, LetRun)
    assert found.ends


def test_the_bar_of_this_iteration_outweighs_the_length_of_the_last_one() -> None:
    longer = work(seconds_per_iteration=20.0, elapsed_s=30.0, phase_left_s=200.0)
    assert isinstance(decide(100.0, longer), StopNow)
    assert isinstance(decide(100.0, work(phase_left_s=200.0)), StopNow)


def test_an_iteration_of_unknown_length_is_given_the_whole_notice() -> None:
    found = decide(18.0, work())
    assert isinstance(found, Finish)
    assert (found.iteration, "not known" in found.why) == (7, True)


@pytest.mark.parametrize("resume", [Resume.ITEM, Resume.NONE])
def test_what_has_no_iterations_runs_to_the_end_of_the_notice(resume: Resume) -> None:
    found = decide(1.0, work(resume=resume, iteration=None))
    assert isinstance(found, LetRun)
    assert not found.ends


@pytest.mark.parametrize("resume", list(Resume))
def test_what_has_not_begun_is_stopped_and_what_is_done_is_not(resume: Resume) -> None:
    assert isinstance(decide(100.0, work(resume=resume, begun=False)), StopNow)
    assert isinstance(decide(0.0, work(resume=resume, done=True)), LetRun)


def test_nothing_is_saved_before_the_first_iteration_has_begun() -> None:
    assert isinstance(decide(100.0, work(iteration=None)), StopNow)


def test_an_old_report_is_counted_down() -> None:
    stamp = NOW.timestamp()
    said = {
        "iteration": 7, "of": 25, "seconds_per_iteration": 50, "began": stamp - 30,
        "phase_left_s": 40.0, "at": stamp - 25,
    }  # fmt: skip
    found = Work.of_run(Resume.ITERATION, said, NOW)
    assert (found.elapsed_s, found.phase_left_s, found.needs_s) == (30.0, 15.0, 20.0)


@given(
    said=st.dictionaries(
        st.sampled_from(
            ["iteration", "of", "seconds_per_iteration", "began", "phase_left_s", "at"]
        ),
        st.one_of(
            st.none(), st.booleans(), st.text(max_size=3), st.integers(), st.floats(), st.just([])
        ),
    ),
    left_s=st.floats(-1e6, 1e6),
    resume=st.sampled_from(Resume),
)
def test_whatever_a_driver_says_there_is_one_decision_with_a_reason(
    said: dict[str, object], left_s: float, resume: Resume
) -> None:
    found = decide(left_s, Work.of_run(resume, said, NOW))
    assert "left" in found.why
    if isinstance(found, Finish):
        assert found.iteration >= int(str(said["iteration"]))


@given(
    left_s=st.floats(0, 1e5),
    more_s=st.floats(0, 1e5),
    seconds=st.floats(0.1, 1e5),
    elapsed_s=st.floats(0, 1e5),
)
def test_more_time_never_turns_a_finish_into_a_stop(
    left_s: float, more_s: float, seconds: float, elapsed_s: float
) -> None:
    at_work = work(seconds_per_iteration=seconds, elapsed_s=elapsed_s)
    if not isinstance(decide(left_s, at_work), StopNow):
        assert not isinstance(decide(left_s + more_s, at_work), StopNow)
