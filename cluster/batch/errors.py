"""What a batch system's commands say when they fail, by what the caller can do about it.

`slurm_errors.tsv` has every message of libslurm 22.05 that a client may print, and a few that its
commands make themselves; see slurm_errno.c of Slurm. What is in no table leaves it open whether
anything was done.
"""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Throttled,
    Unreachable,
)

_CLASSES: Mapping[str, type[ProviderError]] = {
    "no_capacity": NoCapacity,
    "quota": QuotaExceeded,
    "throttled": Throttled,
    "credentials": Credentials,
    "bad_request": BadRequest,
    "unreachable": Unreachable,
}
_REFUSED = "batch job submission failed"
"""The controller has answered, and the answer was no."""
_GONE = ("invalid job id specified", "already completing or completed", "job has already finished")
"""Of a job that is to be ended: it is."""


def of_slurm(program: str, said: str) -> ProviderError:
    """The error that these lines of a failed command mean.

    >>> type(of_slurm("sbatch", "sbatch: error: invalid partition specified: x")).__name__
    'BadRequest'
    """
    line, lower = _last_error(said), said.lower()
    known = [kind for message, kind in known_messages() if message in lower]
    fallback = BadRequest if _REFUSED in lower else Unreachable
    return (known[0] if known else fallback)(f"{program}: {line or 'failed without a word'}")


def is_gone(error: ProviderError) -> bool:
    """Whether it says that the job that was to be ended has ended."""
    return any(words in str(error).lower() for words in _GONE)


@cache
def known_messages() -> Sequence[tuple[str, type[ProviderError]]]:
    """In lower case, the longest first: some are part of others."""
    with (Path(__file__).parent / "slurm_errors.tsv").open(encoding="ascii", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        found = [(row["message"].lower(), _CLASSES[row["class"]]) for row in rows]
    return sorted(found, key=lambda row: -len(row[0]))


def _last_error(said: str) -> str:
    """The line that says most: a command's last complaint, without its own name."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower() or "fatal:" in line.lower()]
    last = (errors or lines or [""])[-1]
    return last.partition(": error: ")[2] or last
