"""Keys of one workflow open that workflow's cluster, and nothing else."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from distributed import Client

from scsched.cluster import tls
from scsched.cluster.dask_cluster import start_scheduler
from scsched.steps.errors import ConfigError

NOW = datetime.now(UTC)


def test_only_the_submitter_can_read_the_keys(tmp_path: Path) -> None:
    tls.make(tmp_path / "tls", now=NOW)
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "tls").iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert not [file for file in files if "ca-key" in file.name]


def test_making_keys_again_keeps_them(tmp_path: Path) -> None:
    tls.make(tmp_path / "tls", now=NOW)
    before = (tmp_path / "tls" / "worker-key.pem").read_bytes()
    tls.make(tmp_path / "tls", now=NOW)
    assert (tmp_path / "tls" / "worker-key.pem").read_bytes() == before


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir(mode=0o755)
    with pytest.raises(ConfigError, match="is not a directory that only uid"):
        tls.make(tmp_path / "tls", now=NOW)


def test_without_keys_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no keys"):
        tls.security(tmp_path)


def test_keys_of_another_workflow_are_refused(tmp_path: Path) -> None:
    tls.make(tmp_path / "one", now=NOW)
    tls.make(tmp_path / "two", now=NOW)

    async def knock() -> None:
        async with start_scheduler(tmp_path / "one") as cluster:
            security = tls.security(tmp_path / "two")
            with pytest.raises(OSError):
                await Client(cluster.address, security=security, asynchronous=True, timeout=2)  # type: ignore[no-untyped-call]

    asyncio.run(knock())


def test_nothing_of_a_scheduler_listens_without_tls(tmp_path: Path) -> None:
    tls.make(tmp_path / "tls", now=NOW)

    async def listen() -> tuple[str, bool]:
        async with start_scheduler(tmp_path / "tls") as cluster:
            return cluster.address, hasattr(cluster._scheduler, "http_server")

    address, pages = asyncio.run(listen())
    assert address.startswith("tls://127.0.0.1:")
    assert not pages
