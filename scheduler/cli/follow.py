"""The verbs that follow: watch, wait, logs."""

from typing import Annotated

import typer

from scsched.scheduler.cli.args import Json, Selector, StepId, WorkflowId


def register(app: typer.Typer) -> None:
    app.command("logs", epilog=_LOGS_EXAMPLES)(logs)
    app.command("watch", epilog=_WATCH_EXAMPLES)(watch)
    app.command("wait", epilog=_WAIT_EXAMPLES)(wait)


_WATCH_EXAMPLES = """\b
Examples:
  scsched watch last            the newest workflow, live; Ctrl-C leaves, it goes on
  scsched watch 42 > story.tsv  in a pipe: a line an event (time, step, kind, text), from the first
Exit code: 0 completed, 100 failed, 103 cancelled."""


def watch(selector: WorkflowId = "last", as_json: Json = False) -> int:
    """Follow a workflow live until it ends."""
    from scsched.scheduler.cli import targets, watching
    from scsched.scheduler.cli.events import Following

    client = targets.client()
    following = Following(client, targets.one_workflow(client, selector))
    try:
        watching.follow(following, as_json=as_json)
    except KeyboardInterrupt:
        watching.say_it_goes_on(following.target.workflow)
        raise
    return watching.conclude(following)


_WAIT_EXAMPLES = """\b
Examples:
  scsched wait 42 && echo done          until it ends
  scsched wait 42.311 --timeout 2h      one step, two hours at most
  scsched wait @night                   every workflow with this tag
Exit code: 0 all completed, 100 one failed, 103 one was cancelled, 101 not finished in time."""


def wait(
    selector: Selector = "last",
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="TIME", help="Such as 90, 90s, 15m, 2h or 1d.")
    ] = "",
    as_json: Json = False,
) -> int:
    """Wait for the end; the exit code is the outcome."""
    from scsched.scheduler.cli import targets, watching

    client = targets.client()
    deadline = watching.deadline(timeout)
    found = targets.select(client, selector)
    return watching.wait(client, found, deadline=deadline, as_json=as_json)


_LOGS_EXAMPLES = """\b
Examples:
  scsched logs 42.311               the last 20 lines of what RELION printed
  scsched logs 42.311 -f            go on until the step ends; Ctrl-C leaves
  scsched logs last --stderr -n 50  of the step that runs, or of the last one that failed"""


def logs(
    selector: StepId = "last",
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="What it printed as errors.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Lines from the end.")] = 20,
) -> int:
    """Show what a step has printed."""
    from scsched.scheduler.cli import tail, targets

    client = targets.client()
    target = tail.step_of(client, targets.select(client, selector))
    return tail.show(client, target, stream="stderr" if stderr else "stdout", lines=lines,
                     follow=follow)  # fmt: skip
