"""Template fields take what the user gives, else their default, as text or as a number."""

import json

import pytest

from scsched.steps import loader
from scsched.steps.errors import WorkflowError

TEMPLATE = """Movies to classes, with [brackets] and "quotes"
by the facility.
[
    {
        "filesPath": "~Movie's folder|%(HOME)s/Movies|2|movies~",
        "filesPattern": "~Pattern|*.tif|3|pattern~",
        "voltage": ~Voltage|300|4|volt~,
        "classes": ~Classes|50|3|classes~,
        "live": ~Live|true|1|live~,
        "half": "50 %% of %(WHO)s"
    }
]
"""


def load(
    text: str = TEMPLATE, *, filename: str = "t.json.template", **params: str
) -> loader.Loaded:
    return loader.load(
        text.encode(), filename=filename, params=params, environ={"HOME": 'C:\\a "b"', "WHO": "all"}
    )


def test_defaults_fill_the_fields() -> None:
    assert load().protocols[0] == {
        "filesPath": 'C:\\a "b"/Movies',
        "filesPattern": "*.tif",
        "voltage": 300,
        "classes": 50,
        "live": True,
        "half": "50 % of all",
    }


def test_params_win_and_arrive_as_data() -> None:
    path = 'x", "runMode": "1\\ $(id)\n~'
    found = load(movies=path, volt="200.5", classes="7", live="0", pattern="*.mrc").protocols[0]
    assert found["filesPath"] == path
    assert found["voltage"] == 200.5
    assert found["classes"] == 7
    assert found["live"] is False
    assert found["filesPattern"] == "*.mrc"
    assert "runMode" not in found


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"movie": "/x"}, ["movie", "movies"]),
        ({"classes": "7.5"}, ["classes", "a whole number"]),
        ({"volt": "nan"}, ["volt", "a number"]),
        ({"volt": "9" * 400}, ["volt", "a number"]),
        ({"live": "perhaps"}, ["live", "true or false"]),
    ],
)
def test_a_wrong_param_is_named(params: dict[str, str], words: list[str]) -> None:
    with pytest.raises(WorkflowError) as caught:
        load(**params)
    assert all(word in str(caught.value) for word in ["--param", *words])


def test_a_plain_file_has_no_fields_to_fill() -> None:
    with pytest.raises(WorkflowError, match="it has none"):
        load('[{"a": 1}]', filename="w.json", box="64")


def test_an_unset_variable_stays_and_is_warned_of_once() -> None:
    loaded = loader.load(b'[\n{"a": "%(X)s",\n"b": "%(X)s"}]', filename="t.json.template")
    assert loaded.protocols[0] == {"a": "%(X)s", "b": "%(X)s"}
    assert [warning.where for warning in loaded.warnings] == ["line 2"]


def test_a_broken_template_names_the_line_of_the_file() -> None:
    with pytest.raises(WorkflowError) as caught:
        load(TEMPLATE.replace('"filesPath":', '"filesPath"'))
    assert caught.value.where.startswith("line 5 column")


def test_a_field_without_a_usable_default_asks_for_the_param() -> None:
    with pytest.raises(WorkflowError, match=r'line 2: "box" is ""; give --param'):
        load('[\n{"a": ~Box||3|box~}]')


def test_a_field_left_in_plain_json_is_filled_and_warned_of() -> None:
    text = json.dumps([{"numberOfClasses": "~Classes|50|3|k~", "object.label": "~a|b|0|c~"}])
    loaded = load(text, filename="w.json")
    assert loaded.protocols[0] == {"numberOfClasses": "50", "object.label": "~a|b|0|c~"}
    assert [warning.where for warning in loaded.warnings] == ["$[0].numberOfClasses"]
    assert load(text, filename="w.json", k="9").protocols[0]["numberOfClasses"] == "9"


def test_a_tilde_alone_is_text() -> None:
    loaded = load('[{"a": "~/data/*.mrc", "b": "~"}]')
    assert loaded.protocols[0] == {"a": "~/data/*.mrc", "b": "~"}
