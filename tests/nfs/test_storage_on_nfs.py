"""The storage check and watch over a real NFS, whose server is stopped, killed and filled up."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scsched.cluster.storage_look import TOKEN
from tests.nfs import places
from tests.nfs.conftest import Shared
from tests.nfs.export import NfsExport, missing, until
from tests.nfs.places import Place, switch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"no NFS in user space: {missing()}"),
]
PROGRAM = Path(__file__).with_name("on_host.py")
STALL_S = 2.0
STOPPED_S = 6.0


def argv(what: str, *words: str) -> list[str]:
    return [sys.executable, "-I", str(PROGRAM), what, *words]


def checked(place: Place, folder: Path, **terms: object) -> dict[str, Any]:
    wanted = {"folder": str(folder), "token": "t1", "timeout_s": 10.0, **terms}
    found: dict[str, Any] = json.loads(place.run(*argv("check", json.dumps(wanted))))
    return found


@contextlib.contextmanager
def running(place: Place, out: Path, what: str, *words: str) -> Iterator[Path]:
    out.unlink(missing_ok=True)
    process = place.start(*argv(what, *words), out=out)
    try:
        yield out
    finally:
        places.end(process)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def folder(shared: Shared, request: pytest.FixtureRequest) -> Path:
    """A folder of this test on the storage, with the token that host a has written."""
    made = shared.path / str(request.node.name)
    shared.a.run("mkdir", str(made))
    shared.a.run("sh", "-c", 'echo t1 > "$1"', "sh", str(made / TOKEN))
    return made


def test_the_check_passes_on_every_host(shared: Shared, folder: Path) -> None:
    for place in (shared.a, shared.b):
        found = checked(place, folder, mount=str(shared.path), fstype="nfs", floor_mib_per_s=0.5)
        assert found["word"] == "ok", found["problem"]
        assert found["on"] == f"fuse.nfs on {shared.export.source}"
        assert found["mib_per_s"] > 0.5
        assert found["total"] > found["free"] > 0
    left = [path.name for path in (shared.disk / folder.name).iterdir()]
    assert left == [TOKEN]


def test_another_file_system_at_the_same_path_is_caught(shared: Shared, folder: Path) -> None:
    stranger = shared.hosts.place()
    stranger.run("mount", "-t", "tmpfs", "tmpfs", str(shared.path))
    found = checked(stranger, folder, timeout_s=1.0)
    assert found["word"] == "foreign"
    assert "no token of the driver" in found["problem"]
    stranger.run("mkdir", str(folder))
    stranger.run("sh", "-c", 'echo t2 > "$1"', "sh", str(folder / TOKEN))
    found = checked(stranger, folder)
    assert found["word"] == "foreign"
    assert "but tmpfs on tmpfs" in found["problem"]
    bare = shared.hosts.place()
    found = checked(bare, folder, mount=str(shared.path), fstype="nfs4")
    assert found["word"] == "unmounted"


def test_a_server_that_stops_is_a_stall_and_nothing_is_lost(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    with (
        running(shared.a, tmp_path / "w", "write", str(folder / "log")) as written,
        running(shared.b, tmp_path / "b", "watch", str(folder), str(STALL_S)) as said,
        contextlib.ExitStack() as stack,
    ):
        until(lambda: lines(written) and lines(said) == ["ok"], "no first words")
        shared.export.pause()
        start = time.monotonic()
        try:
            until(lambda: lines(said) == ["ok", "stalled"], "the stall is not seen")
            seen_s = time.monotonic() - start
            wanted = {"folder": str(folder), "token": "t1", "timeout_s": 1.0}
            # Its thread hangs, so this process can end only when the server is back.
            late = running(shared.b, tmp_path / "c", "check", json.dumps(wanted))
            answer = stack.enter_context(late)
            until(lambda: lines(answer), "the check does not give up")
            found = json.loads(lines(answer)[0])
            until(lambda: time.monotonic() - start > STOPPED_S, "time stands still")
            before = len(lines(written))
        finally:
            shared.export.resume()
        assert STALL_S - 0.5 < seen_s < STALL_S + 20.0
        assert found["word"] == "stalled"
        assert "does not answer: no answer for 1 s, looking at the mounts;" in found["problem"]
        until(lambda: lines(said) == ["ok", "stalled", "ok"], "the end is not seen")
        until(lambda: len(lines(written)) > before + 5, "the writer does not go on")
    _nothing_lost(shared, folder, written)
    assert checked(shared.b, folder)["word"] == "ok"


def test_a_server_killed_and_started_again_loses_nothing(
    shared: Shared, folder: Path, tmp_path: Path
) -> None:
    with (
        running(shared.a, tmp_path / "w", "write", str(folder / "log")) as written,
        running(shared.b, tmp_path / "b", "watch", str(folder), str(STALL_S)) as said,
    ):
        until(lambda: lines(written) and lines(said) == ["ok"], "no first words")
        shared.export.kill()
        until(lambda: lines(said) == ["ok", "stalled"], "the stall is not seen")
        before = len(lines(written))
        shared.export.start()
        until(lambda: lines(said) == ["ok", "stalled", "ok"], "the end is not seen")
        until(lambda: len(lines(written)) > before + 5, "the writer does not go on")
    _nothing_lost(shared, folder, written)


def _nothing_lost(shared: Shared, folder: Path, written: Path) -> None:
    """All that the writer was told to be on the server's disk is there."""
    on_disk = (shared.disk / folder.name / "log").read_text().splitlines()
    told = [line for line in lines(written) if line.isdecimal()]
    assert len(told) > 5
    assert told == lines(written), "an error was said"
    assert on_disk[: len(told)] == told


