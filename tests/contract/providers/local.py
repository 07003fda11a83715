"""Nodes of this machine, with real processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scsched.cluster import processes, tags
from scsched.cluster.local import LocalProvider
from tests.contract.providers import MakeSubject, Subject, pool_of_two


@contextmanager
def opened(directory: Path) -> Iterator[MakeSubject]:
    yield _subject


@contextmanager
def _subject(directory: Path, deployment: str) -> Iterator[Subject]:
    def make() -> LocalProvider:
        return LocalProvider(directory / "state", deployment)

    local = make()
    try:
        yield Subject(provider=local, again=make, pool=pool_of_two())
    finally:
        local.terminate([node.token for node in local.list()])
    assert processes.find({tags.DEPLOYMENT: deployment}) == []
