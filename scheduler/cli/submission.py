"""Put a workflow in the queue: read the file as the user, show the plan, send it once."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scsched.scheduler.cli import columns, targets
from scsched.scheduler.client import Client
from scsched.scheduler.limits import MAX_KEY, MAX_NAME, MAX_PRIORITY, MAX_WORD
from scsched.scheduler.render import aligned, clean, put, put_json, table, talk, terminal_width
from scsched.steps import classes
from scsched.steps.errors import UsageError, WorkflowError

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema
    from scsched.steps.spec import ResourceClass

MAX_BYTES = 8 * 2**20
"""The reader refuses more, so no more is read."""


class Asked(NamedTuple):
    """What the command line asks for."""

    file: Path
    spot: bool | None = None
    name: str = ""
    project: str = ""
    params: list[str] | None = None
    maps: list[str] | None = None
    from_: list[str] | None = None
    until: list[str] | None = None
    only: list[str] | None = None
    hold: bool = False
    priority: int = 0
    tags: list[str] | None = None
    exact: str = "auto"
    key: str = ""
    play_spot: str = ""


def submit(asked: Asked, *, wait: bool, dry_run: bool, yes: bool, as_json: bool) -> int:
    """`scsched submit`; returns the exit code."""
    from scsched.scheduler.cli import watching

    client = targets.client()
    answer = send(client, asked, dry_run=dry_run, yes=yes, as_json=as_json)
    if dry_run or answer["id"] is None:
        return show_plan(answer, as_json=as_json)
    workflow = answer["id"]
    if as_json:
        put_json(answer)
    else:
        put(str(workflow))
    if sys.stdout.isatty():
        talk(
            f"submitted as {workflow}; watch it: scsched watch {workflow}   "
            f"stop it: scsched cancel {workflow}"
        )
    if not wait:
        return targets.DONE
    try:
        following = watching.to_the_end(client, workflow)
    except KeyboardInterrupt:
        watching.say_it_goes_on(workflow)
        raise
    return watching.conclude(following)


def _wanted(text: str) -> frozenset[str]:
    """Variables of the environment that a template asks for; only these leave this process."""
    if "%(" not in text:
        return frozenset()
    from scsched.steps import template

    return template.variables(text)


def send(
    client: Client, asked: Asked, *, dry_run: bool, yes: bool, as_json: bool
) -> schema.SubmitAnswer:
    """Submit; on a terminal the plan first, and a question if it costs anything."""
    body = request(asked)
    if dry_run:
        return client.submit({**body, "dry_run": True})
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or as_json:
        answer = client.submit(body)
        say_warnings(answer)
        return answer
    planned = client.submit({**body, "dry_run": True})
    say_warnings(planned)
    talk(*aligned(columns.PLAN, planned["plan"], width=terminal_width()))
    if not yes and any(line["usd_per_hour"] for line in planned["plan"]):
        import typer

        typer.confirm("Submit?", default=True, abort=True, err=True)
    return client.submit(body)


def show_plan(answer: schema.SubmitAnswer, *, as_json: bool) -> int:
    """A dry run is data."""
    if as_json:
        put_json(answer)
        return targets.DONE
    say_warnings(answer)
    table(columns.PLAN, answer["plan"])
    talk(f"{answer['steps']} steps; nothing was submitted")
    return targets.DONE


def say_warnings(answer: schema.SubmitAnswer) -> None:
    talk(*(f"warning: {clean(w['where'])}: {clean(w['problem'])}" for w in answer["warnings"]))


def request(asked: Asked) -> dict[str, object]:
    """The body of POST /v1/workflows, its idempotency key included."""
    if asked.exact not in ("auto", "on", "off"):
        raise UsageError(f"--exact {asked.exact}: write auto, on or off")
    _check(asked)
    text = _text(read(asked.file), asked.file.name)
    return {
        "document": text,
        "environ": {name: os.environ[name] for name in _wanted(text) if name in os.environ},
        "filename": asked.file.name,
        "name": asked.name or _stem(asked.file),
        "project": _absolute(asked.project),
        "market": {None: None, True: "spot", False: "on-demand"}[asked.spot],
        "params": assignments(asked.params, "--param"),
        "maps": maps(asked.maps),
        "from": _listed(asked.from_),
        "until": _listed(asked.until),
        "only": _listed(asked.only),
        "hold": asked.hold,
        "priority": asked.priority,
        "tags": tags(asked.tags),
        "key": asked.key or os.urandom(16).hex(),
        "play_spot": asked.play_spot or None,
        "exact": asked.exact,
        "dry_run": False,
    }


def spot(spot: bool, on_demand: bool) -> bool | None:
    """Which of the two flags was given; None: neither, the site's default holds.

    :raises UsageError: both.
    """
    if spot and on_demand:
        raise UsageError("--spot and --on-demand: one market at a time", hint="keep one of the two")
    return spot if spot or on_demand else None


def _check(asked: Asked) -> None:
    """What the broker would refuse, with the name of the flag.

    :raises UsageError: a value is too long, too large, or has signs that it may not have.
    """
    name = asked.name
    if len(name) > MAX_NAME or "/" in name or _has_controls(name):
        raise UsageError(
            f"--name {clean(name)[:40]}: no name", hint=f"{MAX_NAME} signs at most, and no /"
        )
    if abs(asked.priority) > MAX_PRIORITY:
        raise UsageError(
            f"--priority {asked.priority}: write a number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
        )
    if len(asked.key) > MAX_KEY:
        raise UsageError(f"--key {asked.key[:20]}...: write {MAX_KEY} signs at most")
    for pair in tags(asked.tags).items():
        if any(not word or len(word) > MAX_WORD or _has_controls(word) for word in pair):
            raise UsageError(
                f"--tag {clean('='.join(pair))[:40]}: no tag",
                hint=f"write KEY=VALUE, {MAX_WORD} signs each at most",
            )


def _has_controls(text: str) -> bool:
    return any(sign < " " or sign == "\x7f" for sign in text)


def read(file: Path) -> bytes:
    """The file's bytes, read as the user; a little more than is allowed, so it can be refused.

    :raises UsageError: it cannot be read.
    """
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_BYTES + 1)
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"{file}: {exc.strerror or exc}", hint="name a workflow file") from exc


def assignments(given: Sequence[str] | None, flag: str) -> dict[str, str]:
    """`a=v` words as a mapping.

    :raises UsageError: a word has no `=`, or one alias has two values.
    """
    found: dict[str, str] = {}
    for word in given or ():
        alias, equals, value = word.partition("=")
        if not equals or not alias:
            raise UsageError(f"{flag} {word}: no assignment", hint=f"write {flag} ALIAS=VALUE")
        if found.get(alias, value) != value:
            raise UsageError(f"{flag} {alias}: given twice", hint="keep one of the two")
        found[alias] = value
    return found


def maps(given: Sequence[str] | None) -> dict[str, ResourceClass]:
    """`--map MyProt=cpu-bound`, checked.

    :raises UsageError: no such resource class.
    """
    found = assignments(given, "--map").items()
    return dict(classes.parse_map(f"{protocol}={word}") for protocol, word in found)


def tags(given: Sequence[str] | None) -> dict[str, str]:
    """`owner=bo`, or a single word that is its own key, so that several may be given."""
    return assignments([word if "=" in word else f"{word}={word}" for word in given or ()], "--tag")


def _listed(given: Sequence[str] | None) -> list[str]:
    """`--only 311 --only 290,330`: the step ids."""
    words = [word.strip() for text in given or () for word in text.split(",")]
    return [word for word in words if word]


def _absolute(project: str) -> str | None:
    """The broker has another working directory."""
    return str(Path(project).expanduser().absolute()) if project else None


def _stem(file: Path) -> str:
    name = "workflow" if str(file) == "-" else file.name
    for ending in (".json.template", ".template", ".json"):
        name = name.removesuffix(ending)
    return clean(name).strip()[:MAX_NAME] or "workflow"


def _text(raw: bytes, filename: str) -> str:
    if len(raw) > MAX_BYTES:
        raise WorkflowError(filename, f"over {MAX_BYTES // 2**20} MiB: no workflow is that large")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise WorkflowError(
            filename, f"byte {exc.start} is not UTF-8", hint="export it again from Scipion"
        ) from exc
