"""The reference names every verb, column and exit code that there is."""

import re
from pathlib import Path

from scsched.scheduler.cli import app, columns
from scsched.steps import errors

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference"


def words(name: str) -> set[str]:
    """What stands in backticks."""
    spans = re.findall(r"`([^`]+)`", (REFERENCE / name).read_text())
    return {word for span in spans for word in span.split()}


def test_every_verb_is_in_the_reference() -> None:
    assert {verb for verbs in app.GROUPS.values() for verb in verbs} <= words("cli.md")


def test_every_column_is_in_the_reference() -> None:
    tables = (
        *columns.QUEUE,
        *columns.QUEUE_MORE,
        *columns.HIST,
        *columns.HIST_MORE,
        *columns.NODES,
        *columns.POOLS,
    )
    assert {column.key for column in tables} <= words("cli.md")


def test_every_exit_code_is_in_the_reference() -> None:
    codes = {
        cls.exit_code
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.ScschedError)
    }
    text = (REFERENCE / "exit-codes.md").read_text()
    told = {int(found) for found in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes | {0, 100, 101, 103, 106, 130} <= told
