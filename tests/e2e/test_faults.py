"""Something dies in the middle of a RELION iteration. Each test is named after what dies.

One auto-refine run is hit by one test after the other, at successive iterations.
"""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from scsched.cluster import processes
from scsched.cluster.processes import Process
from scsched.steps.state import INFRASTRUCTURE
from tests.e2e.project import statuses
from tests.e2e.refinement import STEP, Marks, Moment, Refinement
from tests.e2e.site import END_S, Site, iteration_of, wait_until

pytestmark = [pytest.mark.scipion, pytest.mark.relion, pytest.mark.slow]


def kill(those: Sequence[Process]) -> None:
    assert those, "there is nothing to kill"
    for process in those:
        assert processes.send(process, signal.SIGKILL)


def pids(site: Site, role: str, moment: Moment) -> list[Process]:
    """Processes of this role that work for that run, or the workflow's driver."""
    found = site.seen(role)
    if role == "driver":
        return [one.process for one in found if str(moment.workflow) in one.argv]
    return [one.process for one in found if one.run == moment.token]


def marks_when_dead(site: Site, refinement: Refinement, moment: Moment) -> Marks:
    """Files as the attempt left them, once no rank of it is left."""
    site.wait_gone(moment.processes)
    return refinement.marks()


def is_the_next(before: Moment, after: Moment) -> None:
    """One run more, of the same step; nothing was started in between."""
    assert after.workflow == before.workflow
    assert after.run["attempt"] == before.run["attempt"] + 1
    assert not before.processes & after.processes


def test_the_broker_is_killed(site: Site, refinement: Refinement) -> None:
    """RELION runs on without it; the next broker takes up the same run with the same processes."""
    before = refinement.middle()
    driver = pids(site, "driver", before)
    site.kill_broker()
    written = len(refinement.marks())
    wait_until(
        "an iteration is written while there is no broker",
        lambda: len(refinement.marks()),
        lambda now: now > written,
        END_S,
    )
    assert all(map(processes.alive, [*before.processes, *driver]))
    ranks = site.census.ranks[before.token].copy()
    site.start()
    found = wait_until(
        "the broker hears of the run again",
        lambda: site.step(before.workflow, STEP),
        lambda step: iteration_of(step) > before.iteration,
        END_S,
    )
    assert found["state"] == "RUNNING"
    assert max(run["id"] for run in found["runs"]) == before.run["id"]
    assert pids(site, "driver", before) == driver
    assert site.census.ranks[before.token] == ranks == set(before.processes)


def test_mpirun_alone_is_killed(site: Site, refinement: Refinement) -> None:
    """All nodes are alive, so it is the program's own failure, and it is counted once."""
    before = refinement.middle()
    kill(pids(site, "mpirun", before))
    marks = marks_when_dead(site, refinement, before)
    assert refinement.ended(before)["end_reason"] == "FAILED"
    after = refinement.after(before)
    is_the_next(before, after)
    assert refinement.went_on_from_a_checkpoint(marks) < before.iteration + 2
    assert len(failures(site, before)) == 1
    assert set(after.nodes) == set(before.nodes), "the nodes were well and should be kept"


def failures(site: Site, moment: Moment) -> list[str]:
    runs = site.runs(moment.workflow, STEP)
    return [run["detail"] for run in runs if run["end_reason"] == "FAILED"]


def test_one_rank_is_killed(site: Site, refinement: Refinement) -> None:
    """As with mpirun: the other ranks end, and the step goes on from its checkpoint."""
    before = refinement.middle()
    failed = len(failures(site, before))
    kill([before.ranks[-1].process])
    marks = marks_when_dead(site, refinement, before)
    ended = refinement.ended(before)
    assert ended["end_reason"] == "FAILED"
    assert ended["exit_code"] == 137, "of mpirun: a rank was killed"
    assert "signal 9 (Killed)" in ended["detail"], ended["detail"]
    is_the_next(before, refinement.after(before))
    refinement.went_on_from_a_checkpoint(marks)
    assert len(failures(site, before)) == failed + 1


def test_one_node_is_killed(site: Site, refinement: Refinement) -> None:
    """The attempt ends on the other node too, and the step goes on with the node that is left."""
    before = refinement.middle()
    assert len(before.nodes) == 2
    lead = pids_lead(site, before)
    (victim,) = set(before.nodes) - {lead}
    assert site.kill_node(before.nodes[victim])
    marks = marks_when_dead(site, refinement, before)
    ended = refinement.ended(before)
    assert ended["end_reason"] == "NODE_FAIL", ended
    assert ended["iterations_lost"] >= 1
    after = refinement.after(before)
    is_the_next(before, after)
    assert after.nodes == {lead: before.nodes[lead]}
    assert after.run["nodes"] == 1
    assert after.run["ranks"] == 3, "auto-refine needs three, on one node too"
    refinement.went_on_from_a_checkpoint(marks)


def pids_lead(site: Site, moment: Moment) -> str:
    """The node on which mpirun is."""
    (lead,) = {one.node for one in site.seen("mpirun") if one.run == moment.token}
    return lead


