"""Why a step is not running, in one sentence and, while it is PENDING, one word. Pure; nothing here
decides anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from scsched.scheduler.broker import Unplaceable
from scsched.steps.state import EndReason, PendingReason, StepState


@dataclass(frozen=True, slots=True)
class Driver:
    """What is known of a workflow's driver."""

    connected: bool = False
    failures: int = 0
    """Of it and those before it, since one was of use."""
    loss: str = ""
    """How the last of them was lost."""


@dataclass(frozen=True, slots=True)
class Gang:
    """The nodes of a run that has not begun."""

    pool: str
    wanted: int
    up: int = 0
    launched: int = 0
    """With those that are up."""
    launched_at: datetime | None = None
    """The first of them."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the steps of one workflow run by."""

    driver: Driver = Driver()
    gangs: Mapping[int, Gang] = field(default_factory=dict)
    """Of the CONFIGURING steps, by step id."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a PENDING step."""

    ref: str
    held: bool
    workflow_held: bool
    gate: str
    gate_open: bool
    unmet: int
    not_before: datetime
    parents: Mapping[str, StepState]
    """By ref."""
    stuck: bool = False
    """A step that it needs, directly or not, has failed or was cancelled."""
    workflow_id: int = 0
    last: "LastRun | None" = None
    driver: Driver = Driver()


@dataclass(frozen=True, slots=True)
class LastRun:
    """How its last run ended."""

    reason: EndReason
    pool: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Why:
    reason: PendingReason | None
    sentence: str


def why(step: Standing, now: datetime, unplaced: Unplaceable | None = None) -> Why:
    """The first rule that holds, the one a person can do most about first."""
    if step.held or step.workflow_held:
        whole = f"{step.workflow_id}" if step.workflow_held else _selector(step)
        return Why(
            PendingReason.JOB_HELD_USER,
            f"held by a person; `scsched release {whole}` lets it go on",
        )
    bad = sorted((ref for ref, state in step.parents.items() if state in _NEVER), key=int)
    if bad:
        return Why(
            PendingReason.DEPENDENCY_NEVER_SATISFIED,
            f"needs step {bad[0]}, which {_fate(step, bad[0])}; "
            f"`scsched resubmit {step.workflow_id}.{bad[0]}` tries that again",
        )
    if step.stuck:
        return Why(
            PendingReason.DEPENDENCY_NEVER_SATISFIED,
            "a step before it has failed or was cancelled; resubmit that one",
        )
    if step.unmet:
        open_ = sorted((r for r, s in step.parents.items() if s != StepState.COMPLETED), key=int)
        return Why(PendingReason.DEPENDENCY, f"waits for step {', '.join(open_)}")
    if step.gate and not step.gate_open:
        return Why(
            PendingReason.INTERACTIVE,
            f"{step.gate}; then `scsched release {_selector(step)}`",
        )
    if step.not_before > now:
        seconds = (step.not_before - now).total_seconds()
        again = f"is tried again in {seconds:.0f} s"
        return Why(PendingReason.BEGIN_TIME, again + _since(step.last, step.driver))
    if unplaced is not None:
        to_do = _TO_DO.get(unplaced.reason)
        return Why(unplaced.reason, f"{unplaced.detail}; {to_do}" if to_do else unplaced.detail)
    return Why(PendingReason.PRIORITY, "is next, or waits behind earlier or more urgent steps")


def configuring(gang: Gang, driver: Driver, now: datetime) -> Why:
    """What a step waits for that has its run and whose program has not begun."""
    failed = _failed(driver)
    if not driver.connected:
        return Why(None, f"waits for its driver, which {failed or 'is on its way'}")
    if gang.up >= gang.wanted:
        ready = f"all it needs is up, {_nodes(gang)}"
        return Why(None, f"{ready}: its driver is about to start the program")
    launched = f"{gang.launched} launched" if gang.launched else "none launched yet"
    if gang.launched_at is not None:
        seconds = max(0.0, (now - gang.launched_at).total_seconds())
        launched += f", the first {seconds:.0f} s ago"
    waits = f"waits for its nodes: {gang.up} of {_nodes(gang)} up, {launched}"
    return Why(None, f"{waits}; before this its driver {failed}" if failed else waits)


def given_up(last: LastRun | None, driver: Driver) -> Why | None:
    """Why a step FAILED; None: its driver is not to blame, and its last run tells."""
    if last is None or last.reason not in _BY_DRIVER or not driver.failures:
        return None
    return Why(None, f"its last run ended {last.reason}: its driver {_failed(driver)}")


def _nodes(gang: Gang) -> str:
    return f"{gang.wanted} node{'' if gang.wanted == 1 else 's'} in pool {gang.pool}"


def _failed(driver: Driver) -> str:
    """Empty: nothing is known against it."""
    if not driver.failures:
        return ""
    times = "once" if driver.failures == 1 else f"{driver.failures} times"
    return f"has failed {times}" + (f": {driver.loss}" if driver.loss else "")


_BY_DRIVER = frozenset({EndReason.BOOT_FAIL, EndReason.LOST, EndReason.NODE_FAIL})
"""How runs end whose driver has gone: its nodes go with it."""
_TO_DO = {
    PendingReason.SPOT_CAPACITY: "it is asked for again by itself; more types or zones would help",
    PendingReason.QUOTA_VCPU: "it goes on when nodes have ended; else raise the limit, at the "
    "provider or in the site's configuration",
    PendingReason.STORAGE: "it goes on by itself when that is put right",
}
"""What a person can do where the words for why do not say it."""
_NEVER = frozenset({StepState.FAILED, StepState.CANCELLED})


def _fate(step: Standing, ref: str) -> str:
    return "failed" if step.parents[ref] is StepState.FAILED else "was cancelled"


def _since(last: LastRun | None, driver: Driver) -> str:
    """What it is tried again after, with the last words of whoever spoiled the run."""
    if last is None:
        return ""
    said = next(reversed(last.detail.strip().splitlines()), "")
    if last.reason in _BY_DRIVER and driver.failures:
        said = f"its driver {_failed(driver)}"
    ended = f"; its last run, in pool {last.pool}, ended {last.reason}"
    return f"{ended}: {said}" if said else ended


def _selector(step: Standing) -> str:
    return f"{step.workflow_id}.{step.ref}"
