"""The verbs that steer: cancel, hold, release, requeue, resubmit."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from scsched.scheduler.cli.args import Json, Selector, Yes
from scsched.steps.errors import UsageError

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

Reason = Annotated[str, typer.Option("--reason", help="Kept in the events, for others to read.")]
BySteps = Annotated[bool, typer.Option("--by-steps", help="Answer with every step that was moved.")]


def register(app: typer.Typer) -> None:
    app.command("cancel", epilog=_CANCEL_EXAMPLES)(cancel)
    app.command("scancel", hidden=True, epilog=_CANCEL_EXAMPLES)(cancel)
    app.command(
        "hold", epilog=_example("hold", "nothing of it starts any more; what runs goes on")
    )(hold)
    app.command("release", epilog=_RELEASE_EXAMPLES)(release)
    app.command("requeue", epilog=_REQUEUE_EXAMPLES)(requeue)
    app.command("resubmit", epilog=_RESUBMIT_EXAMPLES)(resubmit)


def _example(verb: str, meaning: str) -> str:
    return (
        f"\b\nExamples:\n  scsched {verb} 42         {meaning}\n"
        f"  scsched {verb} 42.311     one step"
    )


_CANCEL_EXAMPLES = """\b
Examples:
  scsched cancel 42                     stop this workflow; nodes are given back
  scsched cancel 42.311                 stop one step; what depends on it waits
  scsched cancel @owner=bo -y           everything with this tag, without asking
Finished iterations are kept: scsched resubmit goes on from them. Alias: scancel."""


def cancel(
    selector: Selector,
    reason: Reason = "",
    by_steps: BySteps = False,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Stop workflows or steps.

    Asks first where the selector names several workflows.
    """
    from scsched.scheduler.cli import targets

    client = targets.client()
    found = targets.select(client, selector)
    workflows = sorted({target.workflow for target in found})
    if len(workflows) > 1 and not yes:
        _ask(f"Cancel {len(workflows)} workflows ({', '.join(map(str, workflows))})?")
    return _act("cancel", selector, reason=reason, by_steps=by_steps, as_json=as_json)


def hold(
    selector: Selector, reason: Reason = "", by_steps: BySteps = False, as_json: Json = False
) -> int:
    """Start nothing more of it; what runs goes on."""
    return _act("hold", selector, reason=reason, by_steps=by_steps, as_json=as_json)


_RELEASE_EXAMPLES = """\b
Examples:
  scsched release 42         go on after scsched hold 42
  scsched release 42.150     the interactive step was done in Scipion: go on behind it"""


def release(
    selector: Selector, reason: Reason = "", by_steps: BySteps = False, as_json: Json = False
) -> int:
    """Let go on what was held or waited for you."""
    return _act("release", selector, reason=reason, by_steps=by_steps, as_json=as_json)


_REQUEUE_EXAMPLES = """\b
Examples:
  scsched requeue 42.311     stop its run and start it again from its newest whole iteration"""


def requeue(
    selector: Selector, reason: Reason = "", by_steps: BySteps = False, as_json: Json = False
) -> int:
    """Stop what runs and put it back in the queue.

    It resumes from its newest whole iteration.
    """
    return _act("requeue", selector, reason=reason, by_steps=by_steps, as_json=as_json)


_RESUBMIT_EXAMPLES = """\b
Examples:
  scsched resubmit 42        every failed or cancelled step of 42 once more
  scsched resubmit 42.311    one step; those that wait for it follow
Finished iterations are used: nothing that was completed runs again."""


def resubmit(
    selector: Selector, reason: Reason = "", by_steps: BySteps = False, as_json: Json = False
) -> int:
    """Try failed or cancelled steps once more.

    They go on from where they stopped.
    """
    return _act("resubmit", selector, reason=reason, by_steps=by_steps, as_json=as_json)


def _act(action: str, selector: str, *, reason: str, by_steps: bool, as_json: bool) -> int:
    from scsched.scheduler.cli import columns, targets
    from scsched.scheduler.render import put_json, table, talk

    answer = targets.client().act(action, selector, reason=reason, by_steps=by_steps)
    if as_json:
        put_json(answer)
    elif any(not _stands(action, item) for item in answer["items"]):
        table(columns.MOVED, answer["items"])
    else:
        talk(f"{selector}: nothing there to {action}; see scsched show {selector}")
    return 0


_MAY_HAVE_CHANGED = {
    "hold": ("CONFIGURING", "RUNNING", "COMPLETING", "STOPPING"),
    "release": ("CONFIGURING", "RUNNING", "COMPLETING", "STOPPING", "HELD"),
    "requeue": ("PENDING",),
}
"""Words of a step under which the verb may have done something that does not show in them: one
that runs is held for later, one that waits for a time is let start, one is let go in a workflow
that is held."""


def _stands(action: str, item: "schema.Moved") -> bool:
    """Whether nothing of it changed."""
    hidden = _MAY_HAVE_CHANGED.get(action, ()) if item["step"] is not None else ()
    return item["was"] == item["now"] and item["was"] not in hidden


def _ask(question: str) -> None:
    """:raises UsageError: nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(f"{question} nobody is there to ask", hint="add -y")
    typer.confirm(question, abort=True, err=True)
