"""What Slurm is asked for when a gang is launched: the command line and the script."""

from collections.abc import Sequence

from scsched.cluster import remote
from scsched.cluster.batch import jobs, jobscript, options
from scsched.cluster.batch.jobs import Mark
from scsched.cluster.batch.options import PoolOptions, SiteOptions
from scsched.cluster.pools import Pool
from scsched.cluster.provider import BadRequest, LaunchRequest, index_of
from scsched.cluster.remote import NodeProgram, NoticeSource

KEYS = (
    *("partition", "time", "account", "qos", "constraint", "reservation", "gres", "exclusive"),
    "directives",
)
"""Of a pool, that Slurm has a word for."""


def sbatch(site: SiteOptions, mark: Mark, first: str) -> tuple[str, ...]:
    """The command; the script comes on its standard input.

    `--no-kill`: one node that fails does not end the others. `--export=ALL` of an environment that
    holds next to nothing: any other value makes Slurm run a login shell of the owner first.
    """
    return (
        *("sbatch", "--parsable", "--no-requeue", "--no-kill", "--export=ALL", "--chdir=/"),
        f"--job-name={jobs.job_name(first, mark)}",
        f"--comment={mark}",
        "--dependency=singleton",
        "--output=/dev/null",
    )


def script(site: SiteOptions, group: Sequence[LaunchRequest], grace_s: float) -> str:
    """The job's script, which starts one node process on each of its nodes.

    :raises BadRequest: these are not the nodes of one gang, in order.
    """
    first = group[0]
    if any(c.isspace() or c == "." for c in first.deployment + first.pool.name):
        raise BadRequest(f"{first.name}: deployment {first.deployment!r} has a space or dot in it")
    program = NodeProgram(
        python=site.python,
        notice=NoticeSource.SIGNAL,
        scratch=site.scratch,
        owns_machine=False,
        dead_man_s=site.dead_man_s,
        grace_s=grace_s,
        index=jobscript.PLACE,
    )
    start = remote.bootstrap(group, program)
    asked = options.pool(first.pool, KEYS)
    header = jobscript.Header(
        job="SLURMJob",
        name=first.name,
        options=asked,
        directives=_directives(first.pool, asked, len(group)),
        skip=("#SBATCH -n 1",),
        more={"account": asked.account or None},
    )
    log = f"{site.logs.rstrip('/')}/{first.pool.name}" if site.logs else ""
    places = [index_of(request.token) for request in group]
    command = jobscript.slurm_command(start, places=places, cores=first.pool.cores, log=log)
    return jobscript.render(header, first.pool, command)


def _directives(pool: Pool, asked: PoolOptions, nodes: int) -> list[str]:
    gres = asked.gres or (f"gpu:{pool.gpus}" if pool.gpus else "")
    worded = {"qos": asked.qos, "constraint": asked.constraint, "gres": gres}
    worded |= {"reservation": asked.reservation}
    return [
        f"--nodes={nodes}",
        "--ntasks-per-node=1",
        *(f"--{key}={value}" for key, value in worded.items() if value),
        *(["--exclusive"] if asked.exclusive else []),
        *asked.directives,
    ]
