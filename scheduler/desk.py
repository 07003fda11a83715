"""What the API's routes do: each method one transaction, and the answer's fields."""

from collections.abc import Mapping, Sequence

from scsched.db import drivers as driver_rows
from scsched.db import nodes as node_rows
from scsched.db import queries, submissions
from scsched.db.models import NodeState
from scsched.db.open_runs import open_runs_of
from scsched.db.session import Session, Store
from scsched.db.views import EventView, StepView
from scsched.scheduler import answers, intake, steering
from scsched.scheduler.broker import Unplaceable
from scsched.scheduler.config import Settings
from scsched.scheduler.intake import PlannedStep, Submission
from scsched.scheduler.means import means_of
from scsched.scheduler.orders import orders_of
from scsched.scheduler.peercred import Peer
from scsched.scheduler.protocol import Assignment, Beat, Orders
from scsched.scheduler.selectors import select
from scsched.scheduler.ticker import Services, utc_now
from scsched.scheduler.tickets import Tickets
from scsched.scheduler.unconfigured import keeps_driver
from scsched.steps.errors import Fenced, NotFound, PermissionDenied, UsageError

Json = dict[str, object]


class Desk:
    """Answers people and drivers."""

    def __init__(self, settings: Settings, store: Store, services: Services) -> None:
        self._settings = settings
        self._store = store
        self._services = services
        self._tickets = Tickets.of(store)

    def submit(self, body: Submission, peer: Peer) -> Json:
        steering.check_submitter(peer)
        taken = intake.take(
            body,
            uid=peer.uid,
            username=steering.username(peer.uid),
            settings=self._settings,
            pools=self._services.fleet.pools,
            prices=self._services.fleet.costs(),
        )
        workflow_id = None
        if not body.dry_run:
            with self._store.write() as session:
                submitted = submissions.submit(session, taken.new, utc_now())
                if submitted.created and body.project is not None:
                    _check_project(session, body.project, submitted.id)
                workflow_id = submitted.id
            self._services.inbox.wake()
        return {
            "id": workflow_id,
            "name": body.name,
            "project": body.project,
            "steps": len(taken.plan),
            "warnings": [{"where": w.where, "problem": w.problem} for w in taken.warnings],
            "plan": [_plan_line(one) for one in taken.plan],
        }

    def workflows(
        self, uid: int | None, *, live: bool, states: frozenset[str], limit: int
    ) -> list[Json]:
        now = utc_now()
        with self._store.read() as session:
            rows = queries.workflow_rows(session, now, uid=uid, live=live, limit=limit)
        kept = [row for row in rows if not states or row.state in states]
        return [answers.workflow(row, now, self._unplaced) for row in kept]

    def workflow(self, selector: str, peer: Peer) -> Json:
        now = utc_now()
        with self._store.read() as session:
            workflow_id = self._one(session, selector, peer)
            row = queries.workflow(session, workflow_id, now)
            steps = queries.steps_of(session, workflow_id, now)
            runs = queries.runs_of(session, now, workflow_id=workflow_id)
            nodes = queries.node_rows(session, now, workflow_id=workflow_id, live=False)
            means = means_of(session, workflow_id)
            document = queries.document(session, workflow_id)
        return answers.workflow(row, now, self._unplaced) | {
            "project": row.project,
            "document_sha256": document.sha256,
            "steps": [answers.step(one, now, self._unplaced, means) for one in steps],
            "runs": [answers.run(one) for one in runs],
            "nodes": [answers.node(one) for one in nodes],
        }

    def step(self, selector: str, peer: Peer) -> Json:
        now = utc_now()
        with self._store.read() as session:
            (one,) = select(session, selector, peer.uid)[:1]
            if one.step is None:
                raise UsageError(f"{selector} names no step", hint=f"write {one.workflow}.STEP")
            steering.check_owner(session, [one.workflow], peer)
            (view,) = queries.steps_of(session, one.workflow, now, [one.step])
            runs = queries.runs_of(session, now, step_id=view.id)
            events = queries.events_after(session, step_id=view.id)
            means = means_of(session, one.workflow)
            project = queries.workflow(session, one.workflow, now).project
        found = answers.why_step(view, now, self._unplaced, means)
        ends = [f"attempt {run.attempt}: {run.end_reason}" for run in runs if run.end_reason]
        return answers.step(view, now, self._unplaced, means) | {
            "runs": [answers.run(run) for run in runs],
            "events": [answers.event(event, _names(events)) for event in events],
            "paths": _paths(view.job_dir, project),
            "why": {
                "reason": found.reason if found else None,
                "sentence": found.sentence if found else f"is {view.state}",
                "detail": ends,
            },
        }

    def events(self, workflow: int, step: str | None, after: int, peer: Peer) -> list[Json]:
        with self._store.read() as session:
            self._one(session, str(workflow), peer)
            step_id = queries.step_ids(session, workflow, [step])[step] if step else None
            found = queries.events_after(session, after, workflow_id=workflow, step_id=step_id)
        return [answers.event(event, _names(found)) for event in found]

    def nodes(self, *, ended: bool) -> Json:
        now = utc_now()
        with self._store.read() as session:
            rows = queries.node_rows(session, now, live=not ended)
            live = node_rows.live(session)
        held, costs = self._services.fleet.holds(now), self._services.fleet.costs()
        return {
            "items": [answers.node(row) for row in rows],
            "pools": [
                {
                    "pool": pool.name,
                    "provider": pool.provider,
                    "market": str(pool.market),
                    "max_nodes": pool.max_nodes,
                    **_counts([node for node in live if node.pool == pool.name]),
                    "usd_per_hour": float(costs[pool.name]),
                    "classes": sorted(str(name) for name in pool.classes),
                    "types": list(pool.types),
                    "zones": list(pool.zones),
                    "held": held[pool.name].sentence if pool.name in held else None,
                }
                for pool in self._services.fleet.pools
            ],
        }

    def audit(self, peer: Peer, *, fix: bool) -> Json:
        """The records against the providers' own lists."""
        if fix:
            steering.check_operator(peer)
        found = self._services.audit.run(utc_now(), fix=fix)
        return answers.audit(found)

    def receipt(self, workflow: int, peer: Peer) -> Json:
        with self._store.read() as session:
            self._one(session, str(workflow), peer)
            return answers.receipt(queries.receipt(session, workflow, utc_now()))

    def assignment(self, workflow: int, token: str, peer: Peer) -> Assignment:
        """What a driver has to know at its start."""
        with self._store.read() as session:
            record = self._driver(session, workflow, token, peer)
            document = queries.document(session, workflow)
            steps = queries.steps_of(session, workflow, utc_now())
        python = intake.scipion_python(self._settings)
        storage = self._settings.storage_of(record.project)
        return Assignment(
            workflow=workflow,
            name=record.name,
            document=document.text,
            project=record.project,
            scipion_python=str(python),
            relion_bin=str(self._settings.relion.bin),
            children=_children(steps),
            deployment=self._store.deployment(),
            listen=self._settings.network.address,
            remote=self._settings.remote,
            storages=self._settings.storage_paths,
            storage_min_free_gib=storage.min_free_gib if storage else 0.0,
            storage_floor_mib_per_s=storage.floor_mib_per_s if storage else 0.0,
        )

    def beat(self, workflow: int, beat: Beat, peer: Peer) -> Orders:
        """Take a driver's report, let a tick work on it, and say what should be."""
        with self._store.read() as session:
            self._driver(session, workflow, beat.token, peer)
        self._services.inbox.put(workflow, beat)
        with self._store.read() as session:
            record = self._driver(session, workflow, beat.token, peer)
            runs = open_runs_of(session, workflow)
            live = node_rows.live(session, workflow)
        kept = runs or any(keeps_driver(node, self._services.fleet) for node in live)
        end = not kept and workflow not in self._services.drivers.wanted
        return orders_of(
            runs,
            self._settings.times,
            exact=record.exact,
            end=end,
            live=live,
            ticket=self._ticket,
        )

    def _ticket(self, node: node_rows.NodeRec) -> str:
        """For a node of another machine."""
        pool = self._services.fleet.pool(node.pool)
        return self._tickets.ticket(node.token) if pool is not None and pool.remote else ""

    @property
    def _unplaced(self) -> Mapping[int, Unplaceable]:
        return self._services.dispatch.unplaced

    def _one(self, session: Session, selector: str, peer: Peer) -> int:
        """The one workflow that is meant, if it is the caller's."""
        found = select(session, selector, peer.uid)
        if len(found) != 1:
            raise UsageError(f"{selector} names {len(found)} workflows", hint="name one")
        steering.check_owner(session, [found[0].workflow], peer)
        return found[0].workflow

    def _driver(
        self, session: Session, workflow: int, token: str, peer: Peer
    ) -> driver_rows.DriverRec:
        """:raises Fenced: this driver was given up."""
        try:
            record = driver_rows.get(session, workflow)
        except NotFound as exc:
            raise Fenced(f"no workflow {workflow}") from exc
        if peer.uid != record.uid:
            raise PermissionDenied(f"workflow {workflow} is not run by uid {peer.uid}")
        if not record.token or record.token != token:
            raise Fenced(f"workflow {workflow} has another driver now")
        return record


