"""Every message of Slurm has a meaning for the caller."""

import csv
import ctypes
from pathlib import Path

import pytest

from scsched.cluster.batch import errors
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Throttled,
    Unreachable,
)

LIBRARIES = sorted(Path("/usr/lib").glob("*/slurm-wlm/libslurmfull.so"))
CODES = (*range(1000, 1900), *range(2000, 3000), *range(5000, 7001))
"""Of the protocol, of the controller, of sockets and of credentials; see slurm_errno.h."""


def classify(said: str, program: str = "sbatch") -> type[ProviderError]:
    return type(errors.of_slurm(program, said))


@pytest.mark.skipif(not LIBRARIES, reason="libslurmfull is not installed")
def test_no_message_of_libslurm_is_missing_from_the_table() -> None:
    library = ctypes.CDLL(str(LIBRARIES[0]))
    library.slurm_strerror.restype = ctypes.c_char_p
    said = {code: library.slurm_strerror(code).decode() for code in CODES}
    known = {message for message, _ in errors.known_messages()}
    missing = {
        code: text
        for code, text in said.items()
        if not text.startswith("Unknown") and text.lower() not in known
    }
    assert len(said) - sum(text.startswith("Unknown") for text in said.values()) > 100
    assert not missing


def test_the_table_names_each_message_once() -> None:
    messages = [message for message, _ in errors.known_messages()]
    assert len(messages) == len(set(messages))
    path = Path(errors.__file__).with_name("slurm_errors.tsv")
    lines = path.read_text(encoding="ascii").splitlines()
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert {len(row) for row in rows} == {2}


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("sbatch: error: invalid partition specified: nosuch", BadRequest),
        ("sbatch: error: Batch job submission failed: Partition in DOWN state", NoCapacity),
        (
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: "
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            QuotaExceeded,
        ),
        ("sbatch: error: Batch job submission failed: Unable to contact slurm controller "
         "(connect failure)", Unreachable),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
         Unreachable),
        ("sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
         Unreachable),
        ("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", Throttled),
        ('sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge '
         'encode failed: Failed to access "/run/munge/munge.socket.2"', Credentials),
        ("sbatch: error: Batch job submission failed: Protocol authentication error", Credentials),
        ("sbatch: error: Batch job submission failed: User's group not permitted to use this "
         "partition", Credentials),
        ("sbatch: error: Batch job submission failed: A word of a later Slurm", BadRequest),
        ("sbatch: error: A word of a later Slurm", Unreachable),
        ("Partition nosuch not found", BadRequest),
        ("", Unreachable),
    ],
)  # fmt: skip
def test_what_slurm_says_has_a_meaning(said: str, meaning: type[ProviderError]) -> None:
    assert classify(said) is meaning


def test_the_message_has_the_program_and_its_last_complaint() -> None:
    said = (
        "sbatch: warning: x\nsbatch: error: first\nsbatch: error: Batch job submission failed: no"
    )
    assert str(errors.of_slurm("sbatch", said)) == "sbatch: Batch job submission failed: no"


def test_a_job_that_is_gone_is_ended() -> None:
    gone = "scancel: error: Kill job error on job id 4: Invalid job id specified"
    assert errors.is_gone(errors.of_slurm("scancel", gone))
    denied = "scancel: error: Kill job error on job id 4: Access/permission denied"
    assert not errors.is_gone(errors.of_slurm("scancel", denied))
