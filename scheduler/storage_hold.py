"""Which workflows may not start new steps because of their storage, and the sentence that says so.

What a driver found holds for its own workflow: a quota may bind one user alone. Who fills a storage
is added up over all workflows on it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from scsched.scheduler.broker import Unplaceable
from scsched.scheduler.protocol import StorageReport
from scsched.steps.state import PendingReason

FRESH = timedelta(seconds=60)
"""An older report holds nothing: its driver is gone, and the next one looks for itself."""
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The last report of a workflow's driver."""

    workflow_id: int
    username: str
    report: StorageReport
    at: datetime


@dataclass(frozen=True, slots=True)
class Share:
    """What the projects of one user take on a storage, in bytes."""

    username: str
    used: int
    workflows: tuple[int, ...]


def holds(told: Iterable[Told], now: datetime) -> dict[int, str]:
    """By workflow, why none of its steps may start now; a workflow that is not in it may go on."""
    all_ = tuple(told)
    return {
        one.workflow_id: _sentence(one, all_)
        for one in all_
        if one.report.problem and now - one.at <= FRESH
    }


def shares(told: Iterable[Told], path: str) -> tuple[Share, ...]:
    """Who uses the storage at `path`, the largest first."""
    users: dict[str, list[Told]] = {}
    for one in told:
        if one.report.path == path and one.report.used_by_project is not None:
            users.setdefault(one.username, []).append(one)
    found = [
        Share(
            username,
            sum(one.report.used_by_project or 0 for one in ones),
            tuple(sorted(one.workflow_id for one in ones)),
        )
        for username, ones in users.items()
    ]
    return tuple(sorted(found, key=lambda share: (-share.used, share.username)))


class StorageHold:
    """Keeps the last report of every workflow. Belongs to the thread that ticks."""

    def __init__(self) -> None:
        self._told: dict[int, Told] = {}

    def hear(
        self, workflow_id: int, username: str, report: StorageReport | None, now: datetime
    ) -> None:
        """What a beat brought; None says nothing."""
        if report is not None:
            self._told[workflow_id] = Told(
                workflow_id=workflow_id, username=username, report=report, at=now
            )

    def keep(self, workflows: Iterable[int]) -> None:
        """Forget all others: they have ended, and what they left is not counted."""
        living = set(workflows)
        self._told = {key: one for key, one in self._told.items() if key in living}

    def unplaced(self, now: datetime) -> Mapping[int, Unplaceable]:
        """By workflow: what `scsched why` says of any of its steps that could start."""
        return {
            workflow_id: Unplaceable(PendingReason.STORAGE, sentence)
            for workflow_id, sentence in holds(self._told.values(), now).items()
        }


def _sentence(one: Told, told: tuple[Told, ...]) -> str:
    word, _, rest = one.report.problem.partition(": ")
    said = f"storage {one.report.path}: {rest if word == 'full' and rest else one.report.problem}"
    users = ", ".join(_share(share) for share in shares(told, one.report.path))
    return f"{said}; by user: {users}" if word == "full" and users else said


def _share(share: Share) -> str:
    ids = ", ".join(str(workflow) for workflow in share.workflows)
    return f"{share.username} {share.used / _GIB:.0f} GiB ({ids})"
