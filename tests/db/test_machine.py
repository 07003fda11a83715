"""A store under random use keeps its invariants, whatever the order of intents and reports.

The machine plays the broker, drivers, providers and people; half of its reports are late or
repeated. `REACHED` counts what the examples got to, so that a machine that reaches nothing fails.
"""

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from scsched.db import migrate, nodes, queries, queue, runs, submissions
from scsched.db import models as tables
from scsched.db.models import NodeState
from scsched.db.runs import OpenedRun
from scsched.db.session import Session, Store, open_store
from scsched.steps.state import ACTIVE, TRANSITIONS, EndReason, StepState
from tests.db.rows import NOW, new_node, new_run, new_step, new_workflow

REACHED: Counter[str] = Counter()

ENDS = [
    (EndReason.COMPLETED, StepState.COMPLETED),
    (EndReason.FAILED, StepState.FAILED),
    (EndReason.CANCELLED, StepState.CANCELLED),
    (EndReason.PREEMPTED, StepState.PENDING),
    (EndReason.LOST, StepState.PENDING),
]
Verb = Callable[[Session, list[int], datetime, int], list[queue.Changed]]
VERBS: list[Verb] = [queue.hold, queue.release, queue.cancel, queue.resubmit, queue.requeue]
NODE_VERBS: dict[str, Callable[[Session, int, datetime], object]] = {
    "launch": lambda session, node, now: nodes.launched(session, [(node, f"i-{node}")], now),
    "up": lambda session, node, now: nodes.up(session, [node], now),
    "notice": lambda session, node, now: nodes.notice(session, node, now, now),
    "terminate": lambda session, node, now: nodes.ask_terminate(session, [node], "idle", now),
    "end": lambda session, node, now: nodes.ended(session, [(node, "gone")], now),
}
some = st.integers(0, 10**6)


