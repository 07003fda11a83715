"""python -m tests.cloudbox --dir DIR --port-file FILE: a box until SIGTERM.

python -m tests.cloudbox --sweep DIR: removes what a box that was killed has left.
"""

import argparse
from pathlib import Path

from tests.cloudbox.records import sweep, sweep_after_stdin


def main() -> None:
    found = _arguments()
    if found.sweep:
        (sweep_after_stdin if found.lifeline else sweep)(found.sweep)
        return
    from tests.cloudbox.server import Options, serve  # moto takes seconds to import

    options = Options(
        directory=found.dir,
        boot=found.boot,
        boot_s=found.boot_s,
        shutting_down_s=found.shutting_down_s,
        binds=found.bind,
        image=found.image,
    )
    serve(options, found.port_file, lifeline=found.lifeline)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cloudbox", description=__doc__)
    parser.add_argument("--dir", type=Path, help="the box's own directory")
    parser.add_argument("--port-file", type=Path, help="written when the box serves")
    parser.add_argument("--boot", action="store_true", help="instances really boot (root)")
    parser.add_argument("--boot-s", type=float, default=0.0, help="seconds from call to boot")
    parser.add_argument("--shutting-down-s", type=float, default=0.1)
    parser.add_argument("--bind", action="append", default=[], help="directory seen by all hosts")
    parser.add_argument("--image", type=Path, help="tree laid over every host's root")
    parser.add_argument("--lifeline", action="store_true", help="end when stdin closes")
    parser.add_argument("--sweep", type=Path, help="only remove what this box has made")
    found = parser.parse_args()
    if not found.sweep and not (found.dir and found.port_file):
        parser.error("--dir and --port-file, or --sweep")
    return found


if __name__ == "__main__":
    main()
