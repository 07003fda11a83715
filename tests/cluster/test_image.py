"""The recipe for an image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scsched.cluster.ec2 import provider as ec2
from scsched.cluster.openstack import provider as openstack
from tests.cluster.ec2.rig import PLAIN
from tests.openstack.options import OPTIONS


def recipe(**changes: object) -> str:
    return ec2.image_recipe("aws", {**PLAIN, **changes})


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


def test_scsched_goes_where_the_site_expects_it() -> None:
    assert "environment=/srv/s\n" in recipe(python="/srv/s/bin/python")


def test_it_is_the_same_for_every_cloud() -> None:
    mine = openstack.image_recipe("egi", {**OPTIONS, "python": PLAIN["python"]})
    assert mine == recipe()


def test_it_bakes_what_a_node_needs() -> None:
    text = recipe()
    for word in ("relion", "nfs-common", "openmpi-bin", "setup scipion"):
        assert word in text


def test_it_names_no_host_and_holds_no_secret() -> None:
    text = recipe()
    assert not re.search(r"https?://|\b\w+\.(com|org|net|io)\b", text)
    assert "authorized_keys" in text, "keys of whoever baked it are removed"


def test_sshd_stays_only_with_a_key() -> None:
    assert "keep_sshd=no\n" in recipe()
    assert "keep_sshd=yes\n" in recipe(key_name="lab")
