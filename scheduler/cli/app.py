"""The typer application, made of no more modules than the verb at hand needs."""

import importlib
import os
from collections.abc import Sequence
from typing import Annotated

import typer

from scsched.steps.errors import ScschedError, UsageError

PROGRAM = "scsched"

GROUPS: dict[str, tuple[str, ...]] = {
    "plan": ("inspect", "submit", "run"),
    "look": ("queue", "q", "squeue", "show", "why", "hist", "sacct", "nodes", "sinfo", "receipt"),
    "follow": ("logs", "watch", "wait"),
    "steer": ("cancel", "scancel", "hold", "release", "requeue", "resubmit"),
    "ckpt": ("ckpt",),
    "cloud": ("pools", "audit", "cloud"),
    "site": ("serve", "doctor", "config", "db", "setup"),
}
"""The module of each verb, in the order of `scsched --help`; a test keeps it true."""

_HELP = """Runs Scipion workflows with RELION, goes on after lost nodes, and keeps a receipt.

\b
Begin:  scsched inspect workflow.json     what is in the file, and what each step needs
        scsched run workflow.json         run it here, from start to end
Serve:  scsched serve                     the broker: keeps the queue, starts the steps
        scsched submit workflow.json      put a workflow in its queue
Look:   scsched queue | show 42 | why 42.311 | logs 42.311 -f | watch 42 | hist | receipt 42
Steer:  scsched cancel 42 | hold 42 | release 42.150 | resubmit 42.311
"""
_EPILOG = """\b
Selectors: 42  42.311  last  3,5-8  @tag  all      Every verb: --help, with examples
Exit codes: 0 done, 2 usage, 3 configuration or database, 65 workflow file refused,
  75 no broker (try again), 100 failed, 101 not finished, 102 not found, 103 cancelled,
  105 nothing can run it, 106 the audit found differences, 107 not yours, 130 Ctrl-C"""


def run(argv: Sequence[str]) -> int:
    """Run one command line through typer; returns its exit code.

    :raises ScschedError: with usage errors of typer turned into `UsageError`.
    """
    command = typer.main.get_command(application(_word(argv)))
    try:
        answer = command.main(
            args=list(argv) or ["--help"],
            prog_name=PROGRAM,
            standalone_mode=False,
            complete_var="_SCSCHED_COMPLETE",
        )
    except typer.TyperException as exc:
        raise _without_verb(command, argv) or _translated(exc, argv) from exc
    except typer.Abort as exc:
        raise UsageError("not confirmed, nothing was done") from exc
    return answer if isinstance(answer, int) else 0


def application(word: str | None = None) -> typer.Typer:
    """The application with the verbs of `word`'s module; with all of them if it is no verb."""
    app = typer.Typer(
        name=PROGRAM,
        help=_HELP,
        epilog=_EPILOG,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=False,
    )
    app.callback()(_top)
    for module, verbs in GROUPS.items():
        if word is None or word in verbs:
            importlib.import_module(f"scsched.scheduler.cli.{module}").register(app)
    return app


def _top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda on: _show_version(on))
    ] = False,
) -> None:
    pass


def _show_version(on: bool) -> None:
    if on:
        from importlib.metadata import version

        print(f"{PROGRAM} {version('scsched')}")
        raise typer.Exit


def _word(argv: Sequence[str]) -> str | None:
    """The verb, also of the line that a shell wants completed."""
    words = list(argv) or os.environ.get("COMP_WORDS", "").split()[1:]
    known = {verb for verbs in GROUPS.values() for verb in verbs}
    return words[0] if words and words[0] in known else None


def _without_verb(command: object, argv: Sequence[str]) -> ScschedError | None:
    """What `scsched db` alone has to be told; None: it is not that."""
    verbs = getattr(getattr(command, "commands", {}).get(argv[0] if argv else ""), "commands", None)
    if verbs and len(argv) == 1:
        hint = f"see {PROGRAM} {argv[0]} --help"
        return UsageError(f"{argv[0]}: name one of {', '.join(verbs)}", hint=hint)
    return None


def _translated(exc: typer.TyperException, argv: Sequence[str]) -> ScschedError:
    verb = _word(argv)
    message = exc.format_message().rstrip(".").replace("\n", " ")
    known = [word for words in GROUPS.values() for word in words]
    if verb is None and argv and not argv[0].startswith("-"):
        import difflib

        near = difflib.get_close_matches(argv[0], known, n=2)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        return UsageError(
            f"{argv[0]}: no such command", hint=f"{guess}all of them: {PROGRAM} --help"
        )
    if verb in ("submit", "run") and any(word.partition("=")[0] == "--market" for word in argv):
        return UsageError("--market: no such option", hint="write --spot or --on-demand")
    return UsageError(message, hint=f"see {PROGRAM} {verb + ' ' if verb else ''}--help")
