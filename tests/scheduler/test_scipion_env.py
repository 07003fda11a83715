"""The environment for Scipion: lines survive its formatting, folders survive a shell."""

import configparser
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scsched.scheduler import scipion_env
from scsched.steps.errors import ConfigError

SHOW = "#!/bin/sh\nexec '{python}' -c 'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n"
NAMES = ["plain", "with space", "it's", 'a "quote"', "100%", "%_(COMMAND)s", "%(d)", "$HOME;x", "~"]


@pytest.fixture(params=NAMES)
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A program that shows its arguments, in a folder with a name from real life."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    program = folder / "python"
    program.write_text(SHOW.format(python=sys.executable))
    program.chmod(0o755)
    return program


def through_scipion(line: str, **context: object) -> str:
    """PARALLEL_COMMAND as pyworkflow reads and formats it (protocol/hosts.py, utils/process.py)."""
    parser = configparser.RawConfigParser(comment_prefixes=";")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(scipion_env.hosts_conf(line))
    return parser.get("localhost", "PARALLEL_COMMAND").replace("%_(", "%(") % context


def shown_by_shell(line: str) -> list[str]:
    done = subprocess.run(
        ["/bin/sh", "-c", line], capture_output=True, text=True, timeout=30, check=True
    )
    found: list[str] = json.loads(done.stdout)
    return found


def test_mpirun_arrives_whole(python: Path) -> None:
    line = scipion_env.mpirun_command(python)
    shell = through_scipion(line, JOB_NODES=3, COMMAND=" relion_refine_mpi --o 'a b'")
    assert shown_by_shell(shell) == [
        *("-I", "-m", "scsched.cluster.mpirun", "-np", "3", "relion_refine_mpi", "--o", "a b"),
    ]


def test_the_launcher_arrives_whole(python: Path) -> None:
    line = f"{scipion_env.launcher_command(python)} relion_refine --j 2"
    assert shown_by_shell(line) == [
        "-I",
        "-m",
        "scsched.cluster.launcher",
        "relion_refine",
        "--j",
        "2",
    ]


def fake_relion(folder: Path, says: str = "RELION version: 3.1.3 \n") -> Path:
    folder.mkdir(parents=True)
    for name in ("relion_refine", "relion_refine_mpi", "other"):
        program = folder / name
        program.write_text(f"#!/bin/sh\nprintf %s {shlex.quote(says)}\n")
        program.chmod(0o755)
    return folder


def prepare(folder: Path, relion_bin: Path) -> dict[str, str]:
    return scipion_env.prepare(
        folder, scipion_python=Path("/opt/scipion/python"), relion_bin=relion_bin
    )


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("RELION version: 3.1.3 \nPrecision: BASE=double", "3.1"),
        ("RELION version: 4.0.1-commit-ab", "4.0"),
        ("RELION version: 5.0.0", "5.0"),
        ("segmentation fault", "3.1"),
    ],
)
def test_relions_folder_is_named_by_its_version(tmp_path: Path, says: str, version: str) -> None:
    found = prepare(tmp_path / "env", fake_relion(tmp_path / "bin", says))
    home = Path(found["RELION_HOME"])
    assert home.name == f"relion-{version}"
    assert sorted(link.name for link in (home / "bin").iterdir()) == [
        *("relion_refine", "relion_refine_mpi"),
    ]


def test_a_repeat_changes_nothing(tmp_path: Path) -> None:
    relion = fake_relion(tmp_path / "bin")
    first = prepare(tmp_path / "env", relion)
    hosts = tmp_path / "env" / "hosts.conf"
    written = hosts.stat().st_mtime_ns
    assert prepare(tmp_path / "env", relion) == first
    assert hosts.stat().st_mtime_ns == written


def test_a_link_to_a_relion_that_moved_is_made_anew(tmp_path: Path) -> None:
    prepare(tmp_path / "env", fake_relion(tmp_path / "old"))
    (tmp_path / "old" / "relion_refine_mpi").unlink()
    found = prepare(tmp_path / "env", fake_relion(tmp_path / "new"))
    link = Path(found["RELION_HOME"]) / "bin" / "relion_refine_mpi"
    assert link.resolve() == tmp_path / "new" / "relion_refine_mpi"


def test_a_folder_that_a_shell_would_split_gets_no_links(tmp_path: Path) -> None:
    relion = fake_relion(tmp_path / "bin")
    found = prepare(tmp_path / "with space", relion)
    assert not list((Path(found["RELION_HOME"]) / "bin").iterdir())
    assert found["PATH"].split(os.pathsep)[0] == str(relion)


@pytest.mark.parametrize("name", ["$HOME", "two\nlines"])
def test_a_folder_that_scipion_would_expand_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot use a folder"):
        prepare(tmp_path / name, tmp_path)


def test_the_path_keeps_its_order_where_relion_is_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relion = fake_relion(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"/first:{relion}")
    assert prepare(tmp_path / "env", relion)["PATH"] == f"/first:{relion}"


def test_what_would_lead_scipion_astray_is_switched_off(tmp_path: Path) -> None:
    found = prepare(tmp_path / "env", fake_relion(tmp_path / "bin"))
    assert found["SCIPION_SCRATCH"] == found["PYTHONPATH"] == found["PYTHONHOME"] == ""
    assert found["RELION_PREPEND"] == found["RELION_PREPEND_CPU"]
