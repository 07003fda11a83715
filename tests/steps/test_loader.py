"""Whatever the bytes: checked values, or one line that names the place."""

import json
import time

import pytest

from scsched.steps import loader
from scsched.steps.errors import WorkflowError

STEP = {"object.id": "2", "object.className": "ProtImportParticles"}


def refusal(text: str | bytes) -> WorkflowError:
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(WorkflowError) as caught:
        loader.load(raw, filename="w.json")
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_list_of_protocols_is_read_in_order() -> None:
    loaded = loader.load(json.dumps([STEP, {"a": [1]}]).encode(), filename="w.json")
    assert loaded.protocols == (STEP, {"a": [1]})
    assert loaded.base == "$"


def test_a_list_under_content_is_read() -> None:
    raw = json.dumps({"version": 1, "content": [STEP]}).encode()
    loaded = loader.load(raw, filename="w.json")
    assert loaded.protocols == (STEP,)
    assert loaded.base == "$.content"


def test_a_byte_order_mark_is_skipped() -> None:
    raw = b"\xef\xbb\xbf" + json.dumps([STEP]).encode()
    assert loader.load(raw, filename="w.json").protocols == (STEP,)


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ('[{"a": 1}\n {"b": 2}]', "line 2 column 2", "broken JSON"),
        ('[{"a": NaN}]', "$[0].a", "NaN"),
        ('[{"a": 1e999}]', "$[0].a", "too large"),
        ('[{"a": [1, {"b": -1e999}]}]', "$[0].a[1].b", "too large"),
        ('[{"a": ' + "9" * 5000 + "}]", "$[0].a", "5000 digits"),
        ('[{"a": 1, "a": 2}]', "$[0]", 'key "a" twice'),
        ('[{"x": {"a": 1, "b": 2, "a": 3}}]', "$[0].x", 'key "a" twice'),
        ('{"content": [1], "content": [2]}', "$", 'key "content" twice'),
        (r'[{"a": "\u0000"}]', "$[0].a", "control character"),
        (r'[{"object.label": "\u001b[31m"}]', '$[0]["object.label"]', "control character"),
        (r'[{"a": "\ud800"}]', "$[0].a", "control character"),
        (r'[{"\u0007": 1}]', "$[0]", "control character"),
        ('[{"a": "\x01"}]', "line 1 column 9", "broken JSON"),
        ("[1]", "$[0]", "no protocol"),
        ("[]", "$", "no protocols"),
        ("{}", "$", "list of protocols"),
        ('{"content": {}}', "$", "list of protocols"),
        ("", "$", "empty file"),
        (" \n", "$", "empty file"),
        ('"text"', "line 1", "not a Scipion workflow"),
        (b'[{"a":\n "\xff"}]', "line 2", "UTF-8"),
    ],
)
def test_a_file_is_refused_with_its_place(text: str | bytes, where: str, word: str) -> None:
    error = refusal(text)
    assert error.where == where
    assert word in error.problem


@pytest.mark.parametrize("levels", [25, 900, 200_000])
def test_nesting_is_bounded(levels: int) -> None:
    assert "24" in refusal('[{"a": ' + "[" * levels + "]" * levels + "}]").problem


def test_24_levels_are_read() -> None:
    text = '[{"a": ' + "[" * 22 + "]" * 22 + "}]"
    assert loader.load(text.encode(), filename="w.json").protocols


def test_the_size_is_bounded() -> None:
    assert "8 MiB" in refusal(b"[" + b" " * loader.MAX_BYTES + b"]").problem


def test_the_number_of_steps_is_bounded() -> None:
    assert "at most 5000" in refusal(json.dumps([STEP] * 5001)).problem


def test_the_number_of_values_is_bounded() -> None:
    assert "values" in refusal('[{"a": [' + "0," * loader.MAX_VALUES + "0]}]").problem


def test_infinity_is_read_since_real_exports_hold_it() -> None:
    loaded = loader.load(b'[{"maxGeoDistS": Infinity}]', filename="w.json")
    assert loaded.protocols[0]["maxGeoDistS"] == float("inf")


def test_line_feeds_and_tabs_in_a_comment_are_read() -> None:
    comment = "two\nlines\tand 'quotes' \"$(touch /tmp/x)\""
    raw = json.dumps([STEP | {"object.comment": comment}]).encode()
    assert loader.load(raw, filename="w.json").protocols[0]["object.comment"] == comment


@pytest.mark.parametrize(
    "text",
    ["~" * 200_000, "~a|" * 100_000, ": " * 200_000, '[{"a": "' + "~x|1|" * 100_000 + '"}]'],
    ids=["tildes", "fields", "colons", "open fields"],
)
@pytest.mark.parametrize("filename", ["w.json", "w.json.template"])
def test_no_text_takes_more_than_linear_time(text: str, filename: str) -> None:
    before = time.process_time()
    with pytest.raises(WorkflowError):
        loader.load(("[{" + text).encode(), filename=filename)
    assert time.process_time() - before < 20.0, "a square of its length would take minutes"
