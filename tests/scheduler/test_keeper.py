"""The keeper, against real Scipion: projects, runs, and what is left after something dies."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scsched.scheduler import scipion_env
from scsched.scheduler.driver import keeper as keepers
from scsched.scheduler.driver.keeper import Finished, Keeper, KeeperError, KeeperLost, Prepared
from tests.scheduler import scipion_site as site

pytestmark = pytest.mark.scipion
MPIRUN = "mpirun --allow-run-as-root --oversubscribe -np %_(JOB_NODES)d %_(COMMAND)s"
RUN_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """As for a driver, but with the plain mpirun and nothing in front of RELION."""
    folder = tmp_path_factory.mktemp("scipion")
    found = scipion_env.prepare(
        folder, scipion_python=site.scipion_python(), relion_bin=site.RELION_BIN
    )
    (folder / "hosts.conf").write_text(scipion_env.hosts_conf(MPIRUN))
    return found | {"RELION_PREPEND": "", "RELION_PREPEND_CPU": ""}


@pytest.fixture(scope="module")
def keeper(environment: dict[str, str]) -> Iterator[Keeper]:
    with Keeper(site.scipion_python(), environment) as found:
        yield found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return tmp_path / 'it\'s a "project"; $(touch x) 100%_(d)'


def run(prepared: Prepared, environment: dict[str, str]) -> int:
    return subprocess.run(
        prepared.argv,
        cwd=prepared.cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=RUN_TIMEOUT_S,
        check=False,
    ).returncode


def make(keeper: Keeper, project: Path, star: Path) -> int:
    ids = keeper.create(
        project=project, name="p", workflow_json=site.document(site.import_step(star))
    )
    return ids["7"]


def run_once(
    keeper: Keeper, environment: dict[str, str], protocol: int, attempt: int = 1
) -> Finished:
    run(keeper.prepare(protocol, attempt=attempt), environment)
    return keeper.finish(protocol)


def wait_until(done: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.002)


def labels(project: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(project / "project.sqlite")) as db:
        rows = db.execute("SELECT label FROM Objects WHERE parent_id IS NULL AND label != ''")
        return [row[0] for row in rows]


def shown(project: Path) -> dict[int, str]:
    """Status of each protocol as project.sqlite has it."""
    query = "SELECT parent_id, value FROM Objects WHERE name GLOB '[0-9]*.status'"
    with contextlib.closing(sqlite3.connect(project / "project.sqlite")) as db:
        return {row[0]: row[1] for row in db.execute(query)}


def as_scipion_shows(project: Path, environment: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Status and label of each box, as Scipion's window reads them, in a process of its own."""
    code = (
        "import json, sys, pyworkflow as pw; from pyworkflow.project import Project\n"
        "p = Project(pw.Config.getDomain(), sys.argv[1]); p.load()\n"
        "r = {r.strId(): (r.getStatus(), r.getRunName()) for r in p.getRuns(checkPids=True)}\n"
        "print(); print(json.dumps(r))"
    )
    done = subprocess.run(
        [str(site.scipion_python()), "-c", code, str(project)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=True,
    )
    rows: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return {step: (status, label) for step, (status, label) in rows.items()}


# ---- making the project ----


def test_it_says_which_scipion_it_is(keeper: Keeper) -> None:
    hello = keeper.hello()
    assert hello["pyworkflow"].startswith("3.")
    assert "relion" in hello["plugins"]
    assert hello["protocols"] > 50


def test_a_project_is_made_once_and_opened_after(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    first = make(keeper, project, site.write_particles(tmp_path / "data"))
    made = (project / "project.sqlite").stat().st_mtime_ns
    assert make(keeper, project, tmp_path / "data" / "particles.star") == first
    assert (project / "project.sqlite").stat().st_mtime_ns == made
    assert not (tmp_path / "x").exists()


def test_labels_arrive_as_they_are(keeper: Keeper, project: Path, tmp_path: Path) -> None:
    label = "a \"label\" with 'quotes', $(touch x), `ticks`;\nand a second line | ü"
    steps = [
        site.import_step(tmp_path / "p.star", label=label),
        site.classify_step("7") | {"object.comment": "why"},
    ]
    keeper.create(project=project, name="p", workflow_json=site.document(*steps))
    assert label in labels(project)
    assert "2D classes" in labels(project)


def test_another_workflow_does_not_get_into_the_project(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    make(keeper, project, tmp_path / "one.star")
    with pytest.raises(KeeperError, match="another workflow") as refused:
        make(keeper, project, tmp_path / "two.star")
    assert refused.value.kind == "foreign"


def test_two_submissions_do_not_share_a_project(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    text = site.document(site.import_step(tmp_path / "p.star"))
    keeper.create(project=project, name="p", workflow_json=text, owner="one/1")
    with pytest.raises(KeeperError, match="another submission"):
        keeper.create(project=project, name="p", workflow_json=text, owner="one/2")


def test_a_submission_may_go_on_in_the_project_of_a_former_one(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    text = site.document(site.import_step(tmp_path / "p.star"))
    ids = keeper.create(project=project, name="p", workflow_json=text, owner="one/1")
    again = keeper.create(project=project, name="p", workflow_json=text, owner="one/2", shared=True)
    assert again == ids


def test_a_project_of_the_users_own_is_left_alone(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    project.mkdir()
    (project / "project.sqlite").write_bytes(b"precious")
    with pytest.raises(KeeperError, match="did not make"):
        make(keeper, project, tmp_path / "p.star")
    assert (project / "project.sqlite").read_bytes() == b"precious"


def test_an_unknown_class_is_refused_before_anything_is_made(
    keeper: Keeper, project: Path, tmp_path: Path
) -> None:
    step = site.import_step(tmp_path / "p.star") | {"object.className": "ProtNobodyHas"}
    with pytest.raises(KeeperError, match="ProtNobodyHas") as refused:
        keeper.create(project=project, name="p", workflow_json=site.document(step))
    assert refused.value.kind == "unknown_class"
    assert not project.exists()


@pytest.mark.parametrize("after_ms", [0, 80])
def test_a_keeper_killed_while_creating_leaves_no_half_project(
    environment: dict[str, str], project: Path, tmp_path: Path, after_ms: int
) -> None:
    steps = [site.import_step(tmp_path / f"{i}.star", step=str(i)) for i in range(1, 41)]
    text = site.document(*steps)
    with subprocess.Popen(
        [str(site.scipion_python()), "-I", str(keepers.SIDE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    ) as dying:
        request = {"id": 1, "op": "create", "project": str(project), "name": "p"}
        assert dying.stdin is not None
        dying.stdin.write(json.dumps(request | {"workflow_json": text}).encode() + b"\n")
        dying.stdin.flush()
        wait_until((project / ".scsched" / "creating").exists)
        time.sleep(after_ms / 1000)
        dying.kill()
    with Keeper(site.scipion_python(), environment) as next_one:
        ids = next_one.create(project=project, name="p", workflow_json=text)
        assert len(set(ids.values())) == 40
        assert sorted(shown(project)) == sorted(ids.values())
    assert not (project / ".scsched" / "creating").exists()


# ---- running a protocol ----


def test_a_protocol_runs_to_outputs_that_are_there(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    protocol = make(keeper, project, site.write_particles(tmp_path / "da ta"))
    assert shown(project) == {protocol: "saved"}
    prepared = keeper.prepare(protocol)
    assert shown(project) == {protocol: "launched"}
    assert prepared.run_db.parent.parent == prepared.job_dir
    assert run(prepared, environment) == 0
    finished = keeper.finish(protocol)
    assert (finished.status, finished.error) == ("finished", "")
    particles = next(out for out in finished.outputs if out.name == "outputParticles")
    assert (particles.items, particles.dims[:2], particles.sampling_a) == (12, (16, 16), 7.0)
    assert "12 items" in finished.summary
    assert shown(project) == {protocol: "finished"}
    assert not (project / "x").exists()


def test_a_map_is_looked_at_as_well(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    volume = site.write_volume(tmp_path / "map.mrc")
    text = site.document(site.volume_step(volume))
    ids = keeper.create(project=project, name="p", workflow_json=text)
    run(keeper.prepare(ids["3"]), environment)
    finished = keeper.finish(ids["3"])
    assert [(out.kind, out.items, out.dims) for out in finished.outputs] == [
        ("Volume", None, (16, 16, 16)),
    ]
    assert finished.error == ""
    volume.write_bytes(volume.read_bytes()[:3000])
    assert "3000 of" in keeper.finish(ids["3"]).error


def test_a_child_sees_what_its_parent_made(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    star = site.write_particles(tmp_path / "data")
    text = site.document(site.classify_step("7"), site.import_step(star))
    ids = keeper.create(project=project, name="p", workflow_json=text)
    assert keeper.inputs(ids["20"]).particles is None
    assert not run_once(keeper, environment, ids["7"]).error
    inputs = keeper.inputs(ids["20"])
    assert (inputs.particles, inputs.box_px, inputs.sampling_a) == (12, 16, 7.0)
    assert inputs.items == {"inputParticles": 12}


@pytest.mark.parametrize(("ranks", "threads"), [(1, 2), (3, 1)])
@pytest.mark.relion
def test_ranks_and_threads_are_the_brokers_and_not_the_files(
    keeper: Keeper,
    environment: dict[str, str],
    project: Path,
    tmp_path: Path,
    ranks: int,
    threads: int,
) -> None:
    site.relion_bin()
    star = site.write_particles(tmp_path / "data")
    text = site.document(site.import_step(star), site.classify_step("7"))
    ids = keeper.create(project=project, name="p", workflow_json=text)
    run_once(keeper, environment, ids["7"])
    prepared = keeper.prepare(ids["20"], ranks=ranks, threads=threads, gpu=False)
    assert run(prepared, environment) == 0
    finished = keeper.finish(ids["20"])
    assert (finished.status, finished.error) == ("finished", "")
    log = prepared.stdout.read_text()
    assert f"--j {threads}" in log
    assert ("relion_refine_mpi" in log) == (ranks > 1)
    assert "--gpu" not in log


def test_a_protocol_that_fails_says_why(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    protocol = make(keeper, project, tmp_path / "missing.star")
    finished = run_once(keeper, environment, protocol)
    assert finished.status == "failed"
    assert "missing.star" in finished.error
    assert shown(project) == {protocol: "failed"}


def test_a_killed_protocol_is_shown_as_failed_and_runs_again(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    protocol = make(keeper, project, site.write_particles(tmp_path / "data"))
    prepared = keeper.prepare(protocol)
    with subprocess.Popen(
        prepared.argv,
        cwd=prepared.cwd,
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: status_in(prepared.run_db) == "running")
        process.send_signal(signal.SIGKILL)
    finished = keeper.finish(protocol)
    assert finished.error == "its process ended while the protocol was running"
    keeper.fail(protocol, "the node was taken back")
    assert shown(project) == {protocol: "failed"}
    assert as_scipion_shows(project, environment) == {str(protocol): ("failed", "Particles")}
    assert not run_once(keeper, environment, protocol, attempt=2).error
    assert shown(project) == {protocol: "finished"}


def status_in(run_db: Path) -> str:
    """What the protocol says of itself in its own database; it may be at it."""
    with contextlib.closing(sqlite3.connect(run_db, timeout=10)) as db:
        query = "SELECT value FROM Objects WHERE name LIKE '%.status'"
        return "".join(row[0] or "" for row in db.execute(query))


def test_a_person_stopping_it_is_told_apart(keeper: Keeper, project: Path, tmp_path: Path) -> None:
    protocol = make(keeper, project, tmp_path / "p.star")
    keeper.fail(protocol, "never ran")
    assert shown(project) == {protocol: "saved"}
    keeper.prepare(protocol)
    keeper.fail(protocol, "cancelled", aborted=True)
    assert shown(project) == {protocol: "aborted"}


def test_outputs_that_are_gone_are_no_success_and_are_made_again(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    star = site.write_particles(tmp_path / "data")
    protocol = make(keeper, project, star)
    prepared = keeper.prepare(protocol)
    run(prepared, environment)
    stack = star.with_name("particles.mrcs")
    whole = stack.read_bytes()
    stack.write_bytes(whole[:-100])
    finished = keeper.finish(protocol)
    assert finished.status == "finished"
    assert f"{len(whole) - 100} of {len(whole)} bytes" in finished.error
    keeper.fail(protocol, finished.error)
    stack.write_bytes(whole)
    assert not run_once(keeper, environment, protocol, attempt=2).error
    assert "nothing to be done" not in prepared.stdout.read_text()


LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("BEGIN EXCLUSIVE")
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """As an NFS server keeps it, for a while, for a node that has vanished."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCK, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.communicate(timeout=10)


def test_a_lock_of_a_node_that_vanished_holds_nothing_up(
    keeper: Keeper,
    environment: dict[str, str],
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keepers, "CALL_TIMEOUT_S", 20.0)
    protocol = make(keeper, project, site.write_particles(tmp_path / "data"))
    prepared = keeper.prepare(protocol)
    run(prepared, environment)
    with locked(prepared.run_db):
        assert not keeper.finish(protocol).error
        keeper.prepare(protocol, attempt=2)
    assert shown(project) == {protocol: "launched"}


EARLY = """#!/bin/sh
# What a resume gone wrong looks like: RELION ends well, an iteration short.
exec sh -c "$(printf '%s ' "$@" | sed 's/--iter 2/--iter 1/')"
"""


@pytest.mark.relion
def test_classes_of_an_earlier_iteration_are_no_success(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    site.relion_bin()
    star = site.write_particles(tmp_path / "data")
    text = site.document(site.import_step(star), site.classify_step("7", iterations=2))
    ids = keeper.create(project=project, name="p", workflow_json=text)
    run_once(keeper, environment, ids["7"])
    early = tmp_path / "early"
    early.write_text(EARLY)
    early.chmod(0o755)
    prepared = keeper.prepare(ids["20"], ranks=1, threads=1, gpu=False)
    assert run(prepared, environment | {"RELION_PREPEND_CPU": str(early)}) == 0
    finished = keeper.finish(ids["20"])
    assert finished.status == "finished"
    assert finished.error == "outputClasses: from iteration 1 of 2"
    keeper.fail(ids["20"], finished.error)
    run(keeper.prepare(ids["20"], attempt=2, ranks=1, threads=1, gpu=False), environment)
    assert keeper.finish(ids["20"]).error == ""


def test_protocols_of_one_project_run_side_by_side(
    keeper: Keeper, environment: dict[str, str], project: Path, tmp_path: Path
) -> None:
    star = site.write_particles(tmp_path / "data")
    steps = [site.import_step(star, step=step, label=f"import {step}") for step in "123"]
    ids = keeper.create(project=project, name="p", workflow_json=site.document(*steps))
    processes = [
        subprocess.Popen(
            (prepared := keeper.prepare(protocol)).argv,
            cwd=prepared.cwd,
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for protocol in ids.values()
    ]
    for process, protocol in zip(processes, ids.values(), strict=True):
        assert process.wait(RUN_TIMEOUT_S) == 0
        assert not keeper.finish(protocol).error
    assert as_scipion_shows(project, environment) == {
        str(ids[step]): ("finished", f"import {step}") for step in "123"
    }


# ---- the process itself ----


def test_a_killed_keeper_is_started_again(keeper: Keeper, project: Path, tmp_path: Path) -> None:
    protocol = make(keeper, project, tmp_path / "p.star")
    assert keeper._process is not None
    keeper._process.kill()
    keeper._process.wait(10)
    assert keeper.inputs(protocol).particles is None


def test_a_keeper_that_hangs_is_ended_and_the_call_may_be_repeated(
    environment: dict[str, str], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Keeper(site.scipion_python(), environment) as keeper:
        protocol = make(keeper, project, tmp_path / "p.star")
        hung = keeper._process
        assert hung is not None
        hung.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(keepers, "CALL_TIMEOUT_S", 0.3)
        with pytest.raises(KeeperLost, match="inputs"):
            keeper.inputs(protocol)
        assert hung.poll() is not None
        monkeypatch.setattr(keepers, "CALL_TIMEOUT_S", 60.0)
        assert keeper.inputs(protocol).particles is None


def test_a_python_without_scipion_is_an_error_that_says_so(tmp_path: Path) -> None:
    with (
        Keeper(Path("/usr/bin/python3"), {}, log=tmp_path / "log") as keeper,
        pytest.raises(KeeperError, match=r"pwem|pyworkflow"),
    ):
        keeper.hello()


def test_a_python_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeeperError, match="does not start"):
        Keeper(Path("/nowhere/python"), {}).hello()


def test_an_unknown_protocol_is_an_error(keeper: Keeper, project: Path, tmp_path: Path) -> None:
    make(keeper, project, tmp_path / "p.star")
    with pytest.raises(KeeperError, match="no protocol 9999") as refused:
        keeper.prepare(9999)
    assert refused.value.kind == "not_found"
