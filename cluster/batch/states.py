"""What a Slurm job says of the nodes in it: pure.

    PENDING, CONFIGURING ─► PENDING          queued; the pool's boot time has not begun
    RUNNING              ─► RUNNING          and STOPPING once we have asked it to end
    COMPLETING, ...      ─► STOPPING         also: started again by the site, or can never start
    COMPLETED, ...       ─► TERMINATED

A node of a job of several is a step of it. Slurm lists live steps only: the one of a member that
is not listed has ended, or in the first minute of the job has not begun.
"""

import re
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from scsched.cluster.batch.jobs import Job
from scsched.cluster.provider import NodeState, Seen

SPOT = "spot"
STARTING = timedelta(seconds=60)
"""Until when all steps of a job have begun; srun gives up then."""
_QUEUED = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"})
_ENDED: Mapping[str, str] = {
    "COMPLETED": "",
    "CANCELLED": "cancelled",
    "FAILED": "failed",
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "PREEMPTED": SPOT,
    "NODE_FAIL": "node failed",
    "OUT_OF_MEMORY": "out of memory",
    "BOOT_FAIL": "boot failed",
    "REVOKED": "cancelled",
    "LAUNCH_FAILED": "boot failed",
}
"""Our word for each of Slurm's that say that a job is over."""
_HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
        "ReservationDeleted",
    }
)
"""Why a job waits that will not start before a person changes something."""
_OVER_A_JOBS_LIMIT = re.compile(r"QOSMin\w+|(QOS|Assoc)Max\w+(PerJob(Limit)?|PerNode)")
"""Likewise: it asks for more, or less, than one job may. PerUser, PerAccount and Grp pass."""


def is_over(job: Job) -> bool:
    return job.state in _ENDED


def is_queued(job: Job) -> bool:
    return job.state in _QUEUED and not job.restarts


def reason_of(job: Job, *, spot: bool) -> str:
    """Why the job is over, or will be; empty: of itself, or because we asked, or it is not.

    :param spot: its partition takes jobs back for others.
    """
    if job.mark.why:
        return job.mark.why.replace("-", " ")
    if job.restarts or job.state in ("REQUEUED", "SPECIAL_EXIT", "REQUEUE_HOLD"):
        return SPOT if spot else "requeued"
    if job.state == "SUSPENDED":
        return SPOT
    if job.state == "PENDING" and _is_hopeless(job):
        return job.reason
    if job.state == "CANCELLED" and job.mark.ended.issuperset(job.mark.places):
        return ""
    return _ENDED.get(job.state, "")


def state_of(job: Job, place: int, live: Collection[int] | None, now: datetime) -> NodeState:
    """Of the member at `place`.

    :param live: places whose steps are listed; None: the job has one node, or does not run.
    """
    asked = place in job.mark.ended
    if is_over(job):
        return NodeState.TERMINATED
    if is_queued(job):
        if asked:
            return NodeState.TERMINATED
        return NodeState.STOPPING if _is_hopeless(job) else NodeState.PENDING
    if job.state != "RUNNING" or job.restarts:
        return NodeState.STOPPING
    if live is None or place in live:
        return NodeState.STOPPING if asked else NodeState.RUNNING
    young = job.started_at is None or now - job.started_at < STARTING
    return NodeState.RUNNING if young and not asked else NodeState.TERMINATED


def seen(job: Job, place: int, live: Collection[int] | None, now: datetime) -> Seen:
    """The member at `place`, but for reason and pool; `live` as of `state_of`."""
    over = is_over(job)
    return Seen(
        token=f"{job.mark.gang}-{place}",
        provider_id=provider_id(job, place),
        state=state_of(job, place, live, now),
        launched_at=None if job.state in _QUEUED else job.started_at,
        ended_at=job.ends_at if over else None,
    )


def provider_id(job: Job, place: int) -> str:
    """E.g. `4711/0`: the first node of job 4711."""
    return f"{job.job_id}/{place}"


def _is_hopeless(job: Job) -> bool:
    return job.reason in _HOPELESS or _OVER_A_JOBS_LIMIT.fullmatch(job.reason) is not None
