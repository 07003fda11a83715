"""Nodes from PBS, SGE, LSF and HTCondor: one job a node, gangs of one.

Proven as far as the job script and the reading of recorded answers: no real system of these kinds
has run it, so a site has to say `unproven = true`. Slurm is the proven one. What they lack beside
Slurm: gangs over several nodes, notices, ended jobs in the listing of SGE and HTCondor, and a way
for the system to keep a double from starting.
"""

import base64
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster import remote
from scsched.cluster.batch import health, jobscript, listings, options
from scsched.cluster.batch.commands import Commands
from scsched.cluster.batch.listings import Listed
from scsched.cluster.batch.options import PoolOptions, SiteOptions
from scsched.cluster.health import Finding
from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Price,
    ProviderError,
    QuotaExceeded,
    Refused,
    Seen,
    Traits,
    Unreachable,
    gang_of,
)
from scsched.cluster.remote import NodeProgram, NoticeSource
from scsched.steps.errors import ConfigError

_log = logging.getLogger(__name__)
_ONE = "{}: a gang of several nodes is proven on Slurm only, and refused for {}"
_KEYS = ("partition", "time", "account", "directives")
_WORDS: Sequence[tuple[type[ProviderError], Sequence[str]]] = (
    (Unreachable, ("cannot connect", "timed out", "failed to contact", "communication failure")),
    (Credentials, ("permission denied", "not authorized", "unauthorized", "authentication")),
    (QuotaExceeded, ("would exceed", "limit exceeded", "exceeds", "job limit", "maximum number")),
    (BadRequest, ("unknown queue", "no such queue", "illegal", "invalid", "unknown resource")),
)
"""What their commands say; the rest leaves it open whether anything was done."""
_GONE = ("unknown job", "finished", "does not exist", "not found", "couldn't find")


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How one batch system is spoken to."""

    job: str
    """dask-jobqueue's class."""
    submit: Sequence[str]
    show: Sequence[str]
    cancel: Sequence[str]
    read: Callable[[str], Iterable[Listed]]
    directives: Sequence[str] = ()
    """Not to be started again by the system: that is ours to decide."""
    account: str = "account"
    """Its name among the keywords of dask-jobqueue's class."""


SYSTEMS: Mapping[str, System] = {
    "pbs": System(
        job="PBSJob",
        submit=("qsub",),
        show=("qstat", "-x", "-f", "-F", "json"),
        cancel=("qdel",),
        read=listings.pbs,
        directives=("-r n", "-j oe", "-o /dev/null"),
    ),
    "sge": System(
        job="SGEJob",
        submit=("qsub", "-terse"),
        show=("qstat", "-u", "*", "-xml"),
        cancel=("qdel",),
        read=listings.sge,
        directives=("-r n", "-o /dev/null"),
        account="project",
    ),
    "lsf": System(
        job="LSFJob",
        submit=("bsub",),
        show=("bjobs", "-u", "all", "-a", "-json", "-o", "jobid stat user queue job_name"),
        cancel=("bkill",),
        read=listings.lsf,
        directives=("-rn", "-o /dev/null"),
        account="project",
    ),
    "htcondor": System(
        job="HTCondorJob",
        submit=("condor_submit", "-terse", "-"),
        show=(
            *("condor_q", "-allusers", "-json", "-attributes"),
            "ClusterId,ProcId,JobStatus,Owner,ScschedName,JobCurrentStartDate",
        ),
        cancel=("condor_rm",),
        read=listings.htcondor,
    ),
}


def check(name: str, table: Mapping[str, object], pools: Sequence[Pool]) -> None:
    """:raises ConfigError: names the table and key that is wrong, or says what is not proven."""
    site = options.site(name, table)
    if not site.unproven:
        raise ConfigError(
            f"provider.{name}: {site.kind} is proven as far as its job script, not on a real one",
            hint="write unproven = true into the table to try it; Slurm is proven",
        )
    for pool in pools:
        options.pool(pool, _KEYS)


