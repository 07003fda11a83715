"""The end of a job's time is a notice on a real Slurm, long before it comes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from scsched.cluster.batch.slurm import SlurmProvider
from scsched.cluster.provider import LaunchRequest, NodeState
from tests.cluster.batch.bench import job_of, launched, reach, seen
from tests.slurm.box import Box, wait_until


def test_the_end_of_a_job_s_time_is_announced_so_that_its_node_is_not_used_again(
    provider: SlurmProvider, ask: Callable[..., LaunchRequest], box: Box
) -> None:
    """The broker gives no step to a node under notice, and ends an idle one."""
    (found,) = launched(provider, ask())
    reach(provider, ask(), NodeState.RUNNING)
    box.run("scontrol", "update", f"JobId={job_of(found)}", "TimeLimit=10")
    assert not provider.notices()
    box.run("scontrol", "update", f"JobId={job_of(found)}", "TimeLimit=1")
    wait_until(lambda: bool(provider.notices()), 10.0, "the end is announced")
    (notice,) = provider.notices()
    assert notice.token == ask().token
    assert timedelta() < notice.deadline - datetime.now(UTC) <= timedelta(minutes=1)
    assert seen(provider, ask()).state is NodeState.RUNNING