def test_all_nodes_are_killed(site: Site, refinement: Refinement) -> None:
    """New nodes are taken and the step goes on from its checkpoint."""
    before = refinement.middle()
    for token in before.nodes.values():
        site.kill_node(token)
    marks = marks_when_dead(site, refinement, before)
    assert refinement.ended(before)["end_reason"] == "NODE_FAIL"
    after = refinement.after(before)
    is_the_next(before, after)
    assert not set(after.nodes.values()) & set(before.nodes.values())
    refinement.went_on_from_a_checkpoint(marks)


def test_the_lead_nodes_own_process_is_killed(site: Site, refinement: Refinement) -> None:
    """What it had started does not outlive it."""
    before = refinement.middle()
    lead = before.nodes[pids_lead(site, before)]
    kill([one.process for one in site.seen("node") if one.node_token == lead])
    marks = marks_when_dead(site, refinement, before)
    assert refinement.ended(before)["end_reason"] == "NODE_FAIL"
    is_the_next(before, refinement.after(before))
    refinement.went_on_from_a_checkpoint(marks)
    assert not [one for one in site.seen() if one.node_token == lead]


def test_the_driver_is_killed(site: Site, refinement: Refinement) -> None:
    """Its nodes end and RELION with them; another driver goes on from the checkpoint."""
    before = refinement.middle()
    (driver,) = pids(site, "driver", before)
    attempt = {one.process for one in site.seen() if one.run == before.token}
    nodes = [one.process for one in site.seen("node") if one.node_token in before.nodes.values()]
    keepers = [one.process for one in site.seen("keeper")]
    kill([driver])
    site.wait_gone([*attempt, *nodes, *keepers], END_S)
    marks = refinement.marks()
    ended = refinement.ended(before)
    assert ended["end_reason"] in INFRASTRUCTURE, ended
    after = refinement.after(before)
    is_the_next(before, after)
    assert refinement.went_on_from_a_checkpoint(marks) >= 1
    assert pids(site, "driver", after) not in ([], [driver])


def test_the_broker_is_killed_twice_during_recovery(site: Site, refinement: Refinement) -> None:
    """All nodes and the broker at once, and the broker again whenever it has begun to act."""
    before = refinement.middle()
    for token in before.nodes.values():
        site.kill_node(token)
    site.kill_broker()
    marks = marks_when_dead(site, refinement, before)
    site.start()
    site.kill_broker()
    site.start()
    wait_until(
        "the next run is opened",
        lambda: site.step(before.workflow, STEP)["attempts"],
        lambda attempts: attempts > before.run["attempt"],
        END_S,
    )
    site.kill_broker()
    site.start()
    after = refinement.after(before)
    is_the_next(before, after)
    assert refinement.ended(before)["end_reason"] == "NODE_FAIL"
    refinement.went_on_from_a_checkpoint(marks)
    assert len(site.census.ranks[after.token]) == after.run["ranks"]


def test_a_person_cancels(site: Site, refinement: Refinement) -> None:
    """RELION is gone within seconds, nothing of the attempt is left; resubmitted, it goes on."""
    before = refinement.middle()
    scratch = Path(next(one.tags["SCSCHED_SCRATCH"] for one in before.ranks))
    assert scratch.is_dir()
    selector = f"{before.workflow}.{STEP}"
    site.client.act("cancel", selector)
    assert site.wait_gone(before.processes) < 30
    marks = refinement.marks()
    site.wait_for_step(before.workflow, STEP, "CANCELLED", timeout_s=END_S)
    assert refinement.ended(before)["end_reason"] == "CANCELLED"
    assert not [one for one in site.seen() if one.run == before.token]
    assert not scratch.parent.exists()
    assert "aborted" in statuses(refinement.project)
    assert not list(refinement.job_dir.rglob("RELION_JOB_ABORT_NOW"))
    site.client.act("resubmit", selector)
    after = refinement.after(before)
    is_the_next(before, after)
    refinement.went_on_from_a_checkpoint(marks)


def test_no_iteration_was_done_by_two_attempts_at_once(site: Site, refinement: Refinement) -> None:
    """Seen from outside, several times a second: nothing overlapped, nothing was started twice."""
    refinement.finish()
    assert not site.census.problems
    folders = site.census.folders.items()
    ours = str(refinement.project.parent)
    # Mask and post-processing are RELION programs of one process, in folders of their own.
    refined = [
        token
        for token, folder in folders
        if folder.startswith(ours) and "_ProtRelionRefine3D" in folder
    ]
    ranks = {token: len(site.census.ranks[token]) for token in refined}
    assert set(ranks.values()) == {3}, ranks
    for workflow in refinement.workflows:
        runs = site.runs(workflow, STEP)
        assert [run["attempt"] for run in runs] == list(range(1, len(runs) + 1))
        ends = [run["ended_at"] or "" for run in runs]
        starts = [run["started_at"] or "" for run in runs]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_every_run_went_on_from_where_the_one_before_it_was(
    site: Site, refinement: Refinement
) -> None:
    """To the end: no attempt began anew, and none went on from an older iteration."""
    refinement.finish()
    for workflow in refinement.workflows:
        runs = site.runs(workflow, STEP)
        assert runs[-1]["end_reason"] == "COMPLETED"
        # Nobody tells it of a run whose driver was killed.
        told = [run["resumed_from"] for run in runs[1:] if run["resumed_from"] is not None]
        assert all(iteration >= 1 for iteration in told)
        assert told == sorted(told)
