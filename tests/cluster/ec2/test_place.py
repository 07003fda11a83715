"""A node finds its place in the gang from the metadata service."""

import pytest

from scsched.cluster.ec2 import place
from tests.cluster.ec2.rig import Rig, gang


def test_each_instance_has_its_own_index(rig: Rig) -> None:
    ids = rig.launch(gang(3))
    found = [place.launch_index(rig.box.imds(one)) for one in ids]
    assert found == [0, 1, 2]


def test_a_service_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(OSError, match="no launch index"):
        place.launch_index("http://127.0.0.1:9", tries=2, pause_s=0.0)
