"""Tables and the texts in them."""

import io
import operator
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scsched.scheduler import render
from scsched.scheduler.cli import columns
from scsched.scheduler.render import Column, aligned, cell_width, clean, tab_separated
from tests.scheduler.cli import answers


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\tb\nc\r", "a b c "),
        ("safe\u202etxt.exe", "safetxt.exe"),
        ("bell\x07 \x9b31m", "bell 31m"),
        ("naïve Ångström 構造", "naïve Ångström 構造"),
    ],
)
def test_what_users_write_cannot_steer_the_terminal(raw: str, shown: str) -> None:
    assert clean(raw) == shown


@given(st.text())
def test_clean_text_is_one_line_without_control_characters(text: str) -> None:
    shown = clean(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert clean(shown) == shown


@given(st.lists(st.text(max_size=30), min_size=3, max_size=3))
def test_a_row_in_a_pipe_has_as_many_fields_as_the_heading(cells: list[str]) -> None:
    table = [Column(key, operator.itemgetter(i)) for i, key in enumerate("abc")]
    heading, row = tab_separated(table, [cells])
    assert len(row.split("\t")) == len(heading.split("\t")) == 3


def test_a_table_in_a_pipe_keeps_every_value_whole() -> None:
    row = {**answers.RUNNING, "name": "n" * 300}
    line = tab_separated(columns.QUEUE, [row], header=False)[0]
    assert "n" * 300 in line
    assert "\t4360\t12.34\t" in line


@pytest.mark.parametrize("width", [40, 80, 200])
def test_ids_and_states_are_never_cut(width: int) -> None:
    rows = [{**answers.PENDING, "id": 123456789, "name": "long name " * 9}]
    text = "\n".join(aligned(columns.QUEUE, rows, width=width))
    assert "123456789" in text
    assert "PENDING" in text


def test_a_wide_table_fits_its_terminal_and_the_reason_wraps() -> None:
    rows = answers.WORKFLOWS["items"]
    lines = aligned(columns.QUEUE, rows, width=130)
    assert max(map(cell_width, lines)) <= 130
    joined = " ".join(" ".join(lines).split())
    assert "Pick particles" in joined
    assert "release 45.150`" in joined


def test_columns_with_nothing_in_them_are_left_out_on_a_terminal() -> None:
    heading = aligned(columns.QUEUE, [answers.PENDING], width=200)[0]
    assert "RES" not in heading
    assert "PROGRESS" not in heading


def test_wide_characters_keep_the_columns_aligned() -> None:
    rows = [{**answers.RUNNING, "name": name} for name in ("構造", "plain-name")]
    lines = aligned(columns.QUEUE, rows, width=200)
    starts = [cell_width(line[: line.index("alice")]) for line in lines[1:]]
    assert starts[0] == starts[1]


def test_auto_refine_has_no_invented_end() -> None:
    assert render.iterations({"iteration": 14, "of": None}) == "it 14"
    assert render.iterations({"iteration": 14, "of": 25}) == "it 14/25 56%"
    assert render.iterations(None) == ""


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00:00"), (4360, "1:12:40"), (90061, "1-01:01:01"), (None, "")]
)
def test_durations_are_written_as_slurm_does(seconds: float | None, shown: str) -> None:
    assert render.duration(seconds) == shown


def test_small_money_is_not_shown_as_nothing() -> None:
    assert render.money(0.0042) == "$0.0042"
    assert render.money(0) == "$0.00"
    assert render.money(12.345) == "$12.35"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_no_color_and_dumb_terminals_get_none(
    environ: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    assert ("\x1b[" in render.state_coloured("FAILED")) is coloured


def test_an_unknown_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(Exception, match="-o cost: no such column") as caught:
        columns.chosen("id,cost", columns.QUEUE)
    assert "usd" in str(getattr(caught.value, "hint", ""))


def _row(**changes: Any) -> dict[str, Any]:
    return {**answers.RUNNING, **changes}


def test_failed_steps_show_beside_the_count() -> None:
    text = aligned(columns.QUEUE, [_row(steps_failed=2)], width=200)[1]
    assert "6/10 (2 failed)" in text
