"""A real Slurm of two nodes on this machine; its node processes wait for a desk that is silent."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from scsched.cluster import processes, tags
from scsched.cluster.batch import slurm
from scsched.cluster.provider import Desk
from tests.contract.providers import MakeSubject, Subject, pool_of_two
from tests.slurm import box as slurm_box
from tests.slurm.box import Box


@contextmanager
def opened(directory: Path) -> Iterator[MakeSubject]:
    if why := slurm_box.missing():
        pytest.skip(why)
    with slurm_box.running() as box:
        yield partial(_subject, box)


@contextmanager
def _subject(box: Box, directory: Path, deployment: str) -> Iterator[Subject]:
    pool = pool_of_two(remote=True, options={"partition": "spot"})
    table = {
        "kind": "slurm",
        "python": sys.executable,
        "scratch": str(directory / "scratch"),
        "conf": str(box.conf),
    }
    make = partial(slurm.from_config, "home", table, deployment=deployment, pools=[pool])
    provider = make()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield Subject(
            provider=provider,
            again=make,
            pool=pool,
            desk=Desk(f"127.0.0.1:{silent.getsockname()[1]}", "0" * 64),
            patience_s=20.0,
        )
        provider.terminate([node.token for node in provider.list()])
        box.cancel_all()
    assert processes.find({tags.DEPLOYMENT: deployment}) == []
