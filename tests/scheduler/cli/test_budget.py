"""What the reading verbs may import: a person waits for them."""

import os
import subprocess
import sys

import pytest

from tests.scheduler.cli.peer import Peer

BANNED = (
    "sqlalchemy",
    "alembic",
    "dask",
    "distributed",
    "boto3",
    "botocore",
    "pydantic",
    "fastapi",
    "starlette",
    "uvicorn",
    "numpy",
    "mpi4py",
    "cryptography",
)
VERBS = [
    ["queue"],
    ["queue", "--json"],
    ["queue", "-a", "-s", "RUNNING"],
    ["show", "42"],
    ["show", "42.311"],
    ["why", "42"],
    ["nodes"],
    ["hist"],
    ["receipt", "42"],
    ["wait", "42"],
    ["watch", "42"],
    ["cancel", "42"],
    ["hold", "42"],
    ["--version"],
]


def imported(argv: list[str], **environ: str) -> set[str]:
    """Top-level packages that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "scsched.scheduler.cli.main", *argv],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
        check=False,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert lines, done.stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.fixture
def ended(broker: Peer) -> Peer:
    """42 has ended, so that nothing waits."""
    workflow = broker.answers["GET /v1/workflows/42"]
    assert isinstance(workflow, dict)
    broker.answers["GET /v1/workflows/42"] = {**workflow, "state": "COMPLETED"}
    broker.answers["GET /v1/events"] = {"schema": "scsched/v1", "items": [], "last": 0}
    return broker


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_a_reading_verb_imports_nothing_heavy(argv: list[str], ended: Peer) -> None:
    assert imported(argv) & set(BANNED) == set()


@pytest.mark.parametrize("argv", [["queue"], ["queue", "--json"], ["q", "-a"]], ids=" ".join)
def test_the_plain_queue_needs_neither_typer_nor_rich(argv: list[str], ended: Peer) -> None:
    assert imported(argv) & {"typer", "rich", "dataclasses", "inspect"} == set()


def test_completion_imports_nothing_heavy(ended: Peer) -> None:
    found = imported(
        [], _SCSCHED_COMPLETE="complete_bash", COMP_WORDS="scsched show 4", COMP_CWORD="2"
    )
    assert found & {*BANNED, "rich"} == set()
