"""Text out: tables, durations, money; what users wrote, made safe for a terminal.

A table is aligned on a terminal and tab-separated with full values in a pipe. It is drawn here and
not by rich, whose import alone costs more than the whole of `scsched queue`.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, TextIO

Row = Any
"""One item of an answer; the columns know its shape."""

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC and other strings: titles, links
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")
_MIN_FLEX = 12
"""A column that may shrink keeps so many cells."""

COLOURS = {
    "RUNNING": "33",
    "COMPLETING": "33",
    "CONFIGURING": "36",
    "COMPLETED": "32",
    "FAILED": "31",
    "ATTENTION": "35",
    "CANCELLED": "2",
}
MARKS = {
    "COMPLETED": "v",
    "RUNNING": ">",
    "COMPLETING": ">",
    "CONFIGURING": "~",
    "FAILED": "x",
    "CANCELLED": "-",
    "PENDING": ".",
    "HELD": "o",
    "ATTENTION": "!",
}


class Column:
    """`value` is what a pipe gets; `cell`, if given, what a terminal gets."""

    __slots__ = ("_cell", "dispensable", "flexible", "key", "right", "title", "value")

    def __init__(
        self,
        key: str,
        value: Callable[[Row], object],
        *,
        title: str = "",
        cell: Callable[[Row], str] | None = None,
        right: bool = False,
        flexible: bool = False,
        dispensable: bool = False,
    ) -> None:
        self.key = key
        self.title = title or key.upper()
        self.value = value
        self._cell = cell
        self.right = right
        self.flexible = flexible
        """May be cut short to fit the terminal; never an id, a state or a number."""
        self.dispensable = dispensable
        """Left out on a terminal when no row has anything in it."""

    def plain(self, row: Row) -> str:
        return _plain(self.value(row))

    def cell(self, row: Row) -> str:
        text = clean(self._cell(row)) if self._cell else self.plain(row)
        return text or "-"


def table(columns: Sequence[Column], rows: Sequence[Row], *, header: bool = True) -> None:
    """Print a table on stdout, in the manner that stdout wants."""
    if sys.stdout.isatty():
        lines = aligned(columns, rows, width=terminal_width(), header=header)
    else:
        lines = tab_separated(columns, rows, header=header)
    put(*lines)


def tab_separated(
    columns: Sequence[Column], rows: Sequence[Row], *, header: bool = True
) -> list[str]:
    lines = ["\t".join(column.plain(row) for column in columns) for row in rows]
    return ["\t".join(column.key for column in columns), *lines] if header else lines


def aligned(
    columns: Sequence[Column], rows: Sequence[Row], *, width: int, header: bool = True
) -> list[str]:
    """Lines for a terminal `width` cells wide; the last flexible column wraps, others are cut."""
    cells = {column.key: [column.cell(row) for row in rows] for column in columns}
    columns = [c for c in columns if not (c.dispensable and set(cells[c.key]) <= {"-"})]
    widths = [max(map(cell_width, (c.title if header else "", *cells[c.key]))) for c in columns]
    widths = _shrunk(columns, widths, width)
    lines = [_line(columns, [c.title for c in columns], widths)] if header else []
    for i in range(len(rows)):
        lines += _wrapped(columns, [cells[c.key][i] for c in columns], widths)
    return lines


def pairs(items: Sequence[tuple[str, object]]) -> None:
    """Print `key value` lines; keys without a value are left out on a terminal."""
    if not sys.stdout.isatty():
        put(*(f"{key}\t{_plain(value)}" for key, value in items))
        return
    kept = [(key, text) for key, value in items if (text := _plain(value))]
    width = max((len(key) for key, _ in kept), default=0)
    put(*(f"{key:<{width}}  {state_coloured(text)}" for key, text in kept))


def clean(text: object) -> str:
    """One line without escape sequences, control characters or changes of direction."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(_harmless(char) for char in _ESCAPES.sub("", plain))


def duration(seconds: float | None) -> str:
    """`0:00:41`, `3:12:40`, `2-03:12:40`, as Slurm writes it."""
    if seconds is None:
        return ""
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days}-{h:02}:{m:02}:{s:02}" if days else f"{h}:{m:02}:{s:02}"


def money(usd: float | None) -> str:
    if usd is None:
        return ""
    return f"${usd:.4f}" if 0 < usd < 0.01 else f"${usd:.2f}"


def iterations(progress: Any) -> str:
    """`it 14/25 56%`, or `it 14` where nobody knows of how many."""
    if not progress or progress.get("iteration") is None:
        return ""
    done, of = progress["iteration"], progress.get("of")
    return f"it {done}/{of} {100 * done // of}%" if of else f"it {done}"


def resolution(progress: Any) -> str:
    found = (progress or {}).get("resolution_a")
    return f"{found:.1f} A" if found else ""


def state_coloured(text: str) -> str:
    colour = COLOURS.get(text.strip())
    return f"\x1b[{colour}m{text}\x1b[0m" if colour and wants_colour() else text


def wants_colour() -> bool:
    """Colour only on a terminal, and not under NO_COLOR (no-color.org) or a dumb terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def terminal_width() -> int:
    try:
        return int(os.environ.get("COLUMNS", "")) or _asked_width()
    except ValueError:
        return _asked_width()


def put(*lines: str, stream: TextIO | None = None) -> None:
    out = stream or sys.stdout
    out.write("".join(f"{line}\n" for line in lines))
    out.flush()


def talk(*lines: str) -> None:
    """What is said to a person goes to stderr."""
    put(*lines, stream=sys.stderr)


def put_json(value: object, *, one_line: bool = False) -> None:
    """Indented for a person; a program gets it in one line, which is written much faster."""
    import json

    put(json.dumps(value, indent=2 if sys.stdout.isatty() and not one_line else None))


def cell_width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _asked_width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _plain(value: object) -> str:
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return clean(value)


def _harmless(char: str) -> str:
    if char in "\t\n\r\v\f\u2028\u2029":
        return " "
    if char in _DIRECTION or unicodedata.category(char) in ("Cc", "Cs"):
        return ""
    return char


def _char_width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _shrunk(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    """Take what is too much from the widest of the columns that may give."""
    widths = list(widths)
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    flexible = [i for i, column in enumerate(columns) if column.flexible]
    while excess > 0 and flexible:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= _MIN_FLEX:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def _wrapped(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    last = len(columns) - 1
    if not columns or not columns[last].flexible or cell_width(cells[last]) <= widths[last]:
        return [_line(columns, cells, widths)]
    import textwrap

    parts = textwrap.wrap(cells[last], widths[last], break_long_words=False)
    lines = [_line(columns, [*cells[:last], parts[0]], widths)]
    indent = " " * (sum(widths[:last]) + 2 * last)
    return lines + [indent + part for part in parts[1:]]


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, text, width in zip(columns, cells, widths, strict=True):
        shown = _cut(text, width) if column.flexible and column is not columns[-1] else text
        space = " " * (width - cell_width(shown))
        shown = state_coloured(shown) if column.key == "state" else shown
        padded.append(space + shown if column.right else shown + space)
    return "  ".join(padded).rstrip()


def _cut(text: str, width: int) -> str:
    if cell_width(text) <= width:
        return text
    while text and cell_width(text) > width - 3:
        text = text[:-1]
    return text + "..."
