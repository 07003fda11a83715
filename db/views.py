"""What the queries give: plain values, as they are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from scsched.db.models import Exact, Market, NodeState
from scsched.steps.spec import Demand, ResourceClass, Resume
from scsched.steps.state import EndReason, StepState


@dataclass(frozen=True, slots=True)
class CurrentStep:
    """The step that a line of the queue is about: an active one, else the next that waits for no
    other step. Its fields are what is needed to say why it waits."""

    id: int
    ref: str
    label: str
    state: StepState
    held: bool
    gate: str
    gate_open: bool
    not_before: datetime
    allow_spot: bool
    progress: Mapping[str, object] | None
    stop_reason: EndReason | None
    pool: str | None


@dataclass(frozen=True, slots=True)
class WorkflowView:
    """A line of the queue. `state` is RUNNING, PENDING, HELD, ATTENTION (a gate waits for a
    person) or, when it has ended, its outcome."""

    id: int
    name: str
    uid: int
    username: str
    project: str | None
    filename: str
    state: str
    market: Market
    exact: Exact
    priority: int
    held: bool
    tags: Mapping[str, str]
    play_spot: str | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    steps_total: int
    steps_done: int
    steps_failed: int
    steps_active: int
    now: CurrentStep | None
    pool: str | None
    nodes: int
    """Nodes paid for now."""
    run_s: float
    """From its first step's start to its end, or until now."""
    usd: Decimal


@dataclass(frozen=True, slots=True)
class StepView:
    """A step. `parents` gives the state of each step it needs, by ref; `stuck`: one of those it
    needs, directly or not, failed or was cancelled."""

    id: int
    workflow_id: int
    ref: str
    position: int
    label: str
    protocol: str
    resource_class: ResourceClass
    resume: Resume
    gate: str
    gate_open: bool
    long_lived: bool
    demand: Demand
    object_id: int | None
    job_dir: str | None
    state: StepState
    held: bool
    workflow_held: bool
    unmet: int
    priority: int
    not_before: datetime
    epoch: int
    attempts: int
    forgiven: int
    allow_spot: bool
    larger: bool
    started_at: datetime | None
    ended_at: datetime | None
    parents: Mapping[str, StepState]
    stuck: bool
    last_run: "RunView | None"
    run_s: float
    """All its runs together."""
    usd: Decimal


@dataclass(frozen=True, slots=True)
class RunView:
    """A run, with what its nodes cost while they worked for it."""

    id: int
    workflow_id: int
    step_id: int
    step: str
    label: str
    protocol: str
    attempt: int
    epoch: int
    state: StepState | EndReason
    """The step's state while it is open, then its end reason."""
    pool: str
    market: Market
    layout: Mapping[str, object]
    started_at: datetime
    running_at: datetime | None
    ended_at: datetime | None
    end_reason: EndReason | None
    exit_code: int | None
    signal: int | None
    detail: str
    resumed_from: int | None
    iterations_done: int
    iterations_lost: int
    progress: Mapping[str, object] | None
    stop_reason: EndReason | None
    nodes: int
    hours: float
    """Node hours."""
    usd: Decimal


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run in the history, with whose it was."""

    workflow_name: str
    uid: int
    username: str
    run: RunView


@dataclass(frozen=True, slots=True)
class NodeView:
    id: int
    workflow_id: int
    username: str
    pool: str
    provider: str
    provider_id: str | None
    kind: str
    zone: str
    market: Market
    state: NodeState
    cores: int
    memory_gib: float
    gpus: int
    usd_per_hour: Decimal
    run_id: int | None
    step: str | None
    created_at: datetime
    launched_at: datetime | None
    up_at: datetime | None
    idle_since: datetime | None
    notice_deadline: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    usd: Decimal

    @property
    def name(self) -> str:
        return f"n{self.id}"


@dataclass(frozen=True, slots=True)
class EventView:
    id: int
    at: datetime
    workflow_id: int | None
    step: str | None
    run_id: int | None
    node_id: int | None
    epoch: int | None
    actor_uid: int | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a workflow cost, which is what its nodes cost from launch to end.

    A node boots until it answers; after that it is idle while it has no run. The total is the
    lines, the boot time without a run, as of a spare that is on its way, and the idle time.
    """

    workflow_id: int
    lines: tuple[RunView, ...]
    boot_usd: Decimal
    """All boot time, that within the lines too."""
    boot_hours: float
    boot_without_run_usd: Decimal
    """The part of it that is in no line."""
    boot_without_run_hours: float
    idle_usd: Decimal
    idle_hours: float
    total_usd: Decimal
    total_hours: float
    lost_iterations: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Document:
    """The workflow as it was submitted."""

    filename: str
    text: str
    sha256: str
