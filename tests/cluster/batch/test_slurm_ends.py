"""What nodes leave on the machines of a real Slurm when they end, one way or another: nothing."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scsched.cluster import processes, rundir
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.batch.slurm import SlurmProvider
from scsched.cluster.provider import LaunchRequest, NodeState
from tests.cluster.batch.bench import launched, reach, runs
from tests.cluster.batch.conftest import OWNER, POOLS
from tests.slurm.box import Box, wait_until

Ask = Callable[..., LaunchRequest]
DEAF = """\
#!/bin/sh
case $* in *scsched.cluster.leftovers*) exec {python} "$@" ;; esac
trap '' HUP TERM
exec sleep 600
"""


@pytest.fixture
def deaf_site(site: SiteOptions, tmp_path: Path) -> SiteOptions:
    """Its nodes hear no signal."""
    python = tmp_path / "deaf"
    python.write_text(DEAF.format(python=site.python))
    python.chmod(0o755)
    return replace(site, python=str(python))


def on(box: Box, site: SiteOptions, deployment: str) -> SlurmProvider:
    return SlurmProvider(replace(site, conf=str(box.conf)), deployment, POOLS)


def places(site: SiteOptions, request: LaunchRequest) -> list[Path]:
    """Of the node on its machine: directory, shared memory, scratch."""
    mine = (OWNER.uid, request.deployment, request.name)
    scratch = Path(site.scratch) / f"scsched-{OWNER.uid}" / request.token
    return [rundir.node_dir(*mine), rundir.shm_dir(*mine), scratch]


def started(provider: SlurmProvider, site: SiteOptions, request: LaunchRequest) -> list[Path]:
    found = places(site, request)
    launched(provider, request)
    wait_until(lambda: all(path.is_dir() for path in found), 30.0, f"{request.name} has started")
    return found


def script_of(request: LaunchRequest) -> int:
    """The pid of the shell that runs the node."""
    node = runs(request)[0].pid
    return int(Path(f"/proc/{node}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_node_that_is_ended_leaves_nothing(
    patient_box: Box, site: SiteOptions, deployment: str, ask: Ask
) -> None:
    provider = on(patient_box, site, deployment)
    found = started(provider, site, ask())
    (found[2] / "run1-attempt").mkdir()
    provider.terminate([ask().token])
    reach(provider, ask(), NodeState.TERMINATED)
    assert not runs(ask())
    assert [path for path in found if path.exists()] == []


def test_a_member_that_is_ended_leaves_its_own_only(
    patient_box: Box, site: SiteOptions, deployment: str, ask: Ask
) -> None:
    provider = on(patient_box, site, deployment)
    gang = [ask(1, 0), ask(1, 1)]
    launched(provider, *gang)
    found = [places(site, request) for request in gang]
    both = [*found[0], *found[1]]
    wait_until(lambda: all(path.is_dir() for path in both), 30.0, "both have started")
    provider.terminate([gang[1].token])
    reach(provider, gang[1], NodeState.TERMINATED)
    assert [path for path in found[1] if path.exists()] == []
    assert all(path.is_dir() for path in found[0])
    provider.terminate([gang[0].token])
    reach(provider, gang[0], NodeState.TERMINATED)
    assert [path for path in found[0] if path.exists()] == []


def test_a_node_that_hears_nothing_is_killed_and_swept_up_after(
    patient_box: Box, deaf_site: SiteOptions, deployment: str, ask: Ask
) -> None:
    provider = on(patient_box, deaf_site, deployment)
    launched(provider, ask())
    wait_until(lambda: runs(ask()), 20.0, "the node runs")
    provider.terminate([ask().token])
    reach(provider, ask(), NodeState.TERMINATED)
    assert not runs(ask())
    assert not places(deaf_site, ask())[2].exists()


def test_slurm_waits_for_nobody_longer_than_its_killwait(
    box: Box, deaf_site: SiteOptions, deployment: str, ask: Ask
) -> None:
    """Ours would have cleaned up after 10 s; the KillWait here is 1 s."""
    provider = on(box, deaf_site, deployment)
    launched(provider, ask())
    wait_until(lambda: runs(ask()), 20.0, "the node runs")
    provider.terminate([ask().token])
    reach(provider, ask(), NodeState.TERMINATED)
    assert places(deaf_site, ask())[2].is_dir()


def test_what_a_killed_node_left_is_removed_by_the_next_of_its_user(
    box: Box, site: SiteOptions, deployment: str, ask: Ask
) -> None:
    provider = on(box, site, deployment)
    left = started(provider, site, ask(1))
    os.kill(script_of(ask(1)), signal.SIGKILL)
    for process in runs(ask(1)):
        processes.send(process, signal.SIGKILL)
    reach(provider, ask(1), NodeState.TERMINATED)
    assert all(path.is_dir() for path in left)
    mine = started(provider, site, ask(2))
    wait_until(lambda: not any(path.exists() for path in left), 30.0, "they are gone")
    assert all(path.is_dir() for path in mine)
