"""Nodes from Slurm: a pool is a partition, a gang is one allocation, a node is one step of it.

    launch      squeue ─► is the gang there? ─► scontrol show partition ─► sbatch, script on stdin
    list        squeue (and squeue --steps for gangs, sacct for what it has forgotten)
    terminate   scontrol update comment ─► HUP, then scancel, to the steps; to the job with its
                last member

A lost reply does not double: the gang's token is in the job's comment, and jobs of one name run
one after the other (`--dependency=singleton`), so a double is found before it could start. The
site's own requeue is switched off; where the site insists, the script leaves at once and the nodes
count as lost, as they were.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from scsched.cluster.batch import errors, health, jobs, options, states, submission
from scsched.cluster.batch.commands import user
from scsched.cluster.batch.jobs import Job, Mark
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.batch.queue import Queue, commands
from scsched.cluster.health import Finding
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Price,
    ProviderError,
    Refused,
    Seen,
    Traits,
    Unreachable,
    by_gang,
    gang_of,
    in_order,
    index_of,
)
from scsched.steps.errors import ConfigError

_log = logging.getLogger(__name__)
_FRESH_S = 0.5
"""`notices` does not ask again what `list` has just heard."""
_ENDING_S = 5.0
"""How long at most a node has to clean up before it is killed."""
_LOOK_EVERY_S = 0.2
_UP = (NodeState.PENDING, NodeState.RUNNING)


def check(name: str, table: Mapping[str, object], pools: Sequence[Pool]) -> None:
    """:raises ConfigError: names the table and key that is wrong."""
    options.site(name, table)
    for pool in pools:
        if not options.pool(pool, submission.KEYS).partition:
            raise ConfigError(f"pool {pool.name}: partition is missing")


def from_config(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> "SlurmProvider":
    """:raises ConfigError: as `check`."""
    check(name, table, pools)
    return SlurmProvider(options.site(name, table), deployment, pools)


def examine(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterable[Finding]:
    """What Slurm has and lacks for these pools; asks it, changes nothing."""
    check(name, table, pools)
    ask = commands(options.site(name, table)).ask
    return tuple(health.examine(ask, Queue(ask, deployment), pools, submission.KEYS))


class SlurmProvider:
    """Its methods may be called from any thread; of one deployment by one process at a time."""

    traits = Traits(remote=True, listing_lag_s=10.0, stranger_grace_s=60.0)

    def __init__(
        self,
        site: SiteOptions,
        deployment: str,
        pools: Sequence[Pool],
        *,
        timeout_s: float = 10.0,
    ) -> None:
        """:param timeout_s: for one of Slurm's commands."""
        self._site = site
        self._deployment = deployment
        self._pools = {pool.name: pool for pool in pools}
        self._commands = commands(site, timeout_s)
        self._launching = threading.Lock()
        self._queue = Queue(self._commands.ask, deployment)

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        """See `Provider.launch`; one sbatch a gang."""
        gangs = by_gang(requests)
        with self._launching:
            return in_order(
                requests, (answer for gang in gangs for answer in self._launch_gang(gang))
            )

    def list(self) -> tuple[Seen, ...]:
        """See `Provider.list`."""
        found, doubles = jobs.sort_out(self._queue.everything())
        self._end_doubles(doubles)
        steps, now = self._queue.steps(found), datetime.now(UTC)
        return tuple(
            replace(
                states.seen(job, place, steps.get(job.job_id), now),
                reason=self._reason(job),
                pool=pool.name if (pool := self._pool_of(job)) else "",
            )
            for job in found
            for place in job.mark.places
        )

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`. The allocation ends with its last member."""
        asked: dict[str, set[int]] = {}
        for token in tokens:
            asked.setdefault(gang_of(token), set()).add(index_of(token))
        found = [
            job
            for job in self._queue.jobs()
            if not asked.get(job.mark.gang, set()).isdisjoint(job.mark.places)
            and not states.is_over(job)
            and job.state != "COMPLETING"
        ]
        steps, now = self._queue.steps(found), datetime.now(UTC)
        failed: ProviderError | None = None
        for job in found:
            live = steps.get(job.job_id)
            down = {
                place
                for place in job.mark.places
                if states.state_of(job, place, live, now) not in _UP
            }
            try:
                self._end(job, asked[job.mark.gang] | down, live or {})
            except ProviderError as exc:
                failed = exc
        if failed:
            raise failed

    def notices(self) -> tuple[Notice, ...]:
        """See `Provider.notices`: preemption moves a job's end to the end of the grace time."""
        listed = self._queue.jobs(age_s=_FRESH_S)
        soon = datetime.now(UTC) + timedelta(seconds=self._site.notice_s)
        return tuple(
            Notice(f"{job.mark.gang}-{place}", job.ends_at)
            for job in listed
            if job.state == "RUNNING" and job.ends_at is not None and job.ends_at <= soon
            for place in job.mark.places
            if place not in job.mark.ended
        )

    def prices(self, pools: Sequence[Pool], since: datetime) -> tuple[Price, ...]:
        """See `Provider.prices`: those of the configuration hold."""
        return ()

    def _launch_gang(self, group: Sequence[LaunchRequest]) -> Iterable[Launched | Refused]:
        """What is not there yet is launched together."""
        try:
            known = self._known(group[0])
            over = self._over(known)
            missing = [request for request in group if index_of(request.token) not in known]
            refused = self._add(missing, known, over) if missing else None
        except ProviderError as exc:
            return [Refused(request.token, exc) for request in group]
        return [_answer(request, known, over, refused) for request in group]

    def _known(self, first: LaunchRequest) -> dict[int, Job]:
        """The jobs of the gang's members that were launched before, by place."""
        self._check(first)
        mine = (gang_of(first.token), first.owner.uid)
        listed = self._queue.everything(refresh=True)
        found, doubles = jobs.sort_out(j for j in listed if (j.mark.gang, j.uid) == mine)
        self._end_doubles(doubles)
        return {place: job for job in found for place in job.mark.places}

    def _over(self, known: Mapping[int, Job]) -> frozenset[int]:
        """The places of members that have ended, or are about to."""
        steps, now = self._queue.steps(known.values()), datetime.now(UTC)
        return frozenset(
            place
            for place, job in known.items()
            if states.state_of(job, place, steps.get(job.job_id), now) not in _UP
        )

    def _add(
        self, group: Sequence[LaunchRequest], known: dict[int, Job], over: Collection[int]
    ) -> ProviderError | None:
        """Launch these in one job, or say why not."""
        try:
            if over:
                raise BadRequest(f"{group[0].name}: a node of its gang has ended; use new tokens")
            job = self._submit(group)
        except ConfigError as exc:
            return BadRequest(str(exc))
        except ProviderError as exc:
            return exc
        known |= dict.fromkeys(job.mark.places, job)
        return None

    def _check(self, request: LaunchRequest) -> None:
        name = request.name
        if request.deployment != self._deployment:
            raise BadRequest(f"{name}: deployment {request.deployment} is not {self._deployment}")
        if not jobs.is_word(request.token):
            raise BadRequest(f"{name}: token {request.token!r}; letters, digits and - only")

    def _submit(self, group: Sequence[LaunchRequest]) -> Job:
        first, pool = group[0], group[0].pool
        listed = self._queue.jobs(age_s=_FRESH_S)
        used = [job for job in listed if job.mark.pool == pool.name and not states.is_over(job)]
        taken = sum(len(set(job.mark.places) - job.mark.ended) for job in used)
        if taken + len(group) > pool.max_nodes:
            raise NoCapacity(f"pool {pool.name}: {taken} of {pool.max_nodes} nodes are in use")
        mark = Mark(
            deployment=self._deployment,
            gang=gang_of(first.token),
            places=tuple(index_of(request.token) for request in group),
            pool=pool.name,
        )
        said = self._commands.act(
            *submission.sbatch(self._site, mark, first.name),
            owner=first.owner,
            stdin=submission.script(self._site, group, self._grace_s(pool)),
        )
        # With several clusters the answer is `<job>;<cluster>`.
        number = said.strip().rpartition("\n")[2].partition(";")[0]
        if not number.isdecimal():
            raise Unreachable(f"sbatch: said {said!r} instead of the number of a job")
        _log.info("gang %s is job %s on %d nodes", mark.gang, number, len(group))
        return Job(job_id=int(number), uid=first.owner.uid, mark=mark, state="PENDING")

    def _grace_s(self, pool: Pool) -> float:
        """:raises NoCapacity: the pool's partition takes no jobs now."""
        partition = self._queue.partition(options.pool(pool, submission.KEYS).partition)
        if partition.state != "UP":
            raise NoCapacity(f"pool {pool.name}: its partition is {partition.state}")
        return partition.grace_s

    def _end(self, job: Job, places: Collection[int], steps: Mapping[int, str]) -> None:
        """End these members; the whole job when no other is up."""
        ended = job.mark.ended.union(places).intersection(job.mark.places)
        whole = len(ended) == len(job.mark.places)
        mark = replace(job.mark, ended=ended, why=self._reason(job).replace(" ", "-"))
        if mark != job.mark:
            self._quietly(job, "scontrol", "update", f"JobId={job.job_id}", f"Comment={mark}")
        targets = [str(job.job_id)] if whole else [steps[p] for p in places if p in steps]
        if job.state == "RUNNING":
            # SIGTERM alone is a notice to a node, which then waits to be killed.
            for target in targets:
                self._quietly(job, "scancel", "--signal=HUP", target)
        if not whole:
            self._wait_for(job, targets)
        for target in targets:
            self._quietly(job, "scancel", target)

    def _wait_for(self, job: Job, steps: Collection[str]) -> None:
        """Of a job Slurm kills what is left KillWait after its first signal; a step it kills at
        once, so a node that is a step is given the time here."""
        end = time.monotonic() + min(self._queue.kill_wait_s(), _ENDING_S)
        left = set(steps)
        while left and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)
            left &= set(self._queue.steps([job]).get(job.job_id, {}).values())

    def _quietly(self, job: Job, *argv: str) -> None:
        """As the job's owner; that it is gone is fine. So is what scancel says of a live step:
        22.05 calls its job unknown after every signal that it has delivered."""
        try:
            self._commands.act(*argv, owner=user(job.uid))
        except ProviderError as exc:
            if not errors.is_gone(exc):
                raise

    def _end_doubles(self, doubles: Iterable[tuple[Job, Job]]) -> None:
        for job, first in doubles:
            if job.uid == first.uid and not states.is_over(job):
                _log.warning("job %d doubles job %d; ended", job.job_id, first.job_id)
                self._quietly(job, "scancel", str(job.job_id))

    def _reason(self, job: Job) -> str:
        pool = self._pool_of(job)
        return states.reason_of(job, spot=pool is not None and pool.market is Market.SPOT)

    def _pool_of(self, job: Job) -> Pool | None:
        """By its mark; accounting has lost that: the first one of its partition."""
        if job.mark.pool:
            return self._pools.get(job.mark.pool)
        same = (p for p in self._pools.values() if p.options.get("partition") == job.partition)
        return next(same, None)


def _answer(
    request: LaunchRequest,
    known: Mapping[int, Job],
    over: Collection[int],
    refused: ProviderError | None,
) -> Launched | Refused:
    place = index_of(request.token)
    job = known.get(place)
    if job is None:
        return Refused(request.token, refused or BadRequest(f"{request.name}: was not launched"))
    if place in over:
        why = f"{request.name}: the node of {request.token} has ended; use a new token"
        return Refused(request.token, BadRequest(why))
    return Launched(request.token, states.provider_id(job, place))
