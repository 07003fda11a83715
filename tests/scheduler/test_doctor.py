"""Each check of doctor: what it says when all is well, and the fix when it is not."""

import os
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from scsched.db import engines, migrate
from scsched.scheduler import doctor
from scsched.scheduler.doctor import Check, Verdict
from scsched.steps.errors import StoreError
from tests import postgres
from tests.scheduler import scipion_site as site
from tests.scheduler.served import daemons

NOBODY = 65534


def program(path: Path, says: str = "", code: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(says)}\nexit {code}\n")
    path.chmod(0o755)
    return path


def relion(folder: Path, says: str) -> Path:
    for name in doctor.RELION_PROGRAMS:
        program(folder / name, says)
    return folder


def assert_one_line_fix(check: Check) -> None:
    assert check.fix
    assert "\n" not in check.fix


@pytest.mark.scipion
def test_the_real_scipion_passes() -> None:
    check = doctor.scipion(site.scipion_python())
    assert check.verdict is Verdict.OK
    assert "pwem 3." in check.detail
    assert "relion plugin" in check.detail
    assert doctor.tkinter(site.scipion_python()).verdict is Verdict.OK


def test_no_scipion_is_told_with_its_fix() -> None:
    check = doctor.scipion(None)
    assert (check.verdict, check.fix.split(",")[0]) == (Verdict.FAIL, "scsched setup scipion")
    assert doctor.tkinter(None).verdict is Verdict.FAIL


def test_a_python_without_scipion_names_what_it_lacks() -> None:
    check = doctor.scipion(Path("/usr/bin/python3"))
    assert check.verdict is Verdict.FAIL
    assert "No module named 'pyworkflow'" in check.detail
    assert_one_line_fix(check)


def test_a_scipion_without_the_relion_plugin_is_no_use(tmp_path: Path) -> None:
    python = program(tmp_path / "python", '{"pyworkflow": "3.11.7", "protocols": 80}')
    check = doctor.scipion(python)
    assert (check.verdict, check.fix) == (
        Verdict.FAIL,
        f"{python} -m pip install scipion-em-relion",
    )


def test_a_python_without_tkinter_names_the_package(tmp_path: Path) -> None:
    check = doctor.tkinter(program(tmp_path / "python", code=1))
    assert (check.verdict, check.fix) == (Verdict.FAIL, "sudo apt-get install python3-tk")


def test_a_program_that_hangs_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.2)
    check = doctor.scipion(slow)
    assert check.verdict is Verdict.FAIL
    assert "no answer" in check.detail


@pytest.mark.relion
def test_the_real_relion_passes() -> None:
    assert doctor.relion(site.relion_bin()).verdict is Verdict.OK
    assert doctor.mpi().verdict is Verdict.OK


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        ("RELION version: 3.1.3", Verdict.OK),
        ("RELION version: 5.0.1-commit-12ab", Verdict.OK),
        ("RELION version: 3.0.8", Verdict.FAIL),
        ("bash: illegal instruction", Verdict.WARN),
    ],
)
def test_relions_version_is_read(tmp_path: Path, says: str, verdict: Verdict) -> None:
    assert doctor.relion(relion(tmp_path / "bin", says)).verdict is verdict


def test_missing_relion_programs_are_named(tmp_path: Path) -> None:
    folder = relion(tmp_path / "bin", "RELION version: 3.1.3")
    (folder / "relion_refine_mpi").unlink()
    check = doctor.relion(folder)
    assert check.verdict is Verdict.FAIL
    assert check.detail.endswith("lacks relion_refine_mpi")


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        ("mpirun (Open MPI) 4.1.4", Verdict.OK),
        ("mpirun.real (OpenRTE) 4.1.2", Verdict.OK),
        ("HYDRA build details:", Verdict.WARN),
    ],
)
def test_only_open_mpi_is_what_we_know(tmp_path: Path, says: str, verdict: Verdict) -> None:
    assert doctor.mpi(str(program(tmp_path / "mpirun", says))).verdict is verdict


def test_no_mpirun_names_the_package() -> None:
    assert doctor.mpi("no-such-mpirun").fix == "sudo apt-get install openmpi-bin"


@pytest.mark.parametrize("version", [(3, 10), (3, 14)])
def test_another_python_is_refused(version: tuple[int, int]) -> None:
    assert doctor.own_python(version).verdict is Verdict.FAIL
    assert doctor.own_python((3, 13)).verdict is Verdict.OK


def mounts(path: Path, *lines: str) -> Path:
    path.write_text("rootfs / ext4 rw 0 0\n" + "".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "beegfs", "cifs", "fuse.sshfs"])
def test_a_database_on_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mnt"
    place.mkdir()
    table = mounts(tmp_path / "mounts", f"server:/x {place} {kind} rw 0 0")
    check = doctor.local_state(place / "not" / "there" / "yet", table)
    assert check.verdict is Verdict.FAIL
    assert f"on {kind}" in check.detail
    assert_one_line_fix(check)
    assert doctor.local_state(tmp_path, table).verdict is Verdict.OK


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    place = tmp_path / "my data"
    place.mkdir()
    escaped = str(place).replace(" ", "\\040")
    table = mounts(tmp_path / "mounts", f"server:/x {escaped} nfs4 rw 0 0")
    assert doctor.filesystem(place, table) == "nfs4"


