"""Arguments that several verbs share, and completion of what they name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema
    from scsched.scheduler.client import Client

_COMPLETION_CAP_S = 0.25
"""A person waits for the shell: later than this, nothing is offered."""


def workflow_ids(incomplete: str) -> list[tuple[str, str]]:
    """Live workflows for the shell, and `last`; a broker that is away offers nothing."""
    found = [("last", "the newest workflow")]
    found += [(str(item["id"]), f"{item['name']} {item['state']}") for item in _live()]
    return [pair for pair in found if pair[0].startswith(incomplete)]


def any_ids(incomplete: str) -> list[tuple[str, str]]:
    """As `workflow_ids`; after `42.` the steps of 42."""
    workflow, dot, _ = incomplete.partition(".")
    if not dot:
        return workflow_ids(incomplete)
    found = [(f"{workflow}.{s['id']}", f"{s['label']} {s['state']}") for s in _steps(workflow)]
    return [pair for pair in found if pair[0].startswith(incomplete)]


def _live() -> "list[schema.Workflow]":
    try:
        return _quick_client().workflows()["items"]
    except Exception:  # completion is never an error
        return []


def _steps(workflow: str) -> "list[schema.Step]":
    try:
        return _quick_client().workflow(workflow)["steps"]
    except Exception:  # completion is never an error
        return []


def _quick_client() -> "Client":
    from scsched.scheduler import paths
    from scsched.scheduler.client import Client

    return Client(paths.find_socket(), timeout_s=_COMPLETION_CAP_S, attempts=1)


Json = Annotated[bool, typer.Option("--json", help="One JSON value, schema scsched/v1.")]
Columns = Annotated[
    str, typer.Option("-o", "--columns", metavar="COLS", help="Columns, such as id,state,usd.")
]
NoHeader = Annotated[bool, typer.Option("-h", "--no-header", help="Leave the heading out.")]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")]
WorkflowId = Annotated[
    str,
    typer.Argument(metavar="WORKFLOW", help="42, last or @tag.", autocompletion=workflow_ids),
]
Selector = Annotated[
    str,
    typer.Argument(
        metavar="SELECTOR",
        help="A workflow (42), a step (42.311), last, 3,5-8, @tag or all.",
        autocompletion=any_ids,
    ),
]
StepId = Annotated[
    str,
    typer.Argument(
        metavar="STEP", help="A step, such as 42.311 or last.311.", autocompletion=any_ids
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="ALIAS=VALUE", help="Fill a field of a .json.template. Repeatable."
    ),
]
Maps = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="PROTOCOL=CLASS",
        help="Accept an unknown protocol class as gpu-bound, cpu-bound, ... Repeatable.",
    ),
]
