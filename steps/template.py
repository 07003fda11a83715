"""Fills Scipion's workflow templates (`*.json.template`).

A template is free text lines, then JSON with `~Title|default|type|alias~` where a person chooses
and `%(NAME)s` where the environment does. Fields outside quotes stand for numbers. The grammar is
that of pyworkflow/template.py of scipion-pyworkflow.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from scsched.steps.errors import WorkflowError
from scsched.steps.jsonpath import path, shown
from scsched.steps.spec import Warned

_BOOL, _INT, _DECIMAL = "1", "3", "4"
_MAX_NUMBER = 18
_NUMBERS = {_BOOL: "true or false", _INT: "a whole number", _DECIMAL: "a number"}

# Every part excludes what ends it and is possessive, so the scan is linear in the text.
_FIELD = (
    r"~(?P<title>[^~|\n\"]{0,300}+)\|(?P<default>[^~|\n\"]*+)\|(?P<type>[0-6])"
    r"(?:\|(?P<alias>[^~|\n\"]{0,100}+))?~"
)
_VARIABLE = r"%\((?P<variable>[A-Za-z_][A-Za-z0-9_]{0,99}+)\)s"
_TOKEN = re.compile(rf'\\.|"|{_FIELD}|{_VARIABLE}|%%', re.DOTALL)
_WHOLE_FIELD = re.compile(_FIELD)
_VARIABLES = re.compile(rf"{_VARIABLE}|%%")
_UNQUOTED_FIELD = re.compile(r":[ \t]{0,20}+~")


@dataclass(frozen=True, slots=True)
class Settings:
    """What fills the fields (by alias) and the variables of a template."""

    params: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)


def is_template(text: str, *, filename: str) -> bool:
    """Whether the text is a template and not plain JSON."""
    if filename.endswith(".template") or not text.lstrip().startswith(("[", "{")):
        return True
    return _UNQUOTED_FIELD.search(text) is not None


def variables(text: str) -> frozenset[str]:
    """Names of the environment variables that a template asks for."""
    return frozenset(match["variable"] for match in _VARIABLES.finditer(text) if match["variable"])


def fill(text: str, settings: Settings) -> tuple[str, tuple[Warned, ...]]:
    """The template's JSON text and what could not be filled. Line numbers stay as in the file.

    :raises WorkflowError: for an alias that the template lacks, or a value of the wrong type.
    """
    body = _without_description(text)
    _check_aliases(settings, [m["alias"] for m in _TOKEN.finditer(body) if m["title"] is not None])
    filler = _Filler(settings)
    return filler.fill(body), tuple(filler.warnings)


def fill_values(
    protocols: Sequence[dict[str, object]], *, base: str, settings: Settings
) -> tuple[Warned, ...]:
    """Fill, in place, fields left in a file of plain JSON: whole values such as `"~Box|64|3|box~"`.

    Labels and comments are the user's own text and stay. Scipion would give the protocol the raw
    field, which is no number.
    """
    found = list(_left_over(protocols))
    _check_aliases(settings, [match["alias"] for _, _, match in found])
    warnings = []
    for index, key, match in found:
        value = _chosen(match, settings)
        text = _expanded(match["default"], settings.environ) if value is None else value
        protocols[index][key] = text
        if value is None:
            how = f"; change it with --param {match['alias']}=VALUE" if match["alias"] else ""
            problem = f"template field, taken as {shown(text)}{how}"
            warnings.append(Warned(path(base, index, key), problem))
    return tuple(warnings)


def _expanded(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLES.sub(
        lambda match: environ.get(match["variable"], match[0]) if match["variable"] else "%", text
    )


def _left_over(
    protocols: Sequence[dict[str, object]],
) -> Iterator[tuple[int, str, re.Match[str]]]:
    for index, protocol in enumerate(protocols):
        for key, value in protocol.items():
            if isinstance(value, str) and value.startswith("~") and not key.startswith("object."):
                match = _WHOLE_FIELD.fullmatch(value)
                if match:
                    yield index, key, match


def _without_description(text: str) -> str:
    """The text with the lines before the JSON blanked."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        bracket = line.find("[")
        rest = line[bracket:] + (lines[number + 1] if number + 1 < len(lines) else "")
        if bracket >= 0 and "{" in rest:
            return "\n" * number + "\n".join(lines[number:])
    raise WorkflowError("line 1", "no line with `[` before one with `{`; not a Scipion workflow")


def _check_aliases(settings: Settings, found: Sequence[str | None]) -> None:
    known = sorted({alias for alias in found if alias})
    for alias in settings.params:
        if alias in known:
            continue
        near = get_close_matches(alias, known, 1) or known[:8]
        use = f"use {', '.join(near)}" if near else "it has none; leave --param out"
        raise WorkflowError("--param", f"no field {shown(alias)} in the file; {use}")


class _Filler:
    """One pass over a template; knows whether it stands inside quotes, and on which line."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.warnings: list[Warned] = []
        self.unset: set[str] = set()
        self.quoted = False
        self.line = 1
        self.seen = 0

    def fill(self, text: str) -> str:
        parts = []
        for match in _TOKEN.finditer(text):
            parts.append(text[self.seen : match.start()])
            self.line += text.count("\n", self.seen, match.start())
            self.seen = match.end()
            parts.append(self._token(match))
        return "".join([*parts, text[self.seen :]])

    def _token(self, match: re.Match[str]) -> str:
        if match[0] == '"':
            self.quoted = not self.quoted
        if match["title"] is not None:
            return self._field(match)
        if match["variable"] is not None or match[0] == "%%":
            return self._variable(match)
        return match[0]

    def _field(self, match: re.Match[str]) -> str:
        value = _chosen(match, self.settings)
        if value is None:
            value = _VARIABLES.sub(self._variable, match["default"])
            if self.quoted:
                return value
        if self.quoted:
            return json.dumps(value)[1:-1]
        if match["type"] not in _NUMBERS:
            return json.dumps(value)
        number = _number(value, match["type"])
        if number is None:
            asked = shown(match["alias"] or match["title"])
            problem = f"{asked} is {shown(value)}; give --param with {_NUMBERS[match['type']]}"
            raise WorkflowError(f"line {self.line}", problem)
        return number

    def _variable(self, match: re.Match[str]) -> str:
        name = match["variable"]
        if name is None:
            return "%"
        if name in self.settings.environ:
            value = self.settings.environ[name]
            return json.dumps(value)[1:-1] if self.quoted else value
        if name not in self.unset:
            self.unset.add(name)
            problem = f"%({name})s stays as it is: set {name}, or give the path with --param"
            self.warnings.append(Warned(f"line {self.line}", problem))
        return match[0]


def _chosen(match: re.Match[str], settings: Settings) -> str | None:
    """The value that the user gave for the field, of the field's type."""
    value = settings.params.get(match["alias"] or "")
    kind = match["type"]
    # Some templates declare patterns as numbers; their own default shows it.
    if value is None or kind not in _NUMBERS or _number(match["default"], kind) is None:
        return value
    if _number(value, kind) is None:
        problem = f"{shown(match['alias'])} is {shown(value)}; give {_NUMBERS[kind]}"
        raise WorkflowError("--param", problem)
    return value


def _number(text: str, kind: str) -> str | None:
    """JSON for `text` as a value of that type; None if it is none."""
    if kind == _BOOL:
        return {"true": "true", "1": "true", "false": "false", "0": "false"}.get(text.lower())
    if len(text) > _MAX_NUMBER:
        return None
    try:
        value = int(text) if kind == _INT or text.isdecimal() else float(text)
    except ValueError:
        return None
    return json.dumps(value) if math.isfinite(value) else None
