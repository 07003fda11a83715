"""The verbs that begin something: inspect, submit, run."""

from pathlib import Path
from typing import Annotated

import typer

from scsched.scheduler.cli.args import Json, Maps, Params, Yes

File = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A workflow exported from Scipion (JSON); - is stdin."),
]
Spot = Annotated[bool, typer.Option("--spot", help="On nodes that may be taken back.")]
OnDemand = Annotated[bool, typer.Option("--on-demand", help="On firm nodes.")]
Name = Annotated[str, typer.Option("--name", help="Its name in the queue; else the file's.")]
Project = Annotated[
    str, typer.Option("--project", metavar="DIR", help="The Scipion project to make or to use.")
]
From = Annotated[
    list[str] | None,
    typer.Option("--from", metavar="STEP", help="Only this step and those after. Repeatable."),
]
Until = Annotated[
    list[str] | None,
    typer.Option("--until", metavar="STEP", help="Only this step and those before. Repeatable."),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="STEP", help="Only this step. Repeatable.")
]
Hold = Annotated[bool, typer.Option("--hold", help="Start nothing before scsched release.")]
Priority = Annotated[
    int, typer.Option("--priority", help="Higher goes first, from -1000 to 1000; 0 is usual.")
]
Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="To select it by, as @VALUE. Repeatable."),
]
Exact = Annotated[
    str,
    typer.Option(
        "--exact",
        metavar="auto|on|off",
        help="Classification as if never interrupted: one RELION process an iteration.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; do nothing.")]
Key = Annotated[
    str, typer.Option("--key", help="A word of yours: submitting again with it changes nothing.")
]


def register(app: typer.Typer) -> None:
    app.command("inspect", epilog=_INSPECT_EXAMPLES)(inspect)
    app.command("submit", epilog=_SUBMIT_EXAMPLES)(submit)
    app.command("run", epilog=_RUN_EXAMPLES)(run)


_INSPECT_EXAMPLES = """\b
Examples:
  scsched inspect workflow.json                    steps, what each needs, gates, warnings
  scsched inspect t.json.template --param box=256  a template, with its fields filled
  scsched inspect w.json --map MyProt=cpu-bound    accept a protocol class unknown to scsched
Exit code: 65 if the file is refused, with the place in it and what to do. Needs no broker."""


def inspect(file: File, param: Params = None, map_: Maps = None, as_json: Json = False) -> int:
    """Read a workflow file and show what would run."""
    from scsched.scheduler.cli import inspecting, submission

    return inspecting.inspect(
        submission.read(file),
        filename=file.name,
        params=submission.assignments(param, "--param"),
        maps=submission.maps(map_),
        as_json=as_json,
    )


_SUBMIT_EXAMPLES = """\b
Examples:
  scsched submit workflow.json --spot          spot nodes; resumes when they are taken
  scsched submit workflow.json --dry-run       the plan only: nodes, ranks and cost an hour
  scsched submit w.json --only 311 --project ~/ScipionUserData/projects/ribo
  id=$(scsched submit w.json -y) && scsched wait $id
Prints the id on stdout. Exit code: 65 refused file, 105 nothing can run it, 75 no broker;
with --wait the outcome: 0 completed, 100 failed, 103 cancelled."""


def submit(
    file: File,
    spot: Spot = False,
    on_demand: OnDemand = False,
    name: Name = "",
    project: Project = "",
    param: Params = None,
    map_: Maps = None,
    from_: From = None,
    until: Until = None,
    only: Only = None,
    hold: Hold = False,
    priority: Priority = 0,
    tag: Tags = None,
    exact: Exact = "auto",
    key: Key = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Put a workflow in the queue."""
    from scsched.scheduler.cli import submission

    asked = submission.Asked(
        file=file, name=name, project=project, params=param, maps=map_,
        from_=from_, until=until, only=only, hold=hold, priority=priority, tags=tag,
        spot=submission.spot(spot, on_demand), exact=exact, key=key,
    )  # fmt: skip
    return submission.submit(asked, wait=wait, dry_run=dry_run, yes=yes, as_json=as_json)


_RUN_EXAMPLES = """\b
Examples:
  scsched run workflow.json                          start to end, here; Ctrl-C cancels
  scsched run workflow.json --spot --play-spot 90s:kill
                                                     lose the nodes after 90 s, and resume
  scsched run w.json --spot --play-spot 436@it4:notice=30
                                                     30 s of notice in iteration 4 of step 436
Uses the broker that runs, or starts one for as long as the workflow takes.
Exit code: 0 completed, 100 failed, 103 cancelled, 130 Ctrl-C."""


def run(
    file: File,
    spot: Spot = False,
    on_demand: OnDemand = False,
    name: Name = "",
    project: Project = "",
    param: Params = None,
    map_: Maps = None,
    from_: From = None,
    until: Until = None,
    only: Only = None,
    hold: Hold = False,
    priority: Priority = 0,
    tag: Tags = None,
    exact: Exact = "auto",
    key: Key = "",
    play_spot: Annotated[
        str,
        typer.Option(
            "--play-spot",
            metavar="SCHEDULE",
            help="Take local spot nodes as a cloud would: 90s:kill, 436@it4:notice=30, ...",
        ),
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> int:
    """Run a workflow from start to end, here, and print its receipt."""
    from scsched.scheduler.cli import running, submission

    asked = submission.Asked(
        file=file, name=name, project=project, params=param, maps=map_,
        from_=from_, until=until, only=only, hold=hold, priority=priority, tags=tag,
        spot=submission.spot(spot, on_demand), exact=exact, key=key, play_spot=play_spot,
    )  # fmt: skip
    return running.run(asked, dry_run=dry_run, yes=yes, as_json=as_json)
