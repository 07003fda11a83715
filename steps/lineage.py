"""Which attempt of a job wrote which files, from which checkpoint: <outputs>/.scsched/lineage.json.

    attempt 1  relion      it001 it002 it003 it004(torn)
    attempt 2  relion_a2             └─► it004 it005
    attempt 3  relion_a3                       └─► it006 ...

Every attempt writes under a root of its own, so that a process of an earlier one that still lives
cannot spoil it. A file counts only if this record says so: `relion_it004` above is of a dead line.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scsched.steps import files
from scsched.steps.checkpoint import Branch

SCHEMA = "scsched/lineage/v1"
FOLDER = ".scsched"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of relion_refine. Roots are relative to the project."""

    number: int
    base: str
    """The root that the workflow asked for."""
    root: str
    """The root that this attempt writes."""
    fingerprint: str
    resumed_from: str = ""
    """The optimiser.star that it went on from; empty: it began anew."""
    iteration: int = 0
    """The iteration of `resumed_from`."""
    exact: bool = False
    """One process per iteration; whatever it finished stands under `base`."""
    started_at: str = ""
    exit_code: int | None = None
    published: bool = False
    """Its files, and those it built on, stand under `base`."""

    @property
    def parent_root(self) -> str:
        return self.resumed_from.rpartition("_it")[0]


@dataclass(frozen=True, slots=True)
class Lineage:
    """All attempts recorded in one folder, in the order of their starts."""

    attempts: tuple[Attempt, ...] = ()

    def of(self, base: str) -> tuple[Attempt, ...]:
        return tuple(attempt for attempt in self.attempts if attempt.base == base)

    def last(self, base: str) -> Attempt | None:
        return next(reversed(self.of(base)), None)

    def next_number(self) -> int:
        return 1 + max((attempt.number for attempt in self.attempts), default=0)

    def with_attempt(self, attempt: Attempt) -> "Lineage":
        """With this attempt added, or put in the place of the one of its number."""
        others = tuple(x for x in self.attempts if x.number != attempt.number)
        return Lineage((*others, attempt))

    def branches(self, base: str) -> tuple[Branch, ...]:
        """Where the iterations of the living line are, the newest first."""
        found: list[Branch] = []
        attempt, up_to = self.last(base), None
        while attempt is not None:
            if attempt.published or attempt.exact:
                return (*found, Branch(attempt.base, up_to))
            started = attempt.iteration if attempt.resumed_from else -1
            found.append(Branch(attempt.root, up_to, after=started))
            up_to = attempt.iteration
            attempt = self._parent(attempt)
        return tuple(found)

    def _parent(self, child: Attempt) -> Attempt | None:
        older = [x for x in self.of(child.base) if x.number < child.number]
        for attempt in reversed(older):
            written = {attempt.root, attempt.base if attempt.published else attempt.root}
            if child.parent_root in written:
                return attempt
        return None


def folder_of(base: str, *, project: Path) -> Path:
    """The folder of our records beside the outputs of `base`."""
    return (project / base).parent / FOLDER


def load(folder: Path) -> Lineage | None:
    """The record of this folder; None when there is none, or none that can be read."""
    try:
        found = json.loads((folder / "lineage.json").read_text())
        return Lineage(tuple(Attempt(**item) for item in found["attempts"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save(lineage: Lineage, folder: Path) -> None:
    """Put the record in place of the old one; after a crash either is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    attempts = [asdict(attempt) for attempt in lineage.attempts]
    write_json(folder / "lineage.json", {"schema": SCHEMA, "attempts": attempts})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write the file whole or not at all, and on disk when this returns."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    files.write_whole(path, lambda part: part.write_text(text))
