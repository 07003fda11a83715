"""What is left over is removed, and nothing that is in use or of somebody else."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsched.cluster import leftovers, rundir

_HOLDER = """\
import signal, sys
from scsched.cluster import leftovers
print(leftovers.make(sys.argv[1], "n1"), flush=True)
signal.pause()
"""
UID = os.geteuid()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where nodes have their directories, but those of others on this machine."""
    for name in ("tmp", "shm"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(rundir, "_ROOT", tmp_path / "tmp")
    monkeypatch.setattr(rundir, "_SHM", tmp_path / "shm")
    return tmp_path


@pytest.fixture
def killed(deployment: str) -> Iterator[Path]:
    """The directory of a node that was killed, among those of all nodes of this machine."""
    argv = [sys.executable, "-c", _HOLDER, deployment]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        path = Path(holder.stdout.readline().strip())
        assert path.is_dir()
        assert path not in leftovers.sweep()
        assert path.is_dir()
        holder.send_signal(signal.SIGKILL)
    yield path
    rundir.remove(UID, deployment, "n1")


def test_a_directory_is_left_alone_until_its_node_is_gone(killed: Path, deployment: str) -> None:
    (killed / "tls").mkdir()
    (killed / "tls" / "key.pem").touch()
    shm = rundir.shm_dir(UID, deployment, "n1")
    assert {killed, shm} <= set(leftovers.sweep())
    assert not killed.exists()
    assert not shm.exists()


def test_what_no_node_of_ours_has_marked_stays(places: Path) -> None:
    unmarked = rundir.make("d", "n1")
    strange = places / "shm" / f"scsched-{UID}-notes"
    strange.touch()
    assert leftovers.sweep() == ()
    assert unmarked.is_dir()
    assert strange.exists()


@pytest.mark.skipif(UID != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_stays(places: Path) -> None:
    rundir.private(rundir.root(UID))
    planted = places / "shm" / f"scsched-{UID}-planted"
    planted.mkdir()
    (planted / leftovers.MARK).touch()
    os.chown(planted, 12345, 12345)
    link = places / "shm" / f"scsched-{UID}-link"
    link.symlink_to(planted)
    assert leftovers.sweep() == ()
    assert (planted / leftovers.MARK).exists()


def test_one_that_is_shared_lasts_as_long_as_the_last_of_its_users(places: Path) -> None:
    path = rundir.shm_dir(UID, "d", "lead")
    users = [leftovers.share(path) for _ in range(2)]
    os.close(users.pop())
    assert leftovers.sweep() == ()
    os.close(users.pop())
    assert leftovers.sweep() == (path,)


def test_a_batch_nodes_directory_stays_while_its_script_or_its_node_lives(places: Path) -> None:
    rundir.private(rundir.root(UID))
    gone = subprocess.Popen(["true"])
    gone.wait()
    work = places / "work"
    pids = {"starting": os.getpid(), "running": gone.pid, "killed": gone.pid, "never": gone.pid}
    for name, pid in pids.items():
        (work / name).mkdir(parents=True)
        (work / name / "pid").write_text(f"{pid}\n")
    (work / "mine").mkdir()
    held = leftovers.hold(work / "running")
    os.close(leftovers.hold(work / "killed"))
    assert set(leftovers.sweep(work)) == {work / "killed", work / "never"}
    assert {path.name for path in work.iterdir()} == {"starting", "running", "mine"}
    os.close(held)


def test_a_sweeper_that_is_held_up_keeps_no_node_from_starting(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_PATIENCE_S", 0.1)
    rundir.private(rundir.root(UID))
    with leftovers._alone(rundir.root(UID), 0.0) as alone:
        assert alone
        assert leftovers.make("d", "n1").is_dir()
        assert leftovers.sweep() == ()
