"""What a person may do to workflows and steps: only to their own, unless they run the broker."""

import os
import pwd
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from scsched.db import queries, queue
from scsched.db.actions import Changed
from scsched.db.events import EventRow, event, record
from scsched.db.session import Session, Store
from scsched.db.settle import settle
from scsched.scheduler.peercred import Peer
from scsched.scheduler.selectors import Selected, select
from scsched.steps.errors import PermissionDenied

Json = dict[str, object]
_Verb = Callable[[Session, Iterable[int], datetime, int], Sequence[Changed]]

_VERBS: dict[str, _Verb] = {
    "cancel": queue.cancel,
    "hold": queue.hold,
    "release": queue.release,
    "requeue": queue.requeue,
    "resubmit": queue.resubmit,
}
_WHOLE = {"hold": queue.hold_workflows, "release": queue.release_workflows}


def act(
    store: Store,
    action: str,
    selector: str,
    peer: Peer,
    *,
    reason: str = "",
    by_steps: bool = True,
    now: datetime,
) -> list[Json]:
    """Do it to all that the selector names, or to nothing; what became of each.

    :param reason: kept in the events, for others to read.
    :param by_steps: name every step of a whole workflow; else say once what became of them.
    """
    with store.write() as session:
        found = select(session, selector, peer.uid)
        check_owner(session, [one.workflow for one in found], peer)
        items = [item for one in found for item in _one(session, action, one, peer, now)]
        if reason:
            record(session, now, [_noted(session, one, action, reason, peer) for one in found])
        settle(session, {one.workflow for one in found}, now)
    return items if by_steps else _summed(items, found)


def check_submitter(peer: Peer) -> None:
    """Drivers and nodes run as the submitter, so that has to be possible.

    :raises PermissionDenied: the broker cannot become this user.
    """
    mine = os.geteuid()
    if peer.uid == mine:
        return
    if mine != 0:
        raise PermissionDenied(
            f"this broker runs as {username(mine)} and can start nothing as {username(peer.uid)}",
            hint="run your own: scsched serve",
        )
    try:
        pwd.getpwuid(peer.uid)
    except KeyError as exc:
        raise PermissionDenied(f"uid {peer.uid} has no account here to run anything as") from exc


def check_operator(peer: Peer) -> None:
    """:raises PermissionDenied: neither root nor whom the broker runs as."""
    if peer.uid not in (0, os.geteuid()):
        raise PermissionDenied(
            "only who runs the broker may mend its records",
            hint="look without --fix, or ask whoever runs the broker",
        )


def check_owner(session: Session, workflows: Sequence[int], peer: Peer) -> None:
    """:raises PermissionDenied: one of them is somebody else's."""
    if peer.uid in (0, os.geteuid()):
        return
    for workflow, uid in queries.owners(session, workflows).items():
        if uid != peer.uid:
            raise PermissionDenied(
                f"workflow {workflow} belongs to {username(uid)}, and you are {username(peer.uid)}"
            )


def username(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _one(session: Session, action: str, one: Selected, peer: Peer, now: datetime) -> Iterable[Json]:
    if one.step is None and action in _WHOLE:
        changed = _WHOLE[action](session, [one.workflow], now, peer.uid)
        word = {"hold": "HELD", "release": "RELEASED"}[action]
        was = "RELEASED" if action == "hold" else "HELD"
        yield {
            "workflow": one.workflow,
            "step": None,
            "was": was if changed else word,
            "now": word,
        }
        return
    refs = None if one.step is None else [one.step]
    ids = queries.step_ids(session, one.workflow, refs)
    for step in _VERBS[action](session, ids.values(), now, peer.uid):
        if one.step is not None or step.was != step.now:
            yield {
                "workflow": step.workflow_id,
                "step": step.ref,
                "was": step.was,
                "now": step.now,
            }


def _noted(session: Session, one: Selected, action: str, reason: str, peer: Peer) -> EventRow:
    ids = queries.step_ids(session, one.workflow, [one.step]) if one.step is not None else {}
    return event(
        "reason",
        f"{action}: {reason}",
        workflow_id=one.workflow,
        step_id=ids.get(one.step or ""),
        actor_uid=peer.uid,
    )


def _summed(items: Iterable[Json], found: Sequence[Selected]) -> list[Json]:
    """Steps of a workflow that was named as a whole, as one item for each kind of change."""
    whole = {one.workflow for one in found if one.step is None}
    shown = [item | {"step": None} if item["workflow"] in whole else item for item in items]
    return [item for i, item in enumerate(shown) if item not in shown[:i]]
