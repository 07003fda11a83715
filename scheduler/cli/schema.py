"""The shapes of scsched/v1: what the broker answers and what `--json` prints.

Within v1 a field may be added, never removed and never given another type. `misfit.misfit` compares
a value with a shape. Nothing on the way of a command imports this module.
"""

from typing import Literal, NotRequired, TypedDict

VERSION = "scsched/v1"

WorkflowState = Literal[
    "RUNNING", "PENDING", "HELD", "COMPLETED", "FAILED", "CANCELLED", "ATTENTION"
]
StepState = Literal[
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "COMPLETED", "FAILED", "CANCELLED"
]


class Progress(TypedDict):
    iteration: int | None
    of: int | None
    """None: not known before it ends, as in auto-refine."""
    resolution_a: float | None
    seconds_per_iteration: float | None


class Now(TypedDict):
    step: str
    label: str
    state: str


class Warned(TypedDict):
    where: str
    problem: str


class Workflow(TypedDict):
    id: int
    name: str
    user: str
    uid: int
    state: WorkflowState
    market: str
    priority: int
    steps_total: int
    steps_done: int
    steps_failed: int
    now: Now | None
    progress: Progress | None
    pool: str | None
    nodes: int
    run_s: float
    usd: float
    reason: str | None
    reason_text: str | None
    tags: dict[str, str]
    submitted_at: str
    ended_at: str | None


class LastEnd(TypedDict):
    reason: str
    exit_code: int | None
    detail: str


_Classed = TypedDict("_Classed", {"class": str})
"""`class` is no name that Python allows for a field."""


class Step(_Classed):
    id: str
    workflow: int
    label: str
    protocol: str
    state: StepState
    reason: str | None
    reason_text: str | None
    attempts: int
    progress: Progress | None
    run_s: float
    usd: float
    pool: str | None
    nodes: int
    gate: str
    demand: dict[str, object]
    parents: list[str]
    started_at: str | None
    ended_at: str | None
    last_end: LastEnd | None


class Run(TypedDict):
    id: int
    workflow: NotRequired[int]
    step: str
    attempt: int
    state: str
    pool: str
    market: str
    nodes: int
    ranks: int
    threads: int
    started_at: str | None
    running_at: str | None
    ended_at: str | None
    end_reason: str | None
    exit_code: int | None
    detail: str
    resumed_from: int | None
    iterations_done: int
    iterations_lost: int
    usd: float
    hours: float


class PastRun(Run):
    workflow_name: str
    protocol: str
    user: str


class Node(TypedDict):
    id: int
    name: str
    workflow: int
    pool: str
    provider: str
    provider_id: str | None
    """The provider's own name for it."""
    type: str
    zone: str
    market: str
    state: str
    cores: int
    memory_gib: float
    usd_per_hour: float
    run: int | None
    launched_at: str | None
    notice_deadline: str | None
    ended_at: str | None
    end_reason: str | None
    usd: float


class Event(TypedDict):
    id: int
    at: str
    workflow: int | None
    step: str | None
    run: int | None
    node: str | None
    kind: str
    actor: str
    text: str


class Pool(TypedDict):
    pool: str
    provider: str
    market: str
    max_nodes: int
    up: int
    starting: int
    idle: int
    usd_per_hour: float
    classes: list[str]
    types: list[str]
    zones: list[str]
    held: str | None
    """Why nothing is launched in it now."""


class Difference(TypedDict):
    """Something that the records and a provider's own list do not say alike."""

    kind: str
    node: str | None
    provider: str
    provider_id: str | None
    sentence: str
    fixed: bool


class Paths(TypedDict):
    stdout: str | None
    stderr: str | None
    job_dir: str | None
    project: str | None


class Why(TypedDict):
    reason: str | None
    sentence: str
    detail: list[str]


class ReceiptLine(TypedDict):
    step: str
    label: str
    attempt: int
    pool: str
    market: str
    nodes: int
    hours: float
    iterations_done: int
    iterations_lost: int
    end_reason: str | None
    usd: float


class PlanLine(_Classed):
    step: str
    label: str
    protocol: str
    shape: str
    pool: str | None
    market: str | None
    nodes: int
    ranks: int
    threads: int
    memory_gib: float
    usd_per_hour: float


class Selected(TypedDict):
    workflow: int
    step: str | None


