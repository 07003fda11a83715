"""Fixtures: `flat_box` a cloud whose machines are imaginary, `box` one whose machines boot.

A test module that wants one says `from tests.cloudbox.fixtures import box`. Each kind is started
once in a test run, and is empty and without faults at the start of each test.
"""

import importlib.util
from collections.abc import Iterator

import pytest

from tests.cloudbox import hosts
from tests.cloudbox.client import Box

_BOXES = pytest.StashKey[dict[bool, Box]]()


@pytest.fixture
def flat_box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """EC2's words and faults, and no machines."""
    return _shared(request.config, tmp_path_factory, boot=False)


@pytest.fixture
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A cloud whose machines boot, as namespaces of this one."""
    skip_where_hosts_cannot_boot()
    found = _shared(request.config, tmp_path_factory, boot=True)
    yield found
    found.clear()


def skip_where_hosts_cannot_boot() -> None:
    """For tests that start a box of their own."""
    lacking = hosts.lacking()
    if lacking:
        pytest.skip(f"hosts of the cloud in a box cannot boot: {lacking}")


def _shared(config: pytest.Config, directories: pytest.TempPathFactory, *, boot: bool) -> Box:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("the cloud in a box needs moto")
    boxes = config.stash.setdefault(_BOXES, {})
    if boot not in boxes:
        boxes[boot] = Box(directories.mktemp("box"), boot=boot).start()
        config.add_cleanup(boxes[boot].stop)
    boxes[boot].clear()
    return boxes[boot]
