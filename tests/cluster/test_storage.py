"""What a node finds of its storage; a pipe without a reader stands in for a server that is gone."""

import asyncio
import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scsched.cluster import mounts, storage
from scsched.cluster.storage_look import TOKEN, Found, Terms, Word
from scsched.steps.errors import ConfigError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, or be another user")
NOBODY = 65534


def looked_at(folder: Path, **terms: object) -> Found:
    wanted = {"folder": str(folder), "token": "t1", "timeout_s": 5.0, **terms}
    return storage.from_json(asyncio.run(storage.check(wanted)))


def with_token(folder: Path, content: str = "t1") -> Path:
    (folder / TOKEN).write_text(f"{content}\n")
    return folder


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture(autouse=True)
def on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCSCHED_NODE", "n7")


def test_a_sound_storage_passes_and_nothing_is_left(tmp_path: Path) -> None:
    found = looked_at(with_token(tmp_path), floor_mib_per_s=0.001)
    assert (found.word, found.problem, found.node) == (Word.OK, "", "n7")
    assert found.free is not None
    assert found.total is not None
    assert 0 < found.free <= found.total
    assert found.mib_per_s > 0
    assert " on " in found.on
    assert names(tmp_path) == [TOKEN]


def test_another_file_system_at_the_same_path_is_found_by_its_token(tmp_path: Path) -> None:
    found = looked_at(with_token(tmp_path, "t2"))
    assert found.word is Word.FOREIGN
    assert "node n7" in found.problem
    assert str(tmp_path) in found.problem
    assert "another token" in found.problem


def test_a_folder_without_the_token_is_not_the_drivers(tmp_path: Path) -> None:
    found = looked_at(tmp_path / "not there", timeout_s=0.4)
    assert found.word is Word.FOREIGN
    assert "no token of the driver" in found.problem


def test_a_token_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    late = threading.Timer(0.3, with_token, [tmp_path])
    late.start()
    assert looked_at(tmp_path).word is Word.OK
    late.join()


def test_a_path_that_is_not_mounted_is_told_with_what_is_there(tmp_path: Path) -> None:
    found = looked_at(with_token(tmp_path), mount=str(tmp_path), fstype="nfs4")
    assert found.word is Word.UNMOUNTED
    assert f"{tmp_path} is not mounted" in found.problem
    there = mounts.of(str(tmp_path))
    assert looked_at(tmp_path, mount=str(tmp_path), fstype=there.fstype).word is Word.OK
    assert looked_at(tmp_path, mount=there.point).word is Word.OK


def test_too_little_space_is_full(tmp_path: Path) -> None:
    found = looked_at(with_token(tmp_path), min_free_gib=1e9)
    assert found.word is Word.FULL
    assert "GiB free, 1e+09 wanted; remove" in found.problem
    assert found.free


def test_a_slow_storage_is_told_with_its_floor(tmp_path: Path) -> None:
    found = looked_at(with_token(tmp_path), floor_mib_per_s=1e9)
    assert found.word is Word.SLOW
    assert "the floor is 1e+09" in found.problem


@needs_root
def test_a_folder_of_somebody_else_is_told_with_the_uid(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with_token(tmp_path)
    libc = ctypes.CDLL(None)
    libc.setfsuid(NOBODY)  # of this thread and of those that it starts
    try:
        found = looked_at(tmp_path)
    finally:
        libc.setfsuid(0)
    assert found.word is Word.BROKEN
    assert "Permission denied; make it writable for uid" in found.problem


@contextmanager
def small_disk(folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir()
    size = ("-o", ",".join(("size=256k", *options)))
    subprocess.run(["mount", "-t", "tmpfs", *size, "tmpfs", str(folder)], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


@needs_root
def test_a_full_disk_is_full_and_a_read_only_one_read_only(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        found = looked_at(with_token(disk))
        assert found.word is Word.FULL
        assert "writing and syncing: No space left on device" in found.problem
        assert names(disk) == [TOKEN]
        remount = ("mount", "-o", "remount,ro", str(disk))
        subprocess.run(remount, check=True, timeout=10)
        found = looked_at(disk)
        assert found.word is Word.READ_ONLY
        assert "mount it read-write" in found.problem


def test_a_storage_that_hangs_is_left_behind_and_not_asked_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / TOKEN)
    start = time.monotonic()
    found = looked_at(tmp_path, timeout_s=0.3)
    assert found.word is Word.STALLED
    assert "does not answer: no answer for 0 s, reading the driver's token" in found.problem
    again = looked_at(tmp_path, timeout_s=0.1)
    assert again.word is Word.STALLED
    assert time.monotonic() - start < 30
    assert len(_waiting()) == 1
    # The server is back: what had hung ends, and the next look is a fresh one.
    (tmp_path / TOKEN).write_text("t1\n")
    for thread in _waiting():
        thread.join(5)
    (tmp_path / TOKEN).unlink()
    assert looked_at(with_token(tmp_path)).word is Word.OK


def test_two_looks_at_one_mount_take_turns(tmp_path: Path) -> None:
    with_token(tmp_path)
    terms = {"folder": str(tmp_path), "token": "t1", "timeout_s": 5.0}

    async def both() -> list[dict[str, object]]:
        return list(await asyncio.gather(storage.check(terms), storage.check(terms)))

    assert [one["word"] for one in asyncio.run(both())] == ["ok", "ok"]


def test_terms_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="see Terms"):
        asyncio.run(storage.check({"folders": "/x"}))
    assert Terms(folder="/x", token="t").timeout_s > 0


def test_the_mount_of_a_path_is_the_deepest_and_the_last() -> None:
    table = (
        "27 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "30 27 0:40 / /shared rw shared:1 - autofs auto rw\n"
        "31 30 0:41 /a\\040b /shared rw shared:2 - nfs4 server:/export\\040one rw,hard\n"
        "32 27 0:42 / /my\\040disk rw - tmpfs tmpfs rw\n"
        "broken line\n"
    )
    assert mounts.of("/shared/p/../q", table) == mounts.Mount(
        "/shared", "nfs4", "server:/export one"
    )
    assert mounts.of("/shared2", table).point == "/"
    assert mounts.of("/my disk/x", table).fstype == "tmpfs"
    assert mounts.of("/my disk/x", "") == mounts.Mount("/")


def _waiting() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("storage ")]
