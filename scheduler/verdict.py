"""Why a run has ended. Pure: the driver's hint, the order it was under, what became of its nodes.

An interruption is judged by the state of the hosts, never by the exit code: mpirun ends with 1, 2,
137, 143, 205, 255 or -9 for the same plain loss of a host.
"""

from collections.abc import Collection

from scsched.scheduler.protocol import Hint
from scsched.steps.state import EndReason

RECLAIMED = "spot"
"""What a provider says of a node that was taken back."""

SILENT = "silent"
"""A node that its driver hears no more, and of which its provider has not said that it is gone."""

_BY_HINT = {
    Hint.COMPLETED: EndReason.COMPLETED,
    Hint.FAILED: EndReason.FAILED,
    Hint.OUT_OF_MEMORY: EndReason.OUT_OF_MEMORY,
    Hint.TIMEOUT: EndReason.TIMEOUT,
    Hint.STALLED: EndReason.STALLED,
    Hint.STOPPED: EndReason.CANCELLED,
    Hint.NODE_LOST: EndReason.NODE_FAIL,
    Hint.LOST: EndReason.LOST,
}


def judge(
    hint: Hint,
    *,
    stop_reason: EndReason | None = None,
    lost: Collection[str] = (),
    noticed: bool = False,
    in_time: bool = False,
) -> EndReason:
    """The one reason.

    :param stop_reason: what the broker had asked the driver to stop the run for.
    :param lost: for each node of the gang that is gone, its provider's word; SILENT if it has none.
    :param noticed: a node of the gang is under notice to be taken back.
    :param in_time: it was to stop after an iteration, to go on with other nodes.
    """
    if hint is Hint.COMPLETED:
        return EndReason.COMPLETED
    if stop_reason is not None:
        return stop_reason
    if hint is Hint.LOST and RECLAIMED not in lost:
        return EndReason.LOST
    if RECLAIMED in lost or (noticed and hint in (Hint.NODE_LOST, Hint.STOPPED)):
        return EndReason.PREEMPTED
    if in_time and hint is Hint.STOPPED:
        return EndReason.PREEMPTED
    if lost:
        return EndReason.NODE_FAIL
    return _BY_HINT[hint]
