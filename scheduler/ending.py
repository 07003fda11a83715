"""What becomes of a step when its run has ended: the retry policy's decision as a row to write."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from scsched.cluster.pools import Market, Pool
from scsched.db.open_runs import OpenRun
from scsched.db.past import PastRun, worked
from scsched.db.runs import RunEnd
from scsched.scheduler.broker import Placement, Want, feasible
from scsched.scheduler.config import RetryConfig
from scsched.scheduler.protocol import EndReport, Hint
from scsched.scheduler.retry import Ended, GiveUp, Past, Requeue, RetryPolicy, decide
from scsched.steps.spec import ResourceClass, Resume
from scsched.steps.state import EndReason, StepState

ITEMS_S = 300.0
"""Of a protocol that goes on from the movies or micrographs not done yet, nobody counts those done;
one of them takes from seconds to a few minutes, so a run that was at work so long has done some."""


class Ending:
    """Applies the site's retry policy."""

    def __init__(self, retry: RetryConfig, pools: Sequence[Pool]) -> None:
        self._policy = RetryPolicy(**retry.model_dump())
        self._pools = pools

    def of(
        self,
        run: OpenRun,
        end: EndReport,
        reason: EndReason,
        past: Sequence[PastRun],
        now: datetime,
    ) -> RunEnd:
        """The row that closes `run`, and where its step goes then."""
        row = RunEnd(
            run_id=run.run_id,
            epoch=run.epoch,
            reason=reason,
            then=StepState.COMPLETED,
            exit_code=end.exit_code,
            signal=end.signal,
            detail=end.detail,
            iterations_done=_done(run, end),
            iterations_lost=_lost(run, end),
            resumed_from=_resumed_from(run, end),
        )
        if reason is EndReason.COMPLETED:
            return row
        if reason is EndReason.CANCELLED:
            return replace(row, then=StepState.CANCELLED)
        if run.resource_class is ResourceClass.INTERACTIVE and reason is EndReason.FAILED:
            return replace(row, then=StepState.FAILED)  # only a person can do something about it
        last = PastRun(reason, row.iterations_done, worked(run.running_at, now))
        decision = decide(
            Ended(
                history=[Past(one.reason, _gained(one, run.resume)) for one in (*past, last)],
                resumable=run.resume is not Resume.NONE,
                larger_exists=self._larger_exists(run),
            ),
            self._policy,
        )
        if isinstance(decision, GiveUp):
            return replace(row, then=StepState.FAILED, detail=_with(decision.why, row.detail))
        return replace(
            row,
            then=StepState.PENDING,
            not_before=now + timedelta(seconds=decision.delay_s),
            allow_spot=self._allow_spot(decision, run),
            larger=decision.larger,
        )

    def _larger_exists(self, run: OpenRun) -> bool:
        had = max((node.memory_gib for node in run.nodes), default=0.0)
        found = feasible(want_of_run(run, Market(run.market), larger=True), self._pools)
        return isinstance(found, Placement) and found.pool.memory_gib > had

    def _allow_spot(self, decision: Requeue, run: OpenRun) -> bool | None:
        """Where no on-demand pool takes it, it stays on spot."""
        if decision.allow_spot is None:
            return None
        return decision.allow_spot or not self._has_on_demand(run)

    def _has_on_demand(self, run: OpenRun) -> bool:
        return isinstance(feasible(want_of_run(run, Market.ON_DEMAND), self._pools), Placement)


def want_of_run(run: OpenRun, market: Market, *, larger: bool = False) -> Want:
    """What its step would ask for now."""
    return Want(
        step_id=run.step_id,
        workflow_id=run.workflow_id,
        resource_class=run.resource_class,
        demand=run.demand,
        market=market,
        long_lived=run.long_lived,
        larger=larger,
    )


def _gained(past: PastRun, resume: Resume) -> bool:
    """Whether it got further than the run before it."""
    by_time = resume is Resume.ITEM and past.worked_s >= ITEMS_S
    return past.iterations_done > 0 or by_time


def _done(run: OpenRun, end: EndReport) -> int:
    """Iterations finished by this run; from its last progress where nobody is left to count."""
    if end.iterations_done or end.hint not in (Hint.NODE_LOST, Hint.LOST):
        return end.iterations_done
    return max(0, _told(run, "checkpoint") - (_resumed_from(run, end) or 0))


def _resumed_from(run: OpenRun, end: EndReport) -> int | None:
    return end.resumed_from or _told(run, "resumed_from") or None


def _lost(run: OpenRun, end: EndReport) -> int:
    """Iterations at work, or written and not whole, when it ended."""
    if end.iterations_lost or end.hint not in (Hint.NODE_LOST, Hint.LOST):
        return end.iterations_lost
    return max(0, _told(run, "iteration") - _told(run, "checkpoint"))


def _told(run: OpenRun, name: str) -> int:
    """A number of its last progress report; 0 where there was none."""
    found = (run.progress or {}).get(name)
    return max(0, found) if isinstance(found, int) else 0


def _with(why: str, detail: str) -> str:
    """The program's own last words stay last: that is what people read first."""
    return f"given up: {why}\n{detail}" if detail else why
