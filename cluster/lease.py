"""A node's lease: its driver renews it, and a machine whose lease grows old ends itself.

    driver ── Dask ──► `renew` in the node's process ──► lease file ◄── dead-man watchdog

The watchdog is a process of its own, so that nothing that hangs in the node can keep the machine.
"""

import logging
from pathlib import Path

_log = logging.getLogger(__name__)
_file: list[Path] = []
"""The lease of the node of this process, where it has one."""


def keep(path: Path) -> None:
    """From now on `renew` renews this lease."""
    _file[:] = [path]


def renew() -> bool:
    """Called by the driver on each of its nodes; whether there is a lease here.

    :raises OSError: it could not be renewed: the machine will end.
    """
    for path in _file:
        path.touch()
    return bool(_file)
