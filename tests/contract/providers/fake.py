"""The fake, in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scsched.cluster.fake import FakeProvider
from tests.contract.providers import MakeSubject, Subject, pool_of_two


@contextmanager
def opened(directory: Path) -> Iterator[MakeSubject]:
    yield _subject


@contextmanager
def _subject(directory: Path, deployment: str) -> Iterator[Subject]:
    fake = FakeProvider(deployment)
    yield Subject(provider=fake, again=lambda: fake, pool=pool_of_two())
