"""One particle set and one running site for all tests here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import relion_data
from tests.e2e import site as sites
from tests.e2e.refinement import Refinement
from tests.e2e.site import Site

PARTICLES = 160


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """particles.star, phantom_ref.mrc: see `relion_data`."""
    sites.skip_unless_all_is_here()
    folder = tmp_path_factory.mktemp("particles")
    return relion_data.make_project(folder, relion_data.Particles(n=PARTICLES))


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    sites.skip_unless_all_is_here()
    with sites.running() as found:
        yield found


@pytest.fixture(scope="session")
def refinement(site: Site, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Refinement:
    """A refinement that runs whenever a test wants to do something to it."""
    return Refinement(site, data, tmp_path_factory.mktemp("refinement"))
