"""STAR tables as RELION writes them: read line by line, and told apart from ones cut short.

RELION ends every table with a line of one space, so a file that was cut anywhere, even between two
rows, does not end in it. https://relion.readthedocs.io/en/release-3.1/Reference/Conventions.html
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scsched.steps.errors import ScschedError

TABLE_END = b"\n \n"


class Torn(ScschedError):
    """A file is missing, cut short or does not parse; an older one may still be whole."""

    code = "torn"


@dataclass(frozen=True, slots=True)
class Table:
    """One `data_` block. `values` are its label-value pairs; a loop has `rows` instead."""

    name: str
    labels: tuple[str, ...] = ()
    rows: int = 0
    values: Mapping[str, str] = field(default_factory=dict, hash=False)


def tables(path: Path) -> dict[str, Table]:
    """Every table of the file by its name without `data_`, rows counted and checked.

    :raises Torn: it is missing, cut short, or a row has not as many fields as the table labels.
    """
    require_whole(path)
    found: dict[str, Table] = {}
    for block in _blocks(path):
        for _ in block.rows():
            pass
        found[block.name] = block.table()
    return found


def rows(path: Path, table: str, *labels: str) -> Iterator[tuple[str, ...]]:
    """The fields under `labels`, row by row; `?` where the table has no such label.

    :raises Torn: as `tables`, but not for a missing end: the file may still be growing.
    """
    for block in _blocks(path):
        if block.name != table:
            continue
        for words in block.rows():
            at = block.index
            yield tuple(_text(words[at[x]]) if x in at else "?" for x in labels)
        if block.values:
            yield tuple(block.values.get(label, "?") for label in labels)
        return


def values(path: Path, table: str) -> dict[str, str]:
    """The label-value pairs of a table; empty when there is no such table."""
    for block in _blocks(path):
        if block.name == table:
            for _ in block.rows():
                pass
            return dict(block.values)
    return {}


def particles(path: Path) -> int:
    """Rows of the particle table of any RELION version: the one that is not `optics`.

    :raises Torn: no such file, or no such table in it.
    """
    return row_count(path, "particles", "images", "")


def row_count(path: Path, *names: str) -> int:
    """Rows of the first table of the file that is called one of `names`.

    :raises Torn: no such file, no such table, or rows that do not fit the labels.
    """
    for block in _blocks(path):
        if block.name in names:
            for _ in block.rows():
                pass
            return block.count
    raise Torn(f"{path}: no table {' or '.join(f'data_{name}' for name in names)}")


def require_whole(path: Path) -> None:
    """:raises Torn: the file is missing or does not end as RELION ends a table."""
    if not ends_whole(path):
        raise Torn(f"{path}: {'cut short' if path.exists() else 'missing'}")


def ends_whole(path: Path) -> bool:
    """Whether the file is there and ends in the line of one space."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - len(TABLE_END)))
            return file.read() == TABLE_END
    except OSError:
        return False


class _Block:
    """A table being read; its rows must be drawn before the next block is."""

    def __init__(self, path: Path, name: str, lines: "_Lines") -> None:
        self.path = path
        self.name = name
        self.labels: list[str] = []
        self.values: dict[str, str] = {}
        self.count = 0
        self._lines = lines

    @property
    def index(self) -> dict[str, int]:
        return {label: number for number, label in enumerate(self.labels)}

    def table(self) -> Table:
        return Table(self.name, tuple(self.labels), self.count, dict(self.values))

    def rows(self) -> Iterator[list[bytes]]:
        """The rows of a loop; label-value pairs are kept in `values` and not yielded."""
        looped = False
        for line in self._lines:
            words = line.split()
            if not words or words[0].startswith(b"#"):
                continue
            if words[0].startswith(b"data_"):
                self._lines.push(line)
                return
            if words[0] == b"loop_":
                looped = True
            elif words[0].startswith(b"_"):
                self._label(words, looped)
            else:
                yield self._row(words, line)

    def _label(self, words: list[bytes], looped: bool) -> None:
        label = _text(words[0]).removeprefix("_")
        self.labels.append(label)
        if not looped:
            if len(words) < 2:
                raise Torn(f"{self.path}: {label} has no value")
            self.values[label] = _text(words[1])

    def _row(self, words: list[bytes], line: bytes) -> list[bytes]:
        self.count += 1
        if b'"' in line:
            words = _unquoted(line)
        if len(words) != len(self.labels):
            raise Torn(
                f"{self.path}: row {self.count} of data_{self.name} has {len(words)} fields"
                f" under {len(self.labels)} labels"
            )
        if b"\0" in line:
            raise Torn(f"{self.path}: row {self.count} of data_{self.name} holds zero bytes")
        return words


class _Lines:
    """The lines of a file, with one that may be put back."""

    def __init__(self, file: Iterator[bytes]) -> None:
        self._file = file
        self._back: list[bytes] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes:
        return self._back.pop() if self._back else next(self._file)

    def push(self, line: bytes) -> None:
        self._back.append(line)


def _blocks(path: Path) -> Iterator[_Block]:
    try:
        with path.open("rb") as file:
            lines = _Lines(file)
            for line in lines:
                if line.startswith(b"data_"):
                    yield _Block(path, _text(line.strip()).removeprefix("data_"), lines)
    except OSError as exc:
        raise Torn(f"{path}: {exc.strerror or exc}") from exc


def _unquoted(line: bytes) -> list[bytes]:
    """The fields of a row in which some are quoted, as RELION 4 writes empty ones."""
    try:
        return [part.encode() for part in shlex.split(_text(line))]
    except ValueError:
        return line.split()


def _text(word: bytes) -> str:
    return word.decode("utf-8", "replace")
