"""What a job's state says of its nodes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from scsched.cluster.batch import states
from scsched.cluster.batch.jobs import Job, Mark
from scsched.cluster.provider import NodeState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MARK = Mark(deployment="d", gang="abc", places=(0, 1), pool="spot")
ONE = Job(
    job_id=7,
    uid=1,
    mark=replace(MARK, places=(0,)),
    state="RUNNING",
    started_at=NOW - timedelta(hours=1),
)
GANG = replace(ONE, mark=MARK)


def job(state: str, **changes: object) -> Job:
    return replace(ONE, state=state, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "state", "reason"),
    [
        (job("PENDING"), NodeState.PENDING, ""),
        (job("CONFIGURING"), NodeState.PENDING, ""),
        (job("RUNNING"), NodeState.RUNNING, ""),
        (job("COMPLETING"), NodeState.STOPPING, ""),
        (job("SUSPENDED"), NodeState.STOPPING, "spot"),
        (job("PENDING", reason="BadConstraints"), NodeState.STOPPING, "BadConstraints"),
        (job("PENDING", reason="Resources"), NodeState.PENDING, ""),
        (
            job("PENDING", reason="QOSMaxWallDurationPerJobLimit"),
            NodeState.STOPPING,
            "QOSMaxWallDurationPerJobLimit",
        ),
        (
            job("PENDING", reason="AssocMaxCpuPerJobLimit"),
            NodeState.STOPPING,
            "AssocMaxCpuPerJobLimit",
        ),
        (
            job("PENDING", reason="QOSMinCpuNotSatisfied"),
            NodeState.STOPPING,
            "QOSMinCpuNotSatisfied",
        ),
        (job("PENDING", reason="QOSMaxCpuPerUserLimit"), NodeState.PENDING, ""),
        (job("PENDING", reason="AssocGrpMemLimit"), NodeState.PENDING, ""),
        (job("PENDING", reason="AssocMaxJobsLimit"), NodeState.PENDING, ""),
        (job("PENDING", restarts=1), NodeState.STOPPING, "spot"),
        (job("RUNNING", restarts=1), NodeState.STOPPING, "spot"),
        (job("REQUEUE_HOLD"), NodeState.STOPPING, "spot"),
        (job("A_LATER_WORD"), NodeState.STOPPING, ""),
        (job("COMPLETED"), NodeState.TERMINATED, ""),
        (job("PREEMPTED"), NodeState.TERMINATED, "spot"),
        (job("CANCELLED", restarts=1), NodeState.TERMINATED, "spot"),
        (job("NODE_FAIL"), NodeState.TERMINATED, "node failed"),
        (job("TIMEOUT"), NodeState.TERMINATED, "time limit"),
        (job("OUT_OF_MEMORY"), NodeState.TERMINATED, "out of memory"),
        (job("BOOT_FAIL"), NodeState.TERMINATED, "boot failed"),
        (job("CANCELLED"), NodeState.TERMINATED, "cancelled"),
    ],
)
def test_a_job_of_one_node(found: Job, state: NodeState, reason: str) -> None:
    assert states.state_of(found, 0, None, NOW) is state
    assert states.reason_of(found, spot=True) == reason


def test_what_we_asked_to_end_has_no_reason_of_its_own() -> None:
    asked = replace(ONE.mark, ended=frozenset({0}))
    assert states.state_of(replace(ONE, mark=asked), 0, None, NOW) is NodeState.STOPPING
    assert states.reason_of(job("CANCELLED", mark=asked), spot=True) == ""


def test_a_reason_known_before_the_end_stays() -> None:
    mark = replace(ONE.mark, ended=frozenset({0}), why="time-limit")
    assert states.reason_of(job("CANCELLED", mark=mark), spot=True) == "time limit"


def test_requeued_where_nothing_is_preempted_is_no_spot_reclaim() -> None:
    assert states.reason_of(job("PENDING", restarts=1), spot=False) == "requeued"


def test_a_member_whose_step_is_not_listed_has_ended_but_for_the_first_minute() -> None:
    young = replace(GANG, started_at=NOW - timedelta(seconds=5))
    assert states.state_of(GANG, 0, {0}, NOW) is NodeState.RUNNING
    assert states.state_of(GANG, 1, {0}, NOW) is NodeState.TERMINATED
    assert states.state_of(young, 1, {0}, NOW) is NodeState.RUNNING
    asked = replace(young, mark=replace(MARK, ended=frozenset({1})))
    assert states.state_of(asked, 1, {0}, NOW) is NodeState.TERMINATED
    assert states.state_of(asked, 1, {0, 1}, NOW) is NodeState.STOPPING


def test_a_queued_member_that_is_not_wanted_is_gone_for_us() -> None:
    asked = replace(GANG, state="PENDING", mark=replace(MARK, ended=frozenset({1})))
    assert states.state_of(asked, 1, None, NOW) is NodeState.TERMINATED
    assert states.state_of(asked, 0, None, NOW) is NodeState.PENDING


def test_nothing_is_billed_before_a_job_runs() -> None:
    assert states.seen(job("PENDING"), 0, None, NOW).launched_at is None
    assert states.seen(ONE, 0, None, NOW).launched_at == ONE.started_at
    over = states.seen(job("TIMEOUT", ends_at=NOW), 0, None, NOW)
    assert (over.token, over.provider_id, over.ended_at) == ("abc-0", "7/0", NOW)
