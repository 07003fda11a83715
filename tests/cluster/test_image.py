"""The recipe for an image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scsched.cluster import registry
from tests.cluster.ec2.rig import PLAIN
from tests.openstack.options import OPTIONS

TABLES = {"ec2": {**PLAIN, "kind": "ec2"}, "openstack": {**OPTIONS, "kind": "openstack"}}


def recipe(kind: str = "ec2", **changes: object) -> str:
    table = {**TABLES[kind], **changes}
    return str(registry.optional({"lab": table}, "lab", "image_recipe")("lab", table))


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_it_is_a_script_for_sh(shell: str, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    script = tmp_path / "image.sh"
    script.write_text(recipe())
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


@pytest.mark.parametrize("kind", TABLES)
def test_scsched_goes_where_the_site_expects_it(kind: str) -> None:
    assert "environment=/srv/s\n" in recipe(kind, python="/srv/s/bin/python")


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