class Moved(TypedDict):
    workflow: int
    step: str | None
    was: str
    now: str


class ConfigKey(TypedDict):
    key: str
    value: object
    origin: str


class Answer(TypedDict):
    schema: Literal["scsched/v1"]


class PingAnswer(Answer):
    version: str
    pid: int
    uid: int
    deployment: str
    started_at: str
    ticks: int


class SubmitAnswer(Answer):
    id: int | None
    """None: a dry run."""
    name: str
    project: str | None
    steps: int
    warnings: list[Warned]
    plan: list[PlanLine]


class WorkflowsAnswer(Answer):
    items: list[Workflow]


class WorkflowAnswer(Answer):
    """A `Workflow`, but `nodes` are the nodes themselves, with its steps and runs."""

    id: int
    name: str
    user: str
    uid: int
    state: WorkflowState
    market: str
    priority: int
    steps_total: int
    steps_done: int
    steps_failed: int
    now: Now | None
    progress: Progress | None
    pool: str | None
    run_s: float
    usd: float
    reason: str | None
    reason_text: str | None
    tags: dict[str, str]
    submitted_at: str
    ended_at: str | None
    project: str | None
    document_sha256: str
    steps: list[Step]
    runs: list[Run]
    nodes: list[Node]


class StepAnswer(Answer, Step):
    runs: list[Run]
    events: list[Event]
    paths: Paths
    why: Why


class SelectAnswer(Answer):
    items: list[Selected]


class EventsAnswer(Answer):
    items: list[Event]
    last: int


class ActionsAnswer(Answer):
    items: list[Moved]


class HistAnswer(Answer):
    items: list[PastRun]


class NodesAnswer(Answer):
    items: list[Node]
    pools: list[Pool]


class ReceiptAnswer(Answer):
    workflow: int
    lines: list[ReceiptLine]
    boot_usd: float
    """Paid before the nodes answered, within the lines and without a run."""
    boot_hours: float
    boot_without_run_usd: float
    """The part of it that is in no line: total = lines + this + idle."""
    boot_without_run_hours: float
    idle_usd: float
    idle_hours: float
    total_usd: float
    total_hours: float
    lost_iterations: int
    wall_s: float


class AuditAnswer(Answer):
    ok: bool
    nodes: int
    """Nodes that the providers list as alive."""
    usd_per_hour: float
    """What they cost together."""
    unpriced: int
    """How many of them are not in that: nobody tells their price."""
    items: list[Difference]


class ConfigAnswer(Answer):
    items: list[ConfigKey]


class InspectCounts(TypedDict):
    steps: int
    edges: int
    gates: int
    classes: dict[str, int]
    protocols: int


class InspectStep(_Classed):
    id: str
    label: str
    protocol: str
    gate: str | None
    demand: dict[str, object]
    resume: str
    long_lived: bool
    parents: list[str]


class InspectEdge(TypedDict):
    parent: str
    child: str
    where: str
    output: str
    data: bool


class Inspected(Answer):
    """`inspect --json`"""

    steps: list[InspectStep]
    edges: list[InspectEdge]
    warnings: list[Warned]
    counts: InspectCounts


class Explained(Why):
    id: str
    state: str


class Explanations(Answer):
    """`why --json`"""

    items: list[Explained]


class End(TypedDict):
    workflow: int
    step: str | None
    state: str


class Ends(Answer):
    """`wait --json`"""

    items: list[End]


class EventLine(Answer, Event):
    """Each line of `watch --json`."""


class Outcome(ReceiptAnswer):
    """`run --json`"""

    state: str


class Checkpoint(TypedDict):
    iteration: int
    optimiser: str
    certified: bool | None
    """None: not opened, as in `ckpt list`."""
    particles: int | None
    files: int | None
    why: str


class Checkpoints(Answer):
    """`ckpt list --json`, `ckpt verify --json`"""

    items: list[Checkpoint]


class Check(TypedDict):
    name: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str
    fix: str


class Checks(Answer):
    """`doctor --json`"""

    items: list[Check]


class Revision(Answer):
    """`db revision --json`"""

    revision: str | None
    head: str


class Refusal(TypedDict):
    code: str
    message: str
    hint: str
    exit: int


class Refused(Answer):
    """On stderr, under `--json`, where a command did not do what it was asked."""

    error: Refusal
