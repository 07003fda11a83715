"""What doctor says of this host where nodes are other machines."""

import os
from pathlib import Path

import pytest

from scsched.cluster.health import Finding
from scsched.scheduler import home
from scsched.scheduler.config import NetworkConfig, Settings
from scsched.scheduler.config_pools import PoolConfig, StorageConfig

ELSEWHERE = "192.0.2.1"
"""For documentation: nobody has it (RFC 5737)."""


def found(tmp_path: Path, *, address: str = "127.0.0.1", **storage: object) -> dict[str, Finding]:
    settings = Settings(
        state_dir=tmp_path / "state",
        network=NetworkConfig(address=address),
        provider={"home": {"kind": "slurm", "python": "/p"}},
        storage={"shared": StorageConfig.model_validate({"path": str(tmp_path), **storage}),
                 "unused": StorageConfig(path="/nowhere")},
        pool=(PoolConfig(name="a", provider="home", storage="shared"),),
    )  # fmt: skip
    return {one.name: one for one in home.findings(settings)}


def test_storage_that_is_here_and_has_room_is_well(tmp_path: Path) -> None:
    findings = found(tmp_path, min_free_gib=0.001)
    assert list(findings) == ["address", "free space", "storage"]
    assert findings["free space"].ok
    assert findings["storage"].ok
    assert list(tmp_path.iterdir()) == []


def test_storage_with_too_little_room_takes_no_work(tmp_path: Path) -> None:
    full = found(tmp_path, min_free_gib=1e9)["free space"]
    assert not full.ok
    assert "GiB free, 1e+09 wanted" in full.sentence
    assert full.hint


def test_storage_that_is_not_mounted_here_is_told(tmp_path: Path) -> None:
    missing = found(tmp_path, path=str(tmp_path / "none"))["storage"]
    assert not missing.ok
    assert "there is no" in missing.sentence


def test_storage_whose_top_is_closed_to_us_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    closed = found(tmp_path, min_free_gib=0)["storage"]
    assert closed.ok
    assert "not writable for us" in closed.sentence


@pytest.mark.parametrize(("address", "word"), [("127.0.0.1", "loopback"), (ELSEWHERE, "not an address of this host")])  # fmt: skip  # noqa: E501
def test_an_address_that_no_node_reaches_is_no_address(
    tmp_path: Path, address: str, word: str
) -> None:
    wrong = found(tmp_path, address=address)["address"]
    assert not wrong.ok
    assert word in wrong.sentence
    assert "network.address" in wrong.hint
