"""A Scipion project as its database has it."""

import contextlib
import sqlite3
from pathlib import Path


def statuses(project: Path) -> list[str]:
    """Of every protocol, as written in project.sqlite."""
    query = "SELECT value FROM Objects WHERE name LIKE '%.status' AND name NOT LIKE '%.%.%'"
    with contextlib.closing(sqlite3.connect(project / "project.sqlite")) as db:
        return [row[0] for row in db.execute(query)]
