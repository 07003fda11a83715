"""Job scripts: the header is dask-jobqueue's, the command is ours.

dask-jobqueue's classes know how each batch system spells cores, memory, time and queue. Its worker
command is replaced: our nodes enrol, watch their lease and hear notices. Its configuration files
are left out too, so that a script follows from the site's configuration alone.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from scsched.cluster.batch.options import PoolOptions
from scsched.cluster.pools import Pool

SECTION = "scsched"
"""Of dask's configuration under `jobqueue`: ours, with nothing in it."""
_KEYS = (
    *("account", "cores", "death-timeout", "disk", "env-extra", "extra", "header-skip"),
    *("interface", "job-cpu", "job-extra", "job-mem", "local-directory", "log-directory"),
    *("lsf-units", "mem", "memory", "name", "ncpus", "processes", "project", "python", "queue"),
    *("resource-spec", "use-stdin", "walltime", "worker-command"),
)
_LISTS = (
    *("cancel-command-extra", "job-directives-skip", "job-extra-directives"),
    *("job-script-prologue", "submit-command-extra", "worker-extra-args"),
)
PLACE = 'echo "$SCSCHED_INDEX"'
"""Words of sh with which a node of a job finds its place in its gang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the head of a script asks for, beyond the pool."""

    job: str
    """dask-jobqueue's class, e.g. SLURMJob."""
    name: str
    options: PoolOptions
    directives: Sequence[str] | Mapping[str, str] = ()
    skip: Sequence[str] = ()
    """Lines of dask-jobqueue that have one of these are left out."""
    more: Mapping[str, object] | None = None
    """Keywords that only this class takes."""


def render(header: Header, pool: Pool, command: str) -> str:
    """The script of one job whose nodes each have the pool's shape."""
    import dask_jobqueue

    _isolate()
    options = header.options
    keywords: dict[str, Any] = {
        "name": header.name,
        "job_name": header.name,
        "config_name": SECTION,
        "cores": pool.cores,
        "memory": f"{pool.memory_gib:.6f} GiB",
        "processes": 1,
        "nanny": False,
        "shebang": "#!/bin/sh",
        "job_extra_directives": header.directives,
        "job_directives_skip": header.skip,
        **(header.more or {}),
    }
    if header.job != "HTCondorJob":
        keywords |= {"queue": options.partition or None, "walltime": options.time or None}
    job = getattr(dask_jobqueue, header.job.replace("Job", "Cluster")).job_cls(**keywords)
    job._command_template = command
    return str(job.job_script())


def slurm_command(script: str, *, places: Sequence[int], cores: int, log: str = "") -> str:
    """Starts `script` once on each node of an allocation, every one as a step of its own.

    So that one may be ended while the others go on; the allocation ends with the last of them.
    The script travels in the environment, which only its owner may read, not on a command line.

    :param places: of the nodes in their gang.
    :param log: prefix of the files that the job and its nodes write to; empty: nowhere.
    """
    return _STEPS.format(
        script=shlex.quote(script),
        log=shlex.quote(log),
        places=" ".join(map(str, places)),
        cores=cores,
    )


_STEPS = """\
# Started again by the site: these nodes were given up when they were lost.
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || exit 75
log={log}
log_to() {{ {{ [ -n "$log" ] && : >>"$1"; }} 2>/dev/null && echo "$1" || echo /dev/null; }}
exec >>"$(log_to "$log-$SLURM_JOB_ID.log")" 2>&1
SCSCHED_BOOTSTRAP={script}
export SCSCHED_BOOTSTRAP
trap : TERM
# A session of its own: a signal to this script is for this script. A file of its own: a step
# whose output goes through srun lasts as long as anybody holds it open.
position=0
for place in {places}; do
  SCSCHED_INDEX=$place SCSCHED_OUT=$log-$SLURM_JOB_ID-$place.log SCSCHED_LOGS=$log \
  setsid srun --nodes=1 --ntasks=1 --relative="$position" --exact \
    --cpus-per-task={cores} --cpu-bind=none --mpi=none --job-name="m$place" --export=ALL \
    --input=none --immediate=60 /bin/sh -c '
      {{ [ -n "$SCSCHED_LOGS" ] && : >>"$SCSCHED_OUT"; }} 2>/dev/null || SCSCHED_OUT=/dev/null
      exec >>"$SCSCHED_OUT" 2>&1
      script=$SCSCHED_BOOTSTRAP
      unset SCSCHED_BOOTSTRAP SCSCHED_OUT SCSCHED_LOGS
      eval "$script"' &
  position=$((position + 1))
done
until wait; do :; done
# srun may give up on a step that still has time to end.
steps_left() {{
  steps=$(squeue --noheader --steps --jobs="$SLURM_JOB_ID" --format=%i) || return 0
  case $steps in *.[0-9]*) return 0 ;; esac
  return 1
}}
while steps_left; do sleep 1; done
"""


@cache
def _isolate() -> None:
    import dask

    empty: dict[str, object] = {**dict.fromkeys(_KEYS), **{key: [] for key in _LISTS}}
    empty |= {"worker-command": "true", "shebang": "#!/bin/sh"}
    dask.config.set({f"jobqueue.{SECTION}": empty})
