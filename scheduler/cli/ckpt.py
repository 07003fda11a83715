"""`scsched ckpt`: a step's iterations on disk, certified here with the user's own rights."""

import typer

from scsched.scheduler.cli.args import Json, StepId

NONE_CERTIFIED = 106
"""Files are there or not, but nothing can be gone on from."""


def register(app: typer.Typer) -> None:
    group = typer.Typer(rich_markup_mode=None, help="A step's checkpoints on disk.")
    group.command("list", epilog=_LIST_EXAMPLES)(list_)
    group.command("verify", epilog=_VERIFY_EXAMPLES)(verify)
    app.add_typer(group, name="ckpt")


_LIST_EXAMPLES = """\b
Examples:
  scsched ckpt list 42.311      the iterations on disk, newest first; nothing is opened"""
_VERIFY_EXAMPLES = """\b
Examples:
  scsched ckpt verify 42.311    open every file of every iteration and say what is not whole
Exit code: 0 if the step can go on from an iteration, 106 if from none."""


def list_(selector: StepId, as_json: Json = False) -> int:
    """List the iterations that a step has on disk."""
    from scsched.scheduler.cli import checkpoints

    step = checkpoints.located(selector)
    return checkpoints.show(checkpoints.found(step), as_json=as_json)


def verify(selector: StepId, as_json: Json = False) -> int:
    """Certify a step's iterations: every file there, whole, and in agreement with the others."""
    from scsched.scheduler.cli import checkpoints

    step = checkpoints.located(selector)
    rows = [checkpoints.verified(row, project=step.project) for row in checkpoints.found(step)]
    checkpoints.show(rows, as_json=as_json)
    checkpoints.say_where_it_goes_on(rows)
    return 0 if any(row.certified for row in rows) else NONE_CERTIFIED
