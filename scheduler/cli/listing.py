"""`scsched queue`: the hot path. Imports neither typer nor rich, and http.client only to ask."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from scsched.scheduler import paths
from scsched.scheduler.cli import columns
from scsched.scheduler.client import Client
from scsched.scheduler.render import Column, money, put_json, table, talk, wants_colour
from scsched.steps.errors import UsageError

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

_SLURM = {"PD": "PENDING", "CF": "RUNNING", "R": "RUNNING", "CG": "RUNNING", "CD": "COMPLETED"}
_SLURM |= {"F": "FAILED", "CA": "CANCELLED"}
STATES = ("RUNNING", "PENDING", "HELD", "ATTENTION", "COMPLETED", "FAILED", "CANCELLED")
_ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
"""States that `queue` leaves out unless they are asked for."""


class Options(NamedTuple):
    everybody: bool = False
    user: str = ""
    state: str = ""
    name: str = ""
    columns: str = ""
    no_header: bool = False
    limit: int | None = None
    json: bool = False
    every_s: float = 0.0
    """Print again after so many seconds; 0: once."""


def quick_options(argv: Sequence[str]) -> Options | None:
    """The options of a plain command line; None: typer shall read it."""
    options = Options()
    words = iter(argv)
    for word in words:
        if word in ("-a", "--all"):
            options = options._replace(everybody=True)
        elif word == "--json":
            options = options._replace(json=True)
        elif word in ("-h", "--no-header"):
            options = options._replace(no_header=True)
        elif word == "-o" and (value := next(words, "")):
            options = options._replace(columns=value)
        else:
            return None
    return options


def queue(options: Options) -> int:
    """Print the queue, once or again and again; returns the exit code."""
    client = Client(paths.find_socket())
    chosen = columns.chosen(options.columns, columns.QUEUE, columns.QUEUE_MORE)
    while True:
        answer = _asked(client, options)
        if options.every_s and wants_colour():
            sys.stdout.write("\x1b[H\x1b[2J\x1b[3J")
        _show(answer, options, chosen)
        if not options.every_s:
            return 0
        time.sleep(options.every_s)


def states(text: str) -> str:
    """`R,pd` or `running,pending` as the broker's own words.

    :raises UsageError: no such state.
    """
    words = [word.strip().upper() for word in text.split(",") if word.strip()]
    found = [_SLURM.get(word, word) for word in words]
    if unknown := [word for word in found if word not in STATES]:
        raise UsageError(f"{unknown[0]}: no such state", hint=f"write any of {', '.join(STATES)}")
    return ",".join(dict.fromkeys(found))


def _asked(client: Client, options: Options) -> schema.WorkflowsAnswer:
    wanted = states(options.state)
    answer = client.workflows(
        scope="all" if options.everybody or options.user else "mine",
        live=not _ENDED & set(wanted.split(",")),
        state=wanted,
        limit=options.limit,
    )
    return {**answer, "items": [item for item in answer["items"] if _wanted(item, options)]}


def _wanted(item: schema.Workflow, options: Options) -> bool:
    if options.user and item["user"] not in options.user.split(","):
        return False
    return not options.name or options.name in item["name"]


def _show(answer: schema.WorkflowsAnswer, options: Options, chosen: Sequence[Column]) -> None:
    if options.json:
        put_json(answer)
        return
    items = answer["items"]
    if items or not is_terminal():
        table(chosen, items, header=not options.no_header)
    if is_terminal():
        talk(_footer(items, options))


def _footer(items: Sequence[schema.Workflow], options: Options) -> str:
    if not items:
        whose = "Nothing" if options.everybody else "Nothing of yours"
        return (
            f"{whose} is in the queue. Submit: scsched submit workflow.json   "
            "ended ones: scsched hist   everybody's: scsched queue -a"
        )
    running = sum(item["state"] == "RUNNING" for item in items)
    waiting = [item["id"] for item in items if item["state"] == "ATTENTION"]
    cost = money(sum(item["usd"] for item in items))
    plural = "" if len(items) == 1 else "s"
    line = f"{len(items)} workflow{plural}, {running} running; cost so far {cost}"
    return f"{line}; {waiting[0]} waits for you: scsched why {waiting[0]}" if waiting else line


def is_terminal() -> bool:
    return sys.stdout.isatty()
