"""The entry point: `run()`. Answers the plainest `queue` at once, everything else through typer.

Every error ends here as one line on stderr, `scsched: what: what now`, or as JSON under `--json`;
the exit codes are in docs/reference/exit-codes.md.
"""

import os
import sys
from collections.abc import Sequence

from scsched.steps.errors import ScschedError

INTERRUPTED = 130
INTERNAL = 1


def run() -> None:
    """What the `scsched` command calls."""
    code = main(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    try:
        return _dispatched(argv)
    except ScschedError as exc:
        return fail(argv, exc)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _leave_pipe()
        return 0


def fail(argv: Sequence[str], exc: ScschedError) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    from scsched.scheduler.render import clean, talk

    if "--json" in argv:
        import json

        error = {"code": exc.code, "message": str(exc), "hint": exc.hint, "exit": exc.exit_code}
        talk(json.dumps({"schema": "scsched/v1", "error": error}))
    else:
        talk(": ".join(clean(part) for part in ("scsched", str(exc), exc.hint) if part))
    return exc.exit_code


def _dispatched(argv: Sequence[str]) -> int:
    if argv and argv[0] in ("queue", "q", "squeue") and "_SCSCHED_COMPLETE" not in os.environ:
        from scsched.scheduler.cli import listing

        if (options := listing.quick_options(argv[1:])) is not None:
            return listing.queue(options)
    from scsched.scheduler.cli import app

    return app.run(argv)


def _leave_pipe() -> None:
    """The reader has gone (`| head`): nothing is left to say, at exit neither."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run()
