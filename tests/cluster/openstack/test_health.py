"""What `doctor --cloud` says of a project."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from scsched.cluster.health import Finding
from scsched.cluster.openstack import health
from scsched.cluster.openstack import site as sites
from scsched.cluster.pools import Pool
from tests.cluster.openstack.conftest import POOL, Lab
from tests.openstack.options import OPTIONS
from tests.openstack.services import OPEN_GROUP_NAME


def findings(
    pool: Pool = POOL, late: timedelta = timedelta(), **options: object
) -> Mapping[str, Finding]:
    site = sites.read("box", {**OPTIONS, **options})
    return {one.name: one for one in health.examine(site, [pool], now=datetime.now(UTC) + late)}


def test_a_project_that_has_everything_is_well(lab: Lab) -> None:
    found = findings()
    assert all(one.ok for one in found.values()), found
    assert list(found) == [
        "credentials",
        "clock",
        "image",
        "network",
        "flavor",
        "security group",
        "zones",
        "quota",
    ]
    assert "room for 10 m1.tiny; max_nodes is 2" in found["quota"].sentence


def test_everything_that_is_wrong_is_told_at_once(lab: Lab) -> None:
    pool = replace(POOL, types=("m1.xlarge", "m1.none"), zones=("mars",), max_nodes=3)
    found = findings(
        pool,
        timedelta(minutes=5),
        image="nowhere",
        networks=["nowhere"],
        security_groups=[OPEN_GROUP_NAME],
        key_name="nobody",
    )
    wrong = {name for name, one in found.items() if not one.ok}
    assert wrong == set(found) - {"credentials"} | {"key pair"}
    assert "; max_nodes is 3" in found["quota"].sentence
    assert all(one.hint for one in found.values() if not one.ok)


def test_without_credentials_nothing_else_is_told(lab: Lab) -> None:
    found = findings(cloud="wrong")
    assert list(found) == ["credentials"]
    assert not found["credentials"].ok
    assert "clouds.yaml" in found["credentials"].hint
