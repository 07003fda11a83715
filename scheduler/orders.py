"""What the drivers should be doing, read from the database. Pure but for the rows given."""

from collections.abc import Callable, Iterable, Mapping

from scsched.db.models import Exact
from scsched.db.nodes import NodeRec
from scsched.db.open_runs import OpenRun
from scsched.scheduler.config import TimesConfig
from scsched.scheduler.protocol import NodeOrder, Orders, RunOrder
from scsched.steps.spec import ResourceClass, Resume

Ticket = Callable[[NodeRec], str]
"""What a node of another machine shows at its driver's desk; empty for one of this machine."""


def orders_of(
    runs: Iterable[OpenRun],
    times: TimesConfig,
    *,
    exact: Exact,
    end: bool,
    live: Iterable[NodeRec] = (),
    ticket: Ticket = lambda node: "",
) -> Orders:
    """The desired state of one workflow.

    :param live: all its nodes: replacements come before any run has them.
    """
    return Orders(
        runs=tuple(_order(run, times, exact, ticket) for run in runs),
        nodes=tuple(_node(node, ticket) for node in live if _may_come(node)),
        end=end,
    )


def _order(run: OpenRun, times: TimesConfig, exact: Exact, ticket: Ticket) -> RunOrder:
    return RunOrder(
        run=run.run_id,
        epoch=run.epoch,
        token=run.token,
        attempt=run.attempt,
        ref=run.ref,
        protocol=run.protocol,
        resume=run.resume,
        ranks=_count(run.layout, "ranks"),
        threads=_count(run.layout, "threads"),
        nodes=tuple(_node(node, ticket) for node in run.nodes),
        exact=_is_exact(run, exact),
        interactive=run.resource_class is ResourceClass.INTERACTIVE,
        gpus=min((node.gpus for node in run.nodes), default=0),
        stop=str(run.stop_reason) if run.stop_reason else None,
        stop_after=run.stop_after,
        stop_grace_s=times.stop_grace_s,
        stall_s=times.stall_s,
        walltime_s=times.walltime_s,
    )


def _node(node: NodeRec, ticket: Ticket) -> NodeOrder:
    shown = ticket(node)
    gone = node.ended_at is not None or node.terminate_asked_at is not None
    return NodeOrder(name=node.name, cores=node.cores, ticket=shown, remote=bool(shown), gone=gone)


def _may_come(node: NodeRec) -> bool:
    """Without a run, and not up yet."""
    return node.run_id is None and node.up_at is None and node.terminate_asked_at is None


def _is_exact(run: OpenRun, wanted: Exact) -> bool:
    """One RELION process an iteration, so that an interruption leaves no trace in the result."""
    return run.resume is Resume.ITERATION and wanted is Exact.ON


def _count(layout: Mapping[str, object], name: str) -> int:
    found = layout.get(name)
    return found if isinstance(found, int) else 1
