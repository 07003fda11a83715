"""The EC2 provider over the imaginary cloud."""

from collections.abc import Iterator

import pytest

from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import flat_box
from tests.cluster.ec2.rig import Rig, rigged

__all__ = ["flat_box", "rig"]


@pytest.fixture
def rig(flat_box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    with rigged(flat_box, monkeypatch) as made:
        yield made
