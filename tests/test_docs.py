"""The documentation says what is there: commands, keys, links, words, routes, files."""

import re
import shlex
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command

from scsched.db import plays
from scsched.db.models import NodeState
from scsched.scheduler import body_limit, config
from scsched.scheduler.cli.app import application
from scsched.scheduler.config import Settings
from scsched.scheduler.config_pools import PoolConfig, StorageConfig
from scsched.steps import classes, errors
from scsched.steps.state import EndReason, PendingReason, StepState

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
REFERENCE = DOCS / "reference"
EXAMPLE = ROOT / "examples" / "config.toml"

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ENDS_A_COMMAND = frozenset({"|", "||", "&&", "&", ";", ">", ">>"})
_BEFORE = frozenset({"$", "sudo", "nohup"})
_TOP_FLAGS = frozenset({"--help", "--version", "--install-completion", "--show-completion"})

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def words_of(line: str) -> list[str]:
    """The arguments of `scsched` in a shell line; empty where it calls something else."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    while words and (words[0] in _BEFORE or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    if words[:1] != ["scsched"]:
        return []
    end = next((i for i, word in enumerate(words) if word in _ENDS_A_COMMAND), len(words))
    return words[1:end]


def commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """Arguments of each call of `scsched`, and whether it is one to be typed as it stands."""
    for block in _FENCE.findall(text):
        for line in block.splitlines():
            if found := words_of(line):
                yield found, True
    for span in _SPAN.findall(_FENCE.sub("", text)):
        if found := words_of(span):
            yield found, False


def problem(words: list[str], *, whole: bool) -> str:
    """What the command line says to these arguments; empty: it takes them.

    :param whole: nothing may be left out; in running text a verb may stand for itself.
    """
    command = get_command(application())
    while isinstance(found := getattr(command, "commands", None), Mapping):
        verb, words = words[0] if words else "", words[1:]
        if verb in _TOP_FLAGS or verb == "VERB":
            return ""
        if verb not in found:
            return f"no verb {verb!r}" if whole or verb else ""
        command = found[verb]
    try:
        command.make_context("scsched", list(words))
    except typer.TyperException as exc:
        said = str(exc.format_message())
        return "" if "Missing" in said and not whole else said
    except typer.Exit:
        return ""
    return ""


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of a model's keys; those of a list of tables under the list's name."""
    for name, field in model.model_fields.items():
        kind = PoolConfig if name == "pool" else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys_of(kind, f"{prefix}{name}.")
        elif name != "classes" or prefix:
            yield f"{prefix}{name}"


def all_keys() -> set[str]:
    storage = (f"storage.NAME.{key}" for key in StorageConfig.model_fields)
    return {
        *keys_of(Settings),
        "provider.NAME.kind",
        *(f"classes.NAME.{key}" for key in classes._SITE_KEYS),
        *storage,
    }


def first_cells(page: Path) -> set[str]:
    """What stands in backticks in the first column of the tables."""
    return cells_of(page.read_text())


def cells_of(text: str) -> set[str]:
    rows = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return {word for cell in rows for word in _SPAN.findall(cell)}


