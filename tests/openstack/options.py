"""A `[provider.box]` table for the test cloud."""

import warnings
from collections.abc import Mapping

from tests.openstack.services import GROUP_NAME, IMAGE_NAME, NETWORK_NAME

OPTIONS: Mapping[str, object] = {
    "kind": "openstack",
    "cloud": "box",
    "image": IMAGE_NAME,
    "networks": [NETWORK_NAME],
    "security_groups": [GROUP_NAME],
    "python": "/opt/scsched/bin/python",
}


def hush() -> None:
    """For the test that runs: openstacksdk 4 warns of its own use of itself at each call."""
    from openstack import warnings as theirs

    for found in (
        theirs.RemovedInSDK50Warning,
        theirs.RemovedInSDK60Warning,
        theirs.RemovedFieldWarning,
    ):
        warnings.filterwarnings("ignore", category=found)