class StoreMachine(RuleBasedStateMachine):
    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copy(self.template, self.folder / "store.sqlite")
        self.store: Store = open_store(f"sqlite:///{self.folder}/store.sqlite")
        self.now: datetime = NOW
        self.workflows: list[int] = []
        self.opened: list[OpenedRun] = []
        self.completed: Counter[int] = Counter()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @initialize()
    def a_pair(self) -> None:
        self.submit([(0, 1)], gate=False)

    @rule(edges=st.lists(st.tuples(some, some), max_size=4), gate=st.booleans())
    def submit(self, edges: list[tuple[int, int]], gate: bool) -> None:
        parents: dict[int, set[str]] = {number: set() for number in range(4)}
        for one, other in edges:
            child, parent = max(one % 4, other % 4), min(one % 4, other % 4)
            parents[child] |= {str(parent)} - {str(child)}
        steps = [
            new_step(str(number), *sorted(needed), gate="look" if gate and number == 2 else "")
            for number, needed in parents.items()
        ]
        with self.store.write() as session:
            asked = new_workflow(*steps)
            created = submissions.submit(session, asked, self.now)
            again = submissions.submit(session, asked, self.now)
        assert (created.id, created.created, again.created) == (again.id, True, False)
        self.workflows.append(created.id)

    @rule(seconds=st.integers(-60, 600))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(new=st.integers(0, 2), reuse=st.booleans())
    def dispatch(self, new: int, reuse: bool) -> None:
        with self.store.write() as session:
            idle = [n for n in nodes.live(session) if n.run_id is None and n.state is NodeState.UP]
            wanted = []
            for step in queue.eligible(session, self.now, 3):
                mine = [node for node in idle if node.workflow_id == step.workflow_id and reuse][:1]
                idle = [node for node in idle if node not in mine]
                REACHED["reused a node"] += len(mine)
                wanted.append(new_run(
                    step.step_id, step.epoch,
                    new_nodes=tuple(new_node() for _ in range(new)),
                    reuse_nodes=tuple(node.id for node in mine),
                ))  # fmt: skip
            got = runs.open_runs(session, wanted, self.now)
        assert len(got) == len(wanted)
        REACHED["second attempt"] += sum(run.attempt > 1 for run in got)
        self.opened += got

    @rule(which=some, late=st.integers(0, 1))
    def runs_report(self, which: int, late: int) -> None:
        if self.opened:
            run = self.opened[which % len(self.opened)]
            report = [(run.run_id, run.epoch - late)]
            with self.store.write() as session:
                runs.set_running(session, report, self.now)
                if which % 2:
                    runs.set_completing(session, report, self.now)

    @rule(which=st.lists(some, min_size=1, max_size=3), how=st.sampled_from(ENDS))
    def runs_end(self, which: list[int], how: tuple[EndReason, StepState]) -> None:
        if not self.opened or which[0] % 2:
            self.dispatch(new=1, reuse=True)
            self.nodes_boot()
        newest = self.opened[-4:]
        chosen = {run.run_id: run for run in (newest[w % len(newest)] for w in which if newest)}
        ends = [runs.RunEnd(run.run_id, run.epoch, *how) for run in chosen.values()]
        with self.store.write() as session:
            ended = runs.end_runs(session, ends, self.now)
        REACHED["repeated end"] += len(ended.skipped)
        if how[1] is StepState.COMPLETED:
            REACHED["completed"] += len(ended.closed)
            self.completed.update(chosen[run_id].step_id for run_id in ended.closed)

    @rule()
    def nodes_boot(self) -> None:
        with self.store.write() as session:
            for node in _requested(session):
                known = nodes.launched(session, [(node.id, f"i-{node.id}")], self.now)
                REACHED["node launch"] += bool(known)
                REACHED["node up"] += bool(nodes.up(session, [node.id], self.now))

    @rule(which=some, verb=st.sampled_from(sorted(NODE_VERBS)))
    def node_changes(self, which: int, verb: str) -> None:
        with self.store.write() as session:
            known = session.scalars(select(tables.nodes.c.id)).all()
            if which % 4:  # mostly one that it is news to
                fitting = _requested(session) if verb == "launch" else nodes.live(session)
                known = [node.id for node in fitting]
            if not known:
                return
            node_id = known[which % len(known)]
            REACHED[f"node {verb}"] += bool(NODE_VERBS[verb](session, node_id, self.now))

    @rule(which=some)
    def a_person_gives_up(self, which: int) -> None:
        if which % 3:
            return
        workflow_id = self.workflows[which % len(self.workflows)]
        with self.store.write() as session:
            every = list(queries.step_ids(session, workflow_id).values())
            queue.cancel(session, every, self.now, 1000)
            ends = [
                runs.RunEnd(run.run_id, run.epoch, EndReason.CANCELLED, StepState.CANCELLED)
                for run in runs.open_runs_of(session, workflow_id)
            ]
            runs.end_runs(session, ends, self.now)

    @rule(which=some)
    def a_person_thinks_again(self, which: int) -> None:
        """Gives up, and then does want it."""
        which -= which % 3
        self.a_person_gives_up(which)
        self.it_is_sound()
        with self.store.write() as session:
            every = list(
                queries.step_ids(session, self.workflows[which % len(self.workflows)]).values()
            )
            queue.resubmit(session, every, self.now, 1000)

    @rule(which=some, verb=st.sampled_from(VERBS))
    def a_person_acts(self, which: int, verb: Verb) -> None:
        with self.store.write() as session:
            known = session.scalars(select(tables.steps.c.id)).all()
            if known:
                chosen = [known[which % len(known)], known[which // 7 % len(known)]]
                changed = verb(session, chosen, self.now, 1000)
                REACHED["acted"] += sum(change.was != change.now for change in changed)

    @invariant()
    def it_is_sound(self) -> None:
        assert set(self.completed.values()) <= {1}
        with self.store.write() as session:
            settled = queue.settle(session, self.workflows, self.now)
        REACHED["ended"] += sum(one.outcome is not None for one in settled)
        REACHED["reopened"] += sum(one.outcome is None for one in settled)
        with self.store.read() as session:
            check_steps(session)
            check_charges(session)
            check_story(session)
            for workflow_id in self.workflows[-2:]:
                check_end(session, workflow_id, self.now)


def _requested(session: Session) -> list[nodes.NodeRec]:
    """Intents that no launch was recorded for."""
    return [node for node in nodes.live(session) if node.state is NodeState.REQUESTED]


def check_steps(session: Session) -> None:
    """A step is active exactly while it has an open run, and counts its unmet parents."""
    steps, parents, open_runs = tables.steps, tables.step_parents, tables.runs
    rows = session.execute(select(steps.c.id, steps.c.state, steps.c.unmet)).all()
    active = sorted(row.id for row in rows if row.state in ACTIVE)
    query = select(open_runs.c.step_id).where(open_runs.c.ended_at.is_(None))
    assert active == sorted(session.scalars(query))
    done = {row.id for row in rows if row.state is StepState.COMPLETED}
    edges = session.execute(select(parents.c.step_id, parents.c.parent_id)).all()
    unmet = Counter(step_id for step_id, parent_id in edges if parent_id not in done)
    assert {row.id: row.unmet for row in rows} == {row.id: unmet[row.id] for row in rows}


def check_charges(session: Session) -> None:
    """The charges of a node partition its life, and the last one is the run's it works for."""
    spans: defaultdict[int, list[Any]] = defaultdict(list)
    for span in session.execute(select(tables.charges).order_by(tables.charges.c.id)):
        spans[span.node_id].append(span)
    for node in session.execute(select(tables.nodes)):
        assert bool(spans[node.id]) == (node.launched_at is not None)
        for before, after in pairwise(spans[node.id]):
            assert before.ended_at == after.started_at
        if spans[node.id]:
            assert spans[node.id][0].started_at == node.launched_at
            assert spans[node.id][-1].ended_at == node.ended_at
            assert node.ended_at is not None or spans[node.id][-1].run_id == node.run_id


def check_story(session: Session) -> None:
    """The events of a step tell every move, and only moves that there are."""
    words = {member.lower(): member for member in StepState}
    story: defaultdict[int, list[StepState]] = defaultdict(lambda: [StepState.PENDING])
    rows = session.execute(
        select(tables.events.c.step_id, tables.events.c.kind).order_by(tables.events.c.id)
    )
    for step_id, kind in rows:
        if kind in words and step_id is not None:
            story[step_id].append(words[kind])
    for step_id, state in session.execute(select(tables.steps.c.id, tables.steps.c.state)):
        assert story[step_id][-1] is state
        assert all(after in TRANSITIONS[before] for before, after in pairwise(story[step_id]))


def check_end(session: Session, workflow_id: int, now: datetime) -> None:
    """A workflow has ended when every step has, or needs one that failed or was cancelled."""
    over = all(
        step.state not in ACTIVE and (step.state is not StepState.PENDING or step.stuck)
        for step in queries.steps_of(session, workflow_id, now)
    )
    assert over == (queries.workflow(session, workflow_id, now).ended_at is not None)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that does not wait for a disk, where there is one."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


SMALL = 60


@pytest.mark.parametrize("examples", [SMALL, pytest.param(600, marks=pytest.mark.campaign)])
def test_a_store_under_random_use_keeps_its_invariants(memory: Path, examples: int) -> None:
    REACHED.clear()
    StoreMachine.template = memory / "template.sqlite"
    migrate.upgrade(f"sqlite:///{StoreMachine.template}")
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=examples == SMALL,  # what a small run reaches must not hang on luck
            suppress_health_check=list(HealthCheck),
        ),
    )
    for goal in (
        "completed", "second attempt", "repeated end", "reused a node", "acted", "ended",
        "reopened", "node launch", "node up", "node notice", "node end",
    ):  # fmt: skip
        assert REACHED[goal], f"no example got to: {goal} ({REACHED})"
