"""A Slurm of two nodes to try things on by hand: `python -m tests.slurm [--cpus N]`.

Prints `export SLURM_CONF=...` when it takes jobs; Ctrl-C ends it.
"""

import argparse
import signal
import sys
from contextlib import suppress

from tests.slurm.box import missing, running


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpus", type=int, default=4, help="of each node")
    asked = parser.parse_args()
    if why := missing():
        print(why, file=sys.stderr)
        return 69
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, signal.default_int_handler)
    with suppress(KeyboardInterrupt), running(cpus=asked.cpus) as box:
        print(f"export SLURM_CONF={box.conf}", flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
