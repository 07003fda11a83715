"""What the steps of a workflow run by, as `why` tells it: its driver and their nodes."""

from collections.abc import Mapping

from scsched.db import drivers as driver_rows
from scsched.db.open_runs import OpenRun, open_runs_of
from scsched.db.session import Session
from scsched.scheduler.why import Driver, Gang, Means
from scsched.steps.state import StepState


def means_of(session: Session, workflow_id: int) -> Means:
    """For its owner alone: with it goes what the driver said.

    :raises NotFound: no such workflow.
    """
    return Means(_driver(session, workflow_id), _gangs(session, workflow_id))


def _driver(session: Session, workflow_id: int) -> Driver:
    record = driver_rows.get(session, workflow_id)
    return Driver(
        connected=record.address is not None,
        failures=record.failures,
        loss=driver_rows.last_loss(session, workflow_id) if record.failures else "",
    )


def _gangs(session: Session, workflow_id: int) -> Mapping[int, Gang]:
    return {
        run.step_id: _gang(run)
        for run in open_runs_of(session, workflow_id)
        if run.state is StepState.CONFIGURING
    }


def _gang(run: OpenRun) -> Gang:
    live = [node for node in run.nodes if node.ended_at is None]
    launched = [node.launched_at for node in live if node.launched_at is not None]
    return Gang(
        pool=run.pool,
        wanted=len(run.nodes),
        up=sum(node.up_at is not None for node in live),
        launched=len(launched),
        launched_at=min(launched, default=None),
    )