def test_a_full_disk_is_told_and_an_emptied_one_is_well(tmp_path: Path) -> None:
    image, disk, path = tmp_path / "image", tmp_path / "disk", tmp_path / "shared"
    disk.mkdir()
    with switch() as hosts:
        server, a, b = hosts.place(), hosts.place(), hosts.place()
        places.run("truncate", "--size=16M", str(image))
        places.run("mkfs.ext4", "-q", "-m", "0", str(image))
        server.run("mount", "-o", "loop", str(image), str(disk))
        with (
            NfsExport(server, disk, tmp_path / "work") as export,
            export.mount_in(a, str(path)),
            export.mount_in(b, str(path)),
        ):
            a.run("sh", "-c", 'echo t1 > "$1"', "sh", str(path / TOKEN))
            found = checked(b, path, min_free_gib=1.0)
            assert found["word"] == "full"
            assert "has 0.0 GiB free, 1 wanted" in found["problem"]
            with running(b, tmp_path / "b", "watch", str(path), str(STALL_S)) as said:
                until(lambda: lines(said) == ["ok"], "no first word")
                fill = ("dd", "if=/dev/urandom", f"of={path / 'big'}", "bs=4k", "count=8k")
                done = subprocess.run(a.argv(*fill), capture_output=True, timeout=60, check=False)
                assert b"No space left" in done.stderr
                until(lambda: lines(said) == ["ok", "full"], "it is not seen to be full")
                assert "No space left on device; remove" in checked(b, path)["problem"]
                a.run("rm", str(path / "big"))
                until(lambda: lines(said) == ["ok", "full", "ok"], "it is not seen to be well")
            assert checked(b, path)["word"] == "ok"
        server.run("umount", str(disk))


def test_a_mount_that_the_server_no_longer_knows_is_stale_and_another_is_well(
    tmp_path: Path,
) -> None:
    disk, path, other = tmp_path / "disk", tmp_path / "shared", tmp_path / "other"
    disk.mkdir()
    (disk / TOKEN).write_text("t1\n")
    with switch() as hosts:
        server, a = hosts.place(), hosts.place()
        with (
            NfsExport(server, disk, tmp_path / "work") as export,
            export.mount_in(a, str(path)),
            export.mount_in(a, str(other), source=export.twin),
            running(a, tmp_path / "w", "watch", str(path), str(STALL_S)) as said,
        ):
            until(lambda: lines(said) == ["ok"], "no first word")
            export.export_anew()
            until(lambda: lines(said) == ["ok", "stale"], "it is not seen to be stale")
            found = checked(a, path)
            assert found["word"] == "stale"
            assert found["problem"].endswith("Stale file handle; unmount it and mount it again")
            assert checked(a, other)["word"] == "ok"
