"""Environment tags that every process of ours inherits, and the environment it starts with."""

import os
from collections.abc import Mapping

DEPLOYMENT = "SCSCHED_DEPLOYMENT"
NODE = "SCSCHED_NODE"
NODE_TOKEN = "SCSCHED_NODE_TOKEN"  # noqa: S105 - a name, not a secret
RUN = "SCSCHED_RUN"
DRIVER = "SCSCHED_DRIVER"
"""Token of a workflow's driver."""
MPI = "SCSCHED_MPI"
"""One call of mpirun: its daemons and ranks on every node."""
GANG = "SCSCHED_GANG"
"""Path of gang.json, read by our mpirun."""
SCRATCH = "SCSCHED_SCRATCH"

GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""What a batch system says of the GPUs that are a job's on this machine; another's are others."""

_KEPT = frozenset({"SCSCHED_LOG", "PATH", "LANG", "LANGUAGE", "TZ", "LD_LIBRARY_PATH"})
_MPI_PREFIXES = ("OMPI_", "PMIX_", "PRTE_", "PMI_")


def allowed(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of `environ` that nodes may inherit: where programs are and how text is spelled."""
    return {k: v for k, v in environ.items() if k in _KEPT or k.startswith("LC_")}


def without_mpi(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without what an outer MPI run left in it: mpirun would obey it."""
    return {k: v for k, v in environ.items() if not k.startswith(_MPI_PREFIXES)}


def without_gpus(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without which GPUs another node may use."""
    return {k: v for k, v in environ.items() if k not in GPUS}
