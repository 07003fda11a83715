"""The verbs that look: queue, show, why, hist, nodes, receipt."""

import datetime
import os
import re
from typing import Annotated

import typer

from scsched.scheduler.cli import columns, listing
from scsched.scheduler.cli.args import Columns, Json, NoHeader, Selector, WorkflowId
from scsched.scheduler.cli.listing import Options
from scsched.steps.errors import UsageError


def register(app: typer.Typer) -> None:
    app.command("queue", epilog=_QUEUE_EXAMPLES)(queue)
    for alias in ("q", "squeue"):
        app.command(alias, hidden=True, epilog=_QUEUE_EXAMPLES)(queue)
    app.command("show", epilog=_SHOW_EXAMPLES)(show)
    app.command("why", epilog=_WHY_EXAMPLES)(why)
    app.command("hist", epilog=_HIST_EXAMPLES)(hist)
    app.command("sacct", hidden=True, epilog=_HIST_EXAMPLES)(hist)
    app.command("nodes", epilog=_NODES_EXAMPLES)(nodes)
    app.command("sinfo", hidden=True, epilog=_NODES_EXAMPLES)(nodes)
    app.command("receipt", epilog=_RECEIPT_EXAMPLES)(receipt)


_QUEUE_EXAMPLES = """\b
Examples:
  scsched queue                     mine, newest first
  scsched queue -a -s RUNNING       everybody's that run
  scsched queue -o id,state,usd -h  three columns for a script
  scsched queue -i 5                again every 5 seconds
Aliases: q, squeue. Slurm's two-letter states (PD, R, CD, F, CA) are understood."""


def queue(
    everybody: Annotated[bool, typer.Option("-a", "--all", help="Everybody's.")] = False,
    me: Annotated[bool, typer.Option("--me", help="Mine; the usual.")] = False,
    user: Annotated[str, typer.Option("-u", "--user", help="Of these users.")] = "",
    state: Annotated[
        str,
        typer.Option("-s", "-t", "--state", "--states", help="In these states; ended ones too."),
    ] = "",
    name: Annotated[str, typer.Option("-n", "--name", help="With this in the name.")] = "",
    chosen: Columns = "",
    no_header: NoHeader = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many.")] = None,
    every_s: Annotated[
        float, typer.Option("-i", "--every", min=0.0, help="Again every so many seconds.")
    ] = 0.0,
    as_json: Json = False,
) -> int:
    """Show the queue, with a reason for what does not run."""
    del me
    return listing.queue(
        Options(
            everybody=everybody,
            user=user,
            state=state,
            name=name,
            columns=chosen,
            no_header=no_header,
            limit=limit,
            json=as_json,
            every_s=every_s,
        )
    )


_SHOW_EXAMPLES = """\b
Examples:
  scsched show last           the newest workflow and its steps
  scsched show 42.311         one step: its runs, how the last one ended, its events
  scsched show 42.311 --json  the same for a script"""


def show(selector: Selector, as_json: Json = False) -> int:
    """Show a workflow with its steps, or a step with its runs."""
    from scsched.scheduler.cli import cards, targets
    from scsched.scheduler.render import put, put_json

    client = targets.client()
    for i, target in enumerate(targets.select(client, selector)):
        if i and not as_json:
            put("")
        if target.step:
            step = client.step(target.workflow, target.step)
            put_json(step) if as_json else cards.step_card(step)
        else:
            workflow = client.workflow(target.workflow)
            put_json(workflow) if as_json else cards.workflow_card(workflow)
    return 0


_WHY_EXAMPLES = """\b
Examples:
  scsched why 42.311          why this step waits, failed or was interrupted
  scsched why last            the steps of the newest workflow that matter now"""


def why(selector: Selector, as_json: Json = False) -> int:
    """Say why something waits, failed or was interrupted."""
    from scsched.scheduler.cli import cards, targets
    from scsched.scheduler.render import clean, put, put_json

    client = targets.client()
    found = [row for t in targets.select(client, selector) for row in cards.why(client, t)]
    if as_json:
        items = [{"id": name.split(" ")[0], "state": state, **said} for name, state, said in found]
        put_json({"schema": "scsched/v1", "items": items})
        return 0
    for name, state, said in found:
        reason = f" {clean(said['reason'])}" if said["reason"] else ""
        put(f"{name} {state}{reason}: {clean(said['sentence'])}")
        put(*(f"  {clean(line)}" for line in said["detail"]))
    return 0


