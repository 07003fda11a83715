"""What the driver and the broker say to each other, once a beat.

The driver reports what is; the broker answers what should be. Both sides may repeat any message:
a report of a run that the broker has closed changes nothing, and an order that the driver already
carries out is not carried out again. A run that is missing from the answer is to be stopped.
"""

from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from scsched.scheduler.bounds import MOST, Bytes, Code, Count, Words, storable, storable_progress

SCHEMA = "scsched/v1"


class _Message(BaseModel):
    """A driver outlives an upgrade of its broker: what the other side added is left unread."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Phase(StrEnum):
    WAITING = "waiting"
    """For its nodes, or for the project."""
    RUNNING = "running"
    COMPLETING = "completing"
    ENDED = "ended"


class Hint(StrEnum):
    """What the driver makes of an end; the broker judges with what it knows of the nodes."""

    COMPLETED = "completed"
    FAILED = "failed"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    STOPPED = "stopped"
    """As ordered, or because of a notice."""
    NODE_LOST = "node-lost"
    LOST = "lost"
    """Said by the broker itself: neither the nodes nor the driver are left to tell."""


class InputReport(_Message):
    """What the inputs of a step are, now that they exist."""

    particles: Count | None = None
    box_px: Count | None = None


class EndReport(_Message):
    hint: Hint
    exit_code: Code | None = None
    signal: Code | None = None
    detail: Words = ""
    resumed_from: Count | None = None
    iterations_done: Count = 0
    iterations_lost: Count = 0
    inputs: dict[str, InputReport] = Field(default_factory=dict)
    """Of the steps that this one has made inputs for, by their id in the workflow."""


class RunReport(_Message):
    run: int
    epoch: int
    phase: Phase
    object_id: int | None = Field(default=None, ge=0, le=MOST)
    job_dir: str | None = None
    progress: Annotated[dict[str, Any], AfterValidator(storable_progress)] | None = None
    end: EndReport | None = None


class NodeReport(_Message):
    name: str
    notice_deadline: str | None = None
    """ISO 8601; the node has heard that it will be taken back then."""


class DeskReport(_Message):
    """Where remote nodes fetch the workflow's keys; see `cluster.provider.Desk`."""

    address: str
    fingerprint: str


class StorageReport(_Message):
    """The storage of the project, as the driver sees it. Sizes in bytes."""

    path: str
    problem: str = ""
    """Why no new work may start: full, stalled, read-only. Empty: nothing."""
    free: Bytes | None = None
    total: Bytes | None = None
    used_by_project: Bytes | None = None


class Beat(_Message):
    token: str
    pid: int
    start_ticks: int
    address: str
    """Of the workflow's Dask scheduler."""
    tls_dir: str
    project: str | None = None
    """Path of the Scipion project, once it is made."""
    problem: Words = ""
    """Why nothing of this workflow can run: the project could not be made."""
    desk: DeskReport | None = None
    storage: StorageReport | None = None
    nodes: tuple[NodeReport, ...] = ()
    """Nodes whose Dask worker is up."""
    runs: tuple[RunReport, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, body: object) -> object:
        """As it comes over the socket; a driver's own values are left to the broker."""
        return storable(body)


class NodeOrder(_Message):
    name: str
    cores: int
    ticket: str = ""
    """What a remote node shows at the driver's desk to fetch its keys."""
    remote: bool = False
    gone: bool = False
    """It has ended or is to end, whatever of it still seems to be there: do not wait for it."""


class RunOrder(_Message):
    run: int
    epoch: int
    token: str
    attempt: int
    ref: str
    """The step's id in the workflow file."""
    protocol: str
    resume: str
    ranks: int
    threads: int
    nodes: tuple[NodeOrder, ...]
    """The lead node first."""
    exact: bool = False
    interactive: bool = False
    """A person was to do it in Scipion, and says that it is done."""
    gpus: int = 0
    stop: str | None = None
    stop_after: int | None = None
    """Stop as soon as this iteration is certified: nodes of it are to go, or more are to join."""
    stop_grace_s: float = 10.0
    stall_s: float = 1800.0
    walltime_s: float = 0.0


class Orders(_Message):
    runs: tuple[RunOrder, ...] = ()
    nodes: tuple[NodeOrder, ...] = ()
    """That may come and have no run yet: replacements, asked for at a notice."""
    end: bool = False
    """Nothing is left to do: end yourself."""


class Assignment(_Message):
    """What a driver asks for once, at its start."""

    workflow: int
    name: str
    document: str
    """The list that Scipion's own loader takes."""
    project: str | None
    scipion_python: str
    relion_bin: str
    children: dict[str, tuple[str, ...]]
    """Which steps read what a step makes, by ids in the workflow."""
    deployment: str
    listen: str = "127.0.0.1"
    """Address on which nodes reach the driver."""
    remote: bool = False
    """Nodes of other machines may come: what they share lies beside the project."""
    storages: tuple[str, ...] = ()
    """Where those nodes have shared storage: the project has to be under one of these."""
    storage_min_free_gib: float = 0.0
    storage_floor_mib_per_s: float = 0.0
