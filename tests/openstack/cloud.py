"""A test cloud, started and stopped: a stand-in in this process, or a real Keystone and Nova."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.openstack.front import Front
from tests.openstack.keystone import Keystone
from tests.openstack.nova import Nova
from tests.openstack.services import REGION, Images, Networks

CLOUD = "box"
ADMIN = "box-admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """`clouds_yaml` names `box`, of a lab, `box-admin`, and `wrong`, whose password is."""

    front: Front
    clouds_yaml: Path
    real: bool
    """Keystone and Nova are the real ones."""

    @contextmanager
    def current(self) -> Iterator[None]:
        """openstacksdk finds it, and no other, inside. Mends the front."""
        self.front.mend()
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("OS_")]:
                patch.delenv(name)
            patch.setenv("OS_CLIENT_CONFIG_FILE", str(self.clouds_yaml))
            yield


@contextmanager
def stand_in(directory: Path) -> Iterator[Cloud]:
    front = Front()
    keystone = Keystone(front.url)
    front.services["identity"] = keystone
    front.services["compute"] = Nova(keystone, f"{front.url}/compute")
    with serving(front, directory) as cloud:
        yield cloud


@contextmanager
def serving(front: Front, directory: Path, *, real: bool = False) -> Iterator[Cloud]:
    """The front with images and networks, and the file that clients find it by."""
    front.services["image"] = Images()
    front.services["network"] = Networks()
    clouds = directory / "clouds.yaml"
    clouds.write_text(
        "clouds:\n"
        + _entry(CLOUD, front.url, "scientist", "secret", "lab")
        + _entry(ADMIN, front.url, "admin", "admin", "admin")
        + _entry("wrong", front.url, "scientist", "guess", "lab"),
        encoding="ascii",
    )
    front.start()
    try:
        yield Cloud(front=front, clouds_yaml=clouds, real=real)
    finally:
        front.stop()


def _entry(name: str, url: str, user: str, password: str, project: str) -> str:
    return f"""\
  {name}:
    region_name: {REGION}
    auth:
      auth_url: {url}/identity
      username: {user}
      password: {password}
      project_name: {project}
      user_domain_id: default
      project_domain_id: default
"""