_HIST_EXAMPLES = """\b
Examples:
  scsched hist                        mine of the last 7 days
  scsched hist -S 2026-11-01 -u bo    bo's since a day
  scsched hist -a -S 12h -o step,end_reason,usd
Alias: sacct."""


def hist(
    since: Annotated[
        str, typer.Option("-S", "--since", help="A day, a time, or an age such as 90m, 12h, 7d.")
    ] = "7d",
    until: Annotated[str, typer.Option("-E", "--until", help="The same, for the end.")] = "",
    everybody: Annotated[bool, typer.Option("-a", "--all", help="Everybody's.")] = False,
    user: Annotated[str, typer.Option("-u", "--user", help="Of this user; else mine.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 1000,
    chosen: Columns = "",
    no_header: NoHeader = False,
    as_json: Json = False,
) -> int:
    """Show past runs and how each one ended."""
    from scsched.scheduler.cli import targets
    from scsched.scheduler.render import put_json, table, talk

    now = datetime.datetime.now(datetime.UTC)
    picked = columns.chosen(chosen, columns.HIST, columns.HIST_MORE)
    answer = targets.client().hist(
        since=instant(since, now),
        until=instant(until, now),
        user=None if everybody else user or str(os.getuid()),
        limit=limit,
    )
    if as_json:
        put_json(answer)
        return 0
    table(picked, answer["items"], header=not no_header)
    if not answer["items"]:
        talk(f"No run since {since}. Further back: scsched hist -S 90d")
    return 0


_NODES_EXAMPLES = """\b
Examples:
  scsched nodes              the pools, and the nodes that are up
  scsched nodes --pools      the pools only
  scsched nodes --ended      nodes that are gone too
Alias: sinfo."""


def nodes(
    ended: Annotated[bool, typer.Option("--ended", help="Nodes that are gone too.")] = False,
    pools: Annotated[bool, typer.Option("--pools", help="The pools only.")] = False,
    chosen: Columns = "",
    no_header: NoHeader = False,
    as_json: Json = False,
) -> int:
    """Show the pools and the nodes. In a pipe: the nodes only, or the pools with --pools."""
    from scsched.scheduler.cli import targets
    from scsched.scheduler.render import put, put_json, table

    picked = columns.chosen(chosen, columns.POOLS if pools else columns.NODES)
    answer = targets.client().nodes(ended=ended)
    if as_json:
        put_json(answer)
        return 0
    if pools:
        table(picked, answer["pools"], header=not no_header)
        return 0
    if listing.is_terminal():
        table(columns.POOLS, answer["pools"])
        put("" if answer["items"] else "no node is up")
    if answer["items"] or not listing.is_terminal():
        table(picked, answer["items"], header=not no_header)
    return 0


_RECEIPT_EXAMPLES = """\b
Examples:
  scsched receipt last         hours, iterations and cost of every run of the newest workflow
  scsched receipt 42 --json    the same for a script"""


def receipt(selector: WorkflowId, as_json: Json = False) -> int:
    """Show hours, iterations lost and cost of every run."""
    from scsched.scheduler.cli import cards, targets
    from scsched.scheduler.render import put_json

    client = targets.client()
    answer = client.receipt(targets.one_workflow(client, selector))
    put_json(answer) if as_json else cards.receipt(answer)
    return 0


_AGE = re.compile(r"(\d{1,5})([mhdw])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def instant(text: str, now: datetime.datetime) -> str | None:
    """`12h`, `2026-11-01` or `2026-11-01T08:00` as ISO 8601 UTC; None for an empty text.

    :raises UsageError: it is none of these.
    """
    if not text:
        return None
    if age := _AGE.fullmatch(text):
        at = now - datetime.timedelta(seconds=int(age[1]) * _UNIT_S[age[2]])
        return _utc(at)
    try:
        return _utc(datetime.datetime.fromisoformat(text).astimezone(datetime.UTC))
    except (ValueError, OverflowError) as exc:
        raise UsageError(
            f"{text}: no time", hint="write 2026-11-01, 2026-11-01T08:00, or an age such as 12h"
        ) from exc


def _utc(at: datetime.datetime) -> str:
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
