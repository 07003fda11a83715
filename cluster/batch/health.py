"""What `doctor --cloud` looks at where nodes come from a batch system. Asks, changes nothing."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence

from scsched.cluster.batch import errors, options
from scsched.cluster.batch.commands import Commands
from scsched.cluster.batch.options import SiteOptions
from scsched.cluster.batch.queue import Queue
from scsched.cluster.health import Finding
from scsched.cluster.pools import Pool
from scsched.cluster.provider import ProviderError

_SLURM = ("sbatch", "squeue", "scancel", "scontrol")
_ANSWER = "controller"


def slurm(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterator[Finding]:
    """Its commands, whether it knows us, and the pools' partitions."""
    site = options.site(name, table)
    yield _commands(site, _SLURM)
    conf = site.conf or os.environ.get("SLURM_CONF", "")
    environ = {"SLURM_CONF": conf} if conf else None
    ask = Commands(translate=errors.of_slurm, folder=site.commands, environ=environ).ask
    queue = Queue(ask, deployment)
    try:
        jobs = queue.jobs()
    except ProviderError as exc:
        yield Finding(_ANSWER, ok=False, sentence=str(exc), hint=exc.hint)
        return
    yield Finding(_ANSWER, ok=True, sentence=f"Slurm answers; it has {len(jobs)} jobs of ours")
    for pool in pools:
        yield _partition(queue, pool)


def other(
    name: str, table: Mapping[str, object], *, deployment: str, pools: Sequence[Pool]
) -> Iterator[Finding]:
    """Its commands; and that nobody has seen a node of ours there."""
    from scsched.cluster.batch.others import SYSTEMS

    site = options.site(name, table)
    system = SYSTEMS[site.kind]
    yield _commands(site, (system.submit[0], system.show[0], system.cancel[0]))
    sentence = f"{site.kind} is proven as far as its job script: watch the first nodes yourself"
    yield Finding("proof", ok=True, sentence=sentence)


def _commands(site: SiteOptions, programs: Sequence[str]) -> Finding:
    path = os.environ.get("PATH", os.defpath)
    path = f"{site.commands}:{path}" if site.commands else path
    missing = [one for one in programs if shutil.which(one, path=path) is None]
    where = site.commands or "PATH"
    if missing:
        hint = "install the system's client commands here, or set `commands` to their folder"
        sentence = f"{', '.join(missing)} cannot be run from {where}"
        return Finding("commands", ok=False, sentence=sentence, hint=hint)
    return Finding("commands", ok=True, sentence=f"{', '.join(programs)} in {where}")


def _partition(queue: Queue, pool: Pool) -> Finding:
    wanted = str(pool.options.get("partition", ""))
    try:
        state = queue.partition(wanted).state
    except ProviderError as exc:
        hint = exc.hint or "see what there is with: sinfo"
        return Finding("partition", ok=False, sentence=f"pool {pool.name}: {exc}", hint=hint)
    return Finding(
        "partition",
        ok=state == "UP",
        sentence=f"pool {pool.name}: partition {wanted} is {state}",
        hint="" if state == "UP" else "ask the cluster's administrators",
    )