def test_good_storage_passes_and_keeps_nothing(tmp_path: Path) -> None:
    place = tmp_path / "projects"
    database = doctor.database(f"sqlite:///{place}/scsched.db")
    for check in (doctor.storage(place), database, doctor.space("space", place)):
        assert check.verdict is not Verdict.FAIL, check
        assert check.detail
    assert not list(tmp_path.iterdir())


def test_storage_that_cannot_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    check = doctor.storage(tmp_path)
    assert check.verdict is Verdict.FAIL
    assert "no hard links" in check.detail


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    for check in (doctor.storage(Path("/proc/x")), doctor.database("sqlite:////proc/x/y")):
        assert check.verdict is Verdict.FAIL
        assert_one_line_fix(check)


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("postgresql://nobody@127.0.0.1:1/x", "start the server, or correct database"),
        ("mysql://x", "write sqlite:"),
    ],
)
def test_the_database_of_the_configuration_is_what_is_looked_at(url: str, fix: str) -> None:
    check = doctor.database(url)
    assert check.verdict is Verdict.FAIL
    assert fix in check.fix
    assert "SQLite 3" not in check.detail


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database that is empty."""
    if request.param == "sqlite":
        (tmp_path / "scsched.db").touch()
        yield f"sqlite:///{tmp_path}/scsched.db"
    elif why := postgres.missing():
        pytest.skip(why)
    else:
        with postgres.cluster() as server:
            yield server.database()


def test_the_version_of_the_tables_is_told(url: str, tmp_path: Path) -> None:
    check = doctor.database(url)
    assert (check.verdict, "no tables yet" in check.detail) == (Verdict.OK, True)
    migrate.upgrade(url)
    check = doctor.database(url)
    assert check.verdict is Verdict.OK
    assert check.detail.endswith(f"; tables of version {migrate.head()}")
    for version, verdict in (("0001", Verdict.WARN), ("9999", Verdict.FAIL)):
        _mark(url, version)
        check = doctor.database(url)
        assert (check.verdict, f"tables of version {version}" in check.detail) == (verdict, True)
        assert_one_line_fix(check)
    with pytest.raises(StoreError, match="a version that this program does not know"):
        migrate.upgrade(url)
    assert {path.name for path in tmp_path.iterdir()} <= {"scsched.db"}


def _mark(url: str, version: str) -> None:
    engine = engines.writer(engines.parse(url))
    with engine.begin() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
    engine.dispose()


def test_a_file_that_is_no_database_fails(tmp_path: Path) -> None:
    (tmp_path / "scsched.db").write_text("precious" * 999)
    check = doctor.database(f"sqlite:///{tmp_path}/scsched.db")
    assert (check.verdict, "not a database" in check.detail) == (Verdict.FAIL, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_user_of_root_s_broker_is_not_told_to_mend_its_state(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, daemons() as broker:
        os.chown(folder, NOBODY, NOBODY)
        done = broker.scsched("doctor", "--project", folder, uid=NOBODY)
    rows = {row[0]: row[1:] for row in (line.split("\t") for line in done.stdout.splitlines())}
    for name in ("state dir", "database"):
        assert rows[name][0] == "ok"
        assert f"is for root to check, who runs the broker on {broker.state_dir}" in rows[name][1]
    assert rows["projects"][0] == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_this_user_cannot_even_see_is_a_finding(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with daemons() as broker:
        broker.environ = {"SCSCHED_STATE_DIR": f"{tmp_path}/closed/st"}
        done = broker.scsched("doctor", "--project", f"{tmp_path}/closed/p", uid=NOBODY)
        assert done.stdout.count("\tfail\t") >= 2
        assert (done.returncode, done.stderr) == (3, "")
        refused = broker.scsched("doctor", "--config", f"{tmp_path}/closed/c.toml", uid=NOBODY)
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
    assert "c.toml: cannot be read: Permission denied" in refused.stderr


@pytest.mark.parametrize(
    ("free_gib", "verdict"), [(0.5, Verdict.FAIL), (5.0, Verdict.WARN), (50.0, Verdict.OK)]
)
def test_little_space_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_gib: float, verdict: Verdict
) -> None:
    class Usage:
        free = free_gib * doctor.GIB

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    check = doctor.space("space", tmp_path)
    assert check.verdict is verdict
    assert bool(check.fix) == (verdict is not Verdict.OK)


def test_the_whole_examination_names_a_fix_for_all_that_fails(tmp_path: Path) -> None:
    checks = doctor.examine(
        scipion_python=None,
        relion_bin=tmp_path / "nowhere",
        state_dir=tmp_path,
        database_url="postgresql://nobody@127.0.0.1:1/x",
        project_dir=tmp_path,
        mpirun="no-such-mpirun",
    )
    assert len({check.name for check in checks}) == len(checks)
    assert doctor.worst(checks) is Verdict.FAIL
    for check in checks:
        assert bool(check.fix) == (check.verdict is not Verdict.OK)
