"""The life of a step, in Slurm's words.

    PENDING ──► CONFIGURING ──► RUNNING ──► COMPLETING ──► COMPLETED
       ▲             │             │             │
       └── requeue ──┴─────────────┴─────────────┘
    any of them may end in FAILED or CANCELLED; a person may resubmit those two.

A step has one state. Each trip from CONFIGURING to the end is a *run*, and every run ends for
exactly one `EndReason`. Waiting is not a state: it is PENDING with a `PendingReason`.
"""

from enum import StrEnum


class StepState(StrEnum):
    PENDING = "PENDING"
    """In the queue. `scheduler.why` says what it waits for; `scheduler.dispatch` moves it on."""

    CONFIGURING = "CONFIGURING"
    """Has a run; its nodes are coming up. Moved on by the driver's first report."""

    RUNNING = "RUNNING"
    """The protocol has started on the gang. Moved on by the driver's reports."""

    COMPLETING = "COMPLETING"
    """The protocol ended well; its outputs are being checked."""

    COMPLETED = "COMPLETED"
    """Outputs are registered with the expected row counts. Steps that depend on it may start."""

    FAILED = "FAILED"
    """Given up. Steps that depend on it stay PENDING until it is resubmitted."""

    CANCELLED = "CANCELLED"
    """Stopped by a person."""


class EndReason(StrEnum):
    """Why a run ended."""

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    """The program's own error, or outputs that did not pass the check."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TIMEOUT = "TIMEOUT"
    """It used up its wall time."""
    STALLED = "STALLED"
    """Alive, but its output had stopped growing."""
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    """A spot node was taken back."""
    NODE_FAIL = "NODE_FAIL"
    BOOT_FAIL = "BOOT_FAIL"
    """Nodes were launched but did not come up in time."""
    NO_CAPACITY = "NO_CAPACITY"
    """The provider had no such nodes to give."""
    LOST = "LOST"
    """Neither the nodes nor the program answer; found by `scheduler.rescue`."""


class PendingReason(StrEnum):
    """Why a step is not running yet, in the one fixed word that users grep for."""

    DEPENDENCY = "Dependency"
    DEPENDENCY_NEVER_SATISFIED = "DependencyNeverSatisfied"
    JOB_HELD_USER = "JobHeldUser"
    INTERACTIVE = "Interactive"
    BEGIN_TIME = "BeginTime"
    RESOURCES = "Resources"
    NO_CLASS_FITS = "NoClassFits"
    PRIORITY = "Priority"
    SPOT_CAPACITY = "SpotCapacity"
    """The provider had none of the nodes that would do; tried again after a while."""
    QUOTA_VCPU = "QuotaVcpu"
    """The account's limit at the provider, or the site's own cap on nodes and dollars an hour."""
    NODE_FENCING = "NodeFencing"
    """A node of its last run is not proven gone yet."""
    STORAGE = "Storage"
    """The shared storage is full, stalled, or not what the nodes see."""


INFRASTRUCTURE = frozenset(
    {
        EndReason.PREEMPTED,
        EndReason.NODE_FAIL,
        EndReason.BOOT_FAIL,
        EndReason.NO_CAPACITY,
        EndReason.LOST,
    }
)
"""Endings that are not the program's fault."""

PROGRAM = frozenset(
    {EndReason.FAILED, EndReason.OUT_OF_MEMORY, EndReason.TIMEOUT, EndReason.STALLED}
)
"""Endings that are."""

_S = StepState
TRANSITIONS: dict[StepState, frozenset[StepState]] = {
    _S.PENDING: frozenset({_S.CONFIGURING, _S.CANCELLED}),
    _S.CONFIGURING: frozenset({_S.RUNNING, _S.PENDING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.COMPLETING, _S.PENDING, _S.FAILED, _S.CANCELLED}),
    _S.COMPLETING: frozenset({_S.COMPLETED, _S.PENDING, _S.FAILED, _S.CANCELLED}),
    _S.COMPLETED: frozenset(),
    _S.FAILED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING}),
}

ACTIVE = frozenset({_S.CONFIGURING, _S.RUNNING, _S.COMPLETING})
"""States in which a step has an open run."""

TERMINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})


def sources(target: StepState) -> frozenset[StepState]:
    """States from which a step may move to `target`."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