def _children(steps: Sequence[StepView]) -> dict[str, tuple[str, ...]]:
    """The steps that read what each step makes, by their ids in the workflow."""
    return {
        parent.ref: tuple(step.ref for step in steps if parent.ref in step.parents)
        for parent in steps
    }


def _check_project(session: Session, project: str, mine: int) -> None:
    """Two drivers must not write one Scipion project. Refusing undoes the submission.

    :raises UsageError: another workflow works there.
    """
    other = queries.lives_in(session, project, but=mine)
    if other is not None:
        raise UsageError(
            f"{project}: workflow {other} works in this project",
            hint=f"wait for it, `scsched wait {other}`, or give another --project",
        )


def _plan_line(one: PlannedStep) -> Json:
    layout = one.placement.layout if one.placement else None
    pool = one.placement.pool if one.placement else None
    return {
        "step": one.step.id,
        "label": one.step.label,
        "protocol": one.step.protocol,
        "class": str(one.step.resource_class),
        "shape": str(one.step.demand.shape),
        "pool": pool.name if pool else None,
        "market": str(pool.market) if pool else None,
        "nodes": layout.nodes if layout else 0,
        "ranks": layout.ranks if layout else 0,
        "threads": layout.threads if layout else 0,
        "memory_gib": layout.memory_gib_per_node if layout else 0.0,
        "usd_per_hour": float(one.usd_per_hour),
    }


def _paths(job_dir: str | None, project: str | None) -> Json:
    """Where the user finds the logs; the broker itself never looks there."""
    return {
        "stdout": f"{job_dir}/logs/run.stdout" if job_dir else None,
        "stderr": f"{job_dir}/logs/run.stderr" if job_dir else None,
        "job_dir": job_dir,
        "project": project,
    }


def _counts(nodes: Sequence[node_rows.NodeRec]) -> Json:
    starting = (NodeState.REQUESTED, NodeState.STARTING)
    return {
        "up": sum(node.state not in starting for node in nodes),
        "starting": sum(node.state in starting for node in nodes),
        "idle": sum(node.run_id is None and node.state is NodeState.UP for node in nodes),
    }


def _names(events: Sequence[EventView]) -> dict[int, str]:
    uids = {event.actor_uid for event in events}
    return {uid: steering.username(uid) for uid in uids if uid is not None}
