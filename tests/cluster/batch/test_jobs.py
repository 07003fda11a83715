"""What is read from Slurm's listings, and what is not believed."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from scsched.cluster.batch import jobs
from scsched.cluster.batch.jobs import Mark, mark_of
from scsched.cluster.batch.queue import Queue
from scsched.cluster.provider import Unreachable

WIDTHS = (24, 16, 8, 24, 80, 24, 24, 24, 48, 512)
START = "2026-03-01T10:00:00"
MARK = Mark(deployment="d", gang="abc", places=(0, 1, 2), pool="spot")


def listing(*rows: tuple[str, ...]) -> Callable[..., str]:
    """Answers as squeue would, with the seal that it was asked for."""

    def ask(*argv: str) -> str:
        seal = argv[-1].split(";")[1]
        lines = []
        for job, *others in rows:
            cells = [
                f"{cell:{width}.{width}};" for cell, width in zip(others, WIDTHS[1:], strict=True)
            ]
            lines.append(f"{job:24};{seal};" + "".join(cells))
        return "\n".join(lines)

    return ask


def row(job: str = "7", comment: str = str(MARK), **more: str) -> tuple[str, ...]:
    cells = {"uid": "1000", "restarts": "0", "state": "RUNNING", "partition": "spot"}
    cells |= {"submit": START, "start": START, "end": "NONE", "reason": "None"}
    return (job, *(cells | more).values(), comment)


@pytest.mark.parametrize(
    "mark",
    [
        MARK,
        Mark(deployment="d", gang="abc", places=(0,)),
        Mark(
            deployment="d",
            gang="abc",
            places=(0, 1, 2),
            pool="p",
            ended=frozenset({0, 2}),
            why="spot",
        ),
    ],
)
def test_a_mark_is_read_as_it_was_written(mark: Mark) -> None:
    assert mark_of(str(mark)) == mark


@pytest.mark.parametrize(
    "comment",
    ["", "(null)", "hello", "scsched d abc", "scsched d abc many spot",
     "scsched d abc 1, spot", "scsched d a/b 1 spot", "scsched d abc -1 spot"],
)  # fmt: skip
def test_what_is_no_mark_is_left_alone(comment: str) -> None:
    assert mark_of(comment) is None


def test_a_job_is_read_with_times_in_utc() -> None:
    (job,) = jobs.queued(listing(row()), "d")
    assert (job.job_id, job.uid, job.mark, job.restarts) == (7, 1000, MARK, 0)
    assert job.started_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert job.ends_at is None


def test_other_deployments_arrays_and_plain_jobs_are_not_ours() -> None:
    other = str(Mark(deployment="other", gang="abc", places=(0,)))
    found = jobs.queued(listing(row(comment=other), row("8_1"), row("9", comment="(null)")), "d")
    assert not found


def test_a_comment_cannot_forge_a_line() -> None:
    forged = f"x\n{'666':24};{'0' * 16};{'0':16};{'0':8};{'RUNNING':24};"
    assert not jobs.queued(listing(row(comment=forged)), "d")
    assert [job.job_id for job in jobs.queued(listing(row(comment=forged), row()), "d")] == [7]


def test_a_separator_in_a_reason_moves_nothing() -> None:
    (job,) = jobs.queued(listing(row(reason="a;b;c")), "d")
    assert job.mark == MARK


def test_of_one_member_the_oldest_job_counts() -> None:
    found = jobs.queued(listing(row("12"), row("7"), row("9")), "d")
    counting, doubles = jobs.sort_out(found)
    assert [job.job_id for job in counting] == [7]
    assert [(job.job_id, first.job_id) for job, first in doubles] == [(9, 7), (12, 7)]


def test_parts_of_a_gang_are_no_doubles() -> None:
    late = str(Mark(deployment="d", gang="abc", places=(3, 4)))
    counting, doubles = jobs.sort_out(jobs.queued(listing(row("7"), row("8", comment=late)), "d"))
    assert [job.job_id for job in counting] == [7, 8]
    assert not doubles


def test_steps_are_read_by_their_place() -> None:
    def ask(*argv: str) -> str:
        seal = argv[-1].removeprefix("--format=").split()[0]
        own = ["7.0 m1", "7.1 m0", "7.batch batch", "7.extern extern", "8.0 hostname"]
        return "\n".join([*(f"{seal} {line}" for line in own), "forged 7.2 m2"])

    assert [(s.job_id, s.step, s.place) for s in jobs.steps(ask)] == [(7, "7.0", 1), (7, "7.1", 0)]


def accounts(*argv: str) -> str:
    """Of sacct, with a name that has separators in it."""
    (seal,) = [word.partition("=")[2] for word in argv if word.startswith("--delimiter=")]
    end = "2026-03-01T11:00:00"
    rows = [
        ("4", "1000", "PREEMPTED", "spot", START, START, end, "n1.d.abc_0_1"),
        ("5", "1000", "CANCELLED by 1000", "spot", START, START, end, "n2.d.def_0"),
        ("6", "1000", "RUNNING", "spot", START, START, "Unknown", "n3.d.ghi_0"),
        ("7", "1000", "COMPLETED", "spot", START, START, end, "wrap"),
        ("8", "1000", "COMPLETED", "spot", START, START, end, "a|b.other.abc_0"),
    ]
    return "\n".join(seal.join(row) for row in rows)


def test_ended_jobs_come_from_the_accounts_by_their_names() -> None:
    found = {job.job_id: job for job in jobs.past(accounts, "d")}
    assert set(found) == {4, 5, 6}
    assert (found[4].mark.gang, found[4].mark.places, found[4].state) == (
        "abc",
        (0, 1),
        "PREEMPTED",
    )
    assert found[5].state == "CANCELLED"
    assert found[6].ends_at is None


def test_accounts_are_asked_for_only_where_there_are_some() -> None:
    asked = []

    def ask(*argv: str) -> str:
        asked.append(argv[0])
        if argv[0] == "scontrol":
            return f"AccountingStorageType   = accounting_storage/{kind}\nKillWait = 30 sec"
        return accounts(*argv)

    kind = "none"
    assert not Queue(ask, "d").past()
    assert asked == ["scontrol"]
    kind = "slurmdbd"
    queue = Queue(ask, "d")
    assert [job.job_id for job in queue.past()] == [4, 5]
    assert len(queue.past()) == 2
    assert asked == ["scontrol", "scontrol", "sacct"]
    queue.past(refresh=True)
    assert asked[-1] == "sacct"
    assert len(asked) == 4


def test_slurm_goes_on_without_its_database() -> None:
    def ask(*argv: str) -> str:
        if argv[0] == "sacct":
            raise Unreachable("sacct: Problem talking to the database: Connection refused")
        return "AccountingStorageType = accounting_storage/slurmdbd"

    assert not Queue(ask, "d").past(refresh=True)


@pytest.mark.parametrize(
    ("said", "grace_s"), [("GraceTime=90", 90.0), ("GraceTime=0", 30.0), ("", 30.0)]
)
def test_the_grace_of_a_partition_is_its_own_or_that_before_a_kill(
    said: str, grace_s: float
) -> None:
    def ask(*argv: str) -> str:
        if argv[-1] == "config":
            return "KillWait                = 30 sec"
        return f"PartitionName=spot AllowGroups=ALL State=DRAIN {said}"

    found = Queue(ask, "d").partition("spot")
    assert (found.state, found.grace_s) == ("DRAIN", grace_s)