def anchors(page: Path) -> set[str]:
    """The headings as a link names them."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pages
def test_every_command_in_it_is_one(page: Path) -> None:
    wrong = {
        f"scsched {shlex.join(words)}": said
        for words, whole in commands(page.read_text())
        if (said := problem(words, whole=whole))
    }
    assert wrong == {}


def test_a_wrong_command_would_be_found() -> None:
    assert problem(["submit", "w.json", "--spott"], whole=True)
    assert problem(["sumbit", "w.json"], whole=True)
    assert problem(["submit"], whole=True)
    assert problem(["db", "downgrade"], whole=False)
    assert not problem(["submit"], whole=False)


def test_the_commands_are_seen() -> None:
    found = {words[0] for page in PAGES for words, _ in commands(page.read_text())}
    assert {"inspect", "run", "submit", "queue", "show", "receipt", "ckpt", "db"} <= found


@pages
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    index = DOCS / "index.md"
    linked = {(DOCS / link).resolve() for link in _LINK.findall(index.read_text())}
    assert {page for page in PAGES if page.is_relative_to(DOCS)} - {index} <= linked


def test_every_key_of_the_configuration_is_documented_and_no_other() -> None:
    text = (REFERENCE / "configuration.md").read_text()
    before, _, after = text.partition("### Kind ec2")
    found = cells_of(before + after.partition("## Retries")[2])
    assert {key for key in found if key.islower() or "." in key} == all_keys()


def test_the_example_loads(tmp_path: Path) -> None:
    settings = config.load(EXAMPLE, {"HOME": str(tmp_path)})
    assert [pool.name for pool in settings.pools()] == ["work", "spot", "service"]
    assert "MyLabRefine" in settings.site_classes()


def test_the_example_names_every_key_with_its_default(tmp_path: Path) -> None:
    """Taking the # away from each default changes nothing."""
    text = re.sub(r"^#(?=\w+ =)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    whole = tmp_path / "config.toml"
    whole.write_text(text)
    environ = {"HOME": str(Path.home())}
    one, other = config.load(EXAMPLE, environ), config.load(whole, environ)
    assert one.model_dump(exclude={"classes"}) == other.model_dump(exclude={"classes"})
    assert one.site_classes() == other.site_classes()
    # A default of none cannot be written in TOML.
    told = config.origins(other)
    assert {key for key, value, origin in told if origin == "default" and value} <= {
        f"pool[{number}].{key}" for number in (1, 2) for key in PoolConfig.model_fields
    }


def test_every_verb_with_json_has_its_value_documented() -> None:
    """Under one of its names, where it has several."""
    section = (REFERENCE / "cli.md").read_text().partition("## JSON")[2]
    told = {" ".join(re.findall(r"[a-z]+", cell)) for cell in cells_of(section)}
    assert [names for names in verbs_with_json() if not names & told] == []


def verbs_with_json() -> list[set[str]]:
    """The names of each such verb."""
    found: dict[object, set[str]] = {}
    verbs = [("", get_command(application()))]
    for name, command in verbs:
        inner = getattr(command, "commands", {})
        verbs.extend((f"{name} {verb}".strip(), under) for verb, under in inner.items())
        if any("--json" in option.opts for option in command.params):
            found.setdefault(command.help, set()).add(name)
    return list(found.values())


@pytest.mark.parametrize("states", [StepState, PendingReason, EndReason, NodeState])
def test_every_state_and_reason_is_documented(states: type[StrEnum]) -> None:
    assert {str(member) for member in states} <= first_cells(REFERENCE / "states-and-reasons.md")


def test_every_kind_of_event_is_documented() -> None:
    told = first_cells(REFERENCE / "states-and-reasons.md")
    sources = "".join(path.read_text() for path in (ROOT / "db").glob("*.py"))
    calls = re.findall(r'\b(?:event|_tell|_told)\([^"\n]*\n?\s*"(\w+)"', sources)
    kinds = {kind for kind in calls if not kind.endswith("_id")} | {plays.KIND}
    assert {"submitted", "launched", "driver_lost", "stop_asked"} <= kinds
    assert kinds <= told


def test_every_exit_code_is_documented() -> None:
    text = (REFERENCE / "exit-codes.md").read_text()
    codes = {
        found.exit_code
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.ScschedError)
    }
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert codes <= told


def test_every_route_and_error_code_is_documented() -> None:
    text = (REFERENCE / "api.md").read_text()
    source = (ROOT / "scheduler" / "api.py").read_text()
    routes = re.findall(r'@app\.(get|post)\("(/v1[^"]*)"', source)
    told = set(re.findall(r"^\| `(GET|POST) (/v1[^`]*)`", text, re.MULTILINE))
    assert told == {(method.upper(), path) for method, path in routes}
    status = source.partition("_STATUS = {")[2].partition("}")[0]
    assert set(re.findall(r'"(\w+)": \d', status)) <= first_cells(REFERENCE / "api.md")


def test_every_word_of_an_action_and_the_longest_request_are_documented() -> None:
    sources = (ROOT / "db" / "actions.py", ROOT / "scheduler" / "steering.py")
    words = {word for path in sources for word in re.findall(r'"([A-Z]{3,})"', path.read_text())}
    assert {"HELD", "GATE"} < words <= first_cells(REFERENCE / "api.md")
    text = (REFERENCE / "api.md").read_text()
    assert f"over {body_limit.MOST_BYTES >> 20} MiB is refused" in text


def test_no_page_names_a_reason_that_there_is_not() -> None:
    section = (REFERENCE / "cli.md").read_text().partition("## States")[2].partition("\n## ")[0]
    told = {word for word in _SPAN.findall(section) if re.fullmatch(r"([A-Z][a-z]+)+", word)}
    assert told
    assert told <= set(PendingReason)


UNITS = sorted((ROOT / "packaging").rglob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.parent.name)
def test_a_unit_starts_the_broker_and_leaves_relion_alone(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    (start,) = (line for line in lines if line.startswith("ExecStart="))
    assert start.endswith("/scsched serve")
    assert not problem(start.split()[1:], whole=True)
    assert "KillMode=process" in lines
