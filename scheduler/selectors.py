"""What a person means by `42`, `42.311`, `last`, `3,5-8`, `@tag` or `all`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from scsched.db import queries
from scsched.db.session import Session
from scsched.steps.errors import NotFound, UsageError

MAX_RANGE = 10_000
_ONE = re.compile(r"(\d{1,9})(?:\.(\d{1,12}))?", re.ASCII)
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)
_LAST = re.compile(r"last(?:\.(\d{1,12}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Selected:
    """A workflow, or one step of it."""

    workflow: int
    step: str | None = None


def select(session: Session, text: str, uid: int) -> list[Selected]:
    """What the selector names, in its order, each once.

    :param uid: who asks: `last`, `all` and tags look at this user's workflows.
    :raises UsageError: it is no selector.
    :raises NotFound: it names nothing that exists.
    """
    parts = [part.strip() for part in text.split(",")]
    named = [(part, one) for part in parts for one in _part(session, part, uid)]
    known = queries.owners(session, {one.workflow for _, one in named})
    for part, one in named:
        if one.workflow not in known and not _RANGE.fullmatch(part):
            raise NotFound(f"no workflow {one.workflow}", hint="scsched queue --all lists them")
    kept = list(dict.fromkeys(one for _, one in named if one.workflow in known))
    if not kept:
        raise NotFound(f"{text}: nothing of yours is selected", hint="scsched queue lists them")
    for one in kept:
        if one.step is not None:
            queries.step_ids(session, one.workflow, [one.step])
    return kept


def _part(session: Session, part: str, uid: int) -> Iterable[Selected]:
    if one := _ONE.fullmatch(part):
        return [Selected(int(one[1]), one[2])]
    if spread := _RANGE.fullmatch(part):
        return _range(part, int(spread[1]), int(spread[2]))
    if last := _LAST.fullmatch(part):
        newest = queries.last(session, uid)
        if newest is None:
            raise NotFound("you have no workflow yet", hint="scsched submit workflow.json")
        return [Selected(newest, last[1])]
    if part == "all":
        return [Selected(workflow) for workflow in queries.live_workflows(session, uid)]
    if part.startswith("@") and len(part) > 1:
        key, equals, value = part[1:].partition("=")
        found = queries.tagged(session, value or key, key if equals else None, uid)
        return [Selected(workflow) for workflow in found]
    raise UsageError(f"{part!r} is no selector", hint="write 42, 42.311, last, 3,5-8, @tag or all")


def _range(part: str, first: int, last: int) -> Iterable[Selected]:
    if not first <= last < first + MAX_RANGE:
        raise UsageError(f"{part!r}: write the smaller number first, {MAX_RANGE} at most")
    return [Selected(workflow) for workflow in range(first, last + 1)]
