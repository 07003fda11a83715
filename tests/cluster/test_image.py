"""The recipe for an image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scsched.cluster import registry
from scsched.steps.errors import ConfigError
from tests.cluster.ec2.rig import PLAIN
from tests.openstack.options import OPTIONS

TABLES = {"ec2": {**PLAIN, "kind": "ec2"}, "openstack": {**OPTIONS, "kind": "openstack"}}


SCIPION = "/opt/scsched/.scipion/venv/bin/python"


def recipe(kind: str = "ec2", scipion: str = SCIPION, **changes: object) -> str:
    table = {**TABLES[kind], **changes}
    make = registry.optional({"lab": table}, "lab", "image_recipe")
    return str(make("lab", table, scipion_python=scipion))


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_it_is_a_script_for_sh(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "image.sh"
    script.write_text(recipe(scipion="/srv/it's a $(place)/venv/bin/python"))
    done = subprocess.run([program, "-n", script], capture_output=True, timeout=10, check=False)
    assert done.stderr == b""
    assert done.returncode == 0


def test_it_does_nothing_where_it_must_not(tmp_path: Path) -> None:
    """Without a wheel it stops before its first command that changes anything."""
    script = tmp_path / "image.sh"
    script.write_text(recipe())
    done = subprocess.run(
        ["/bin/sh", script],
        capture_output=True,
        text=True,
        timeout=10,
        env={"PATH": ""},
        check=False,
    )
    assert done.returncode != 0
    assert "name the wheel" in done.stderr


def test_a_wheel_that_is_not_there_is_named_before_anything_is_changed(tmp_path: Path) -> None:
    script = tmp_path / "bake.sh"
    script.write_text(recipe())
    environ = {"PATH": "", "SCSCHED": "./away.whl"}
    done = subprocess.run(
        ["/bin/sh", script], capture_output=True, text=True, timeout=10, env=environ, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "image: ./away.whl: no such file; name the wheel\n"


@pytest.mark.parametrize("kind", TABLES)
def test_scsched_goes_where_the_site_expects_it(kind: str) -> None:
    assert "environment=/srv/s\n" in recipe(kind, python="/srv/s/bin/python")


@pytest.mark.parametrize("kind", TABLES)
def test_scipion_goes_where_nodes_are_told_to_find_it(kind: str, tmp_path: Path) -> None:
    """The head of the script as a shell reads it, names that need quotes included."""
    python = "/srv/it's a $(place)/venv/bin/python"
    head = recipe(kind, python).partition("# Makes")[0]
    script = tmp_path / "head.sh"
    script.write_text(head + 'printf "%s\\n" "$scipion" "$scipion_python"')
    done = subprocess.run(
        ["/bin/sh", script], capture_output=True, text=True, timeout=10, check=True
    )
    assert done.stdout.splitlines() == ["/srv/it's a $(place)", python]
    assert "/opt/scipion" not in recipe(kind)


@pytest.mark.parametrize("python", ["/usr/bin/python3", "/opt/conda/bin/python", "venv/bin/python"])
def test_a_scipion_that_the_recipe_cannot_make_is_refused(python: str) -> None:
    with pytest.raises(ConfigError, match=r"scipion\.python: .*DIR/venv/bin/python"):
        recipe(scipion=python)


@pytest.mark.parametrize("python", ["/usr/bin/python3", "/opt/python"])
def test_a_python_that_is_in_no_environment_is_refused(python: str) -> None:
    with pytest.raises(ConfigError, match="not in an environment of its own"):
        recipe(python=python)


@pytest.mark.parametrize("kind", TABLES)
def test_it_bakes_what_a_node_needs(kind: str) -> None:
    text = recipe(kind)
    for word in ("relion", "nfs-common", "openmpi-bin", "setup scipion"):
        assert word in text


def test_it_names_no_host_and_holds_no_secret() -> None:
    text = recipe()
    assert not re.search(r"https?://|\b\w+\.(com|org|net|io)\b", text)
    assert "authorized_keys" in text, "keys of whoever baked it are removed"


def test_sshd_stays_only_with_a_key() -> None:
    assert "keep_sshd=no\n" in recipe()
    assert "keep_sshd=yes\n" in recipe(key_name="lab")
