"""Many ids in one statement, in portions that every database takes.

Statements are built once, with these parameters in them: building one costs more than running it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, and_, bindparam, tuple_

T = TypeVar("T")

PORTION = 1000
"""SQLite takes 32,766 parameters in a statement, Postgres 65,535."""


def portions(items: Iterable[T], size: int = PORTION) -> Iterator[list[T]]:
    """The same items, in lists of at most `size`."""
    iterator = iter(items)
    while portion := list(islice(iterator, size)):
        yield portion


def one_of_ids(column: Column[Any]) -> ColumnElement[bool]:
    """`column` is one of the parameter `ids`."""
    return column.in_(bindparam("ids", expanding=True))


def under_epoch(id_column: Column[int], epoch_column: Column[int]) -> ColumnElement[bool]:
    """Rows with one of the `ids`, each under the epoch that `pairs` gives with it.

    The first condition finds them by their key, the second one checks the epoch.
    """
    pair = tuple_(id_column, epoch_column).in_(bindparam("pairs", expanding=True))
    return and_(one_of_ids(id_column), pair)


def epoch_parameters(pairs: list[tuple[int, int]]) -> dict[str, object]:
    """The parameters of `under_epoch`."""
    return {"ids": [row_id for row_id, _ in pairs], "pairs": pairs}
