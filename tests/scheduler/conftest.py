import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.scheduler.world import World, worlds


@pytest.fixture(scope="module")
def make_world() -> Iterator[Callable[..., World]]:
    """Makes worlds, each over a store of its own; in memory, they need not outlive a power cut."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder, worlds(Path(folder)) as make:
        yield make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """One pool of two nodes."""
    return make_world()