def from_config(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> "BatchProvider":
    """:raises ConfigError: as `check`."""
    check(name, table, pools)
    return BatchProvider(options.site(name, table), deployment, pools)


def examine(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterable[Finding]:
    """That nobody has seen it work yet."""
    return (health.unproven(options.site(name, table).kind),)


class BatchProvider:
    """Its methods may be called from any thread; of one deployment by one process at a time."""

    traits = Traits(remote=True, listing_lag_s=30.0, stranger_grace_s=300.0)

    def __init__(self, site: SiteOptions, deployment: str, pools: Sequence[Pool]) -> None:
        self._site = site
        self._system = SYSTEMS[site.kind]
        self._deployment = deployment
        self._pools = {pool.name: pool for pool in pools}
        self._commands = Commands(translate=_translate, folder=site.commands)
        self._launching = threading.Lock()

    def launch(self, requests: Sequence[LaunchRequest]) -> tuple[Launched | Refused, ...]:
        """See `Provider.launch`."""
        sizes = Counter(gang_of(request.token) for request in requests)
        with self._launching:
            return tuple(
                self._launch(request)
                if sizes[gang_of(request.token)] == 1
                else Refused(request.token, BadRequest(_ONE.format(request.name, self._site.kind)))
                for request in requests
            )

    def list(self) -> tuple[Seen, ...]:
        """See `Provider.list`; the doubles of a node are left out."""
        return tuple(
            Seen(
                token,
                job.job_id,
                job.state,
                pool=job.name.split(".")[1],
                launched_at=job.started_at,
            )
            for token, job in self._listed().items()
        )

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`."""
        listed = self._listed()
        for token in tokens:
            job = listed.get(token)
            if job is None or job.state is NodeState.TERMINATED:
                continue
            try:
                self._commands.ask(*self._system.cancel, job.job_id)
            except ProviderError as exc:
                if not any(word in str(exc).lower() for word in _GONE):
                    raise

    def notices(self) -> tuple[Notice, ...]:
        """See `Provider.notices`: none of these systems announces any."""
        return ()

    def prices(self, pools: Sequence[Pool], since: object) -> tuple[Price, ...]:
        """See `Provider.prices`: those of the configuration hold."""
        return ()

    def script(self, request: LaunchRequest) -> str:
        """The job script of one node."""
        return _script(self._system, self._site, request)

    def _launch(self, request: LaunchRequest) -> Launched | Refused:
        try:
            return Launched(request.token, self._job_of(request))
        except ConfigError as exc:
            return Refused(request.token, BadRequest(str(exc)))
        except ProviderError as exc:
            return Refused(request.token, exc)

    def _job_of(self, request: LaunchRequest) -> str:
        name, pool = request.name, request.pool
        if request.deployment != self._deployment:
            raise BadRequest(f"{name}: deployment {request.deployment} is not {self._deployment}")
        listed = self._listed()
        found = listed.get(request.token)
        if found and found.state in (NodeState.PENDING, NodeState.RUNNING):
            return found.job_id
        if found:
            raise BadRequest(f"{name}: the node of {request.token} has ended; use a new token")
        live = [job for job in listed.values() if job.state is not NodeState.TERMINATED]
        if sum(job.name.split(".")[1] == pool.name for job in live) >= pool.max_nodes:
            raise NoCapacity(f"pool {pool.name}: all {pool.max_nodes} nodes are in use")
        said = self._commands.act(
            *self._system.submit, owner=request.owner, stdin=self.script(request)
        )
        _log.info("node %s was submitted: %s", name, said.strip())
        return _job_id(said)

    def _listed(self) -> dict[str, Listed]:
        """Our jobs by token, of each the first."""
        found: dict[str, Listed] = {}
        for job in self._system.read(self._commands.ask(*self._system.show)):
            parts = job.name.split(".")
            if len(parts) == 4 and (parts[0], parts[2]) == ("scsched", self._deployment):
                found.setdefault(parts[3], job)
        return found


def _script(system: System, site: SiteOptions, request: LaunchRequest) -> str:
    """:raises BadRequest: it is not a gang of one."""
    program = NodeProgram(
        python=site.python,
        notice=NoticeSource.NONE,
        scratch=site.scratch,
        owns_machine=False,
        dead_man_s=site.dead_man_s,
    )
    start = remote.bootstrap([request], program)
    name = f"scsched.{request.pool.name}.{request.deployment}.{request.token}"
    if any(part.isspace() or part == '"' for part in name) or name.count(".") != 3:
        raise BadRequest(f"{request.name}: {name!r} cannot be the name of a job")
    asked = options.pool(request.pool, _KEYS)
    if system.job == "HTCondorJob":
        return _condor_script(name, asked, request.pool, start)
    header = jobscript.Header(
        job=system.job,
        name=name,
        options=asked,
        directives=[*system.directives, *asked.directives],
        more={system.account: asked.account or None},
    )
    return jobscript.render(header, request.pool, start)


def _condor_script(name: str, asked: PoolOptions, pool: Pool, start: str) -> str:
    """A submit file holds no lines of a script, so the script is a word of the environment.

    Whoever may read the job's description can read that, and race the node to the desk with its
    ticket; the node would be refused then, which is seen. HTCondor starts an evicted job again,
    hence `periodic_remove`.
    """
    encoded = base64.b64encode(start.encode()).decode()
    directives = {
        "MY.ScschedName": f'"{name}"',
        "environment": f'"SCSCHED_BOOTSTRAP={encoded}"',
        "periodic_remove": "NumJobStarts >= 1 && JobStatus == 1",
    }
    if asked.account:
        directives["accounting_group"] = asked.account
    for line in asked.directives:
        key, _, value = line.partition("=")
        directives[key.strip()] = value.strip()
    header = jobscript.Header(
        job="HTCondorJob",
        name=name,
        options=asked,
        directives=directives,
        more={"disk": "1 GiB", "job_script_prologue": []},
    )
    command = 'eval "$(echo $SCSCHED_BOOTSTRAP | base64 -d)"'
    return jobscript.render(header, pool, command)


def _job_id(said: str) -> str:
    """Of `4711.server`, `4711`, `Job <4711> is submitted to queue <q>.` or `4711.0 - 4711.0`."""
    words = said.replace("<", " ").replace(">", " ").split()
    numbers = [word for word in words if word[:1].isdigit()]
    if not numbers:
        raise Unreachable(f"said {said!r} instead of the number of a job")
    return numbers[0]


def _translate(program: str, said: str) -> ProviderError:
    lower = said.lower()
    for kind, words in _WORDS:
        if any(word in lower for word in words):
            return kind(f"{program}: {said.strip()}")
    return Unreachable(f"{program}: {said.strip() or 'failed without a word'}")
