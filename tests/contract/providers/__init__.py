"""The providers under the conformance suite: every module of this package is one.

A module has a context manager `opened(directory)`, entered once for the suite, that starts what
the provider talks to and yields a `MakeSubject`. It calls `pytest.skip` with a clear word where it
cannot run.
"""

import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Protocol

from scsched.cluster.pools import ANY, Candidate, Market, Pool
from scsched.cluster.provider import Desk, Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One provider, of a deployment that has no nodes yet, and how to ask it for some."""

    provider: Provider
    again: Callable[[], Provider]
    """The provider as another process would make it."""
    pool: Pool
    """`max_nodes` is 2."""
    candidate: Candidate = ANY
    desk: Desk | None = None
    """For remote nodes."""
    run_out: Callable[[], None] = field(default=lambda: None)
    """From now on there is no third node to have; nothing to do where the pool says so."""
    patience_s: float = 10.0
    """How long a node may take to be seen RUNNING, or TERMINATED after it was ended."""
    clock_slack: timedelta = timedelta(minutes=2)
    """How far its times may be from this machine's."""


MakeSubject = Callable[[Path, str], AbstractContextManager[Subject]]
"""From a directory of the test's own and a deployment; ends the deployment's nodes when left."""


class Implementation(Protocol):
    """What a module of this package has."""

    def opened(self, directory: Path) -> AbstractContextManager[MakeSubject]: ...


def names() -> list[str]:
    """Of all implementations."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def implementation(name: str) -> Implementation:
    """The module of that name."""
    module: Implementation = import_module(f"{__name__}.{name}")
    return module


def pool_of_two(**changes: object) -> Pool:
    """A pool of two spot nodes with one core each."""
    fields: dict[str, object] = {
        "name": "p",
        "provider": "x",
        "market": Market.SPOT,
        "max_nodes": 2,
        "cores": 1,
        "memory_gib": 1.0,
    }
    return Pool(**{**fields, **changes})  # type: ignore[arg-type]
