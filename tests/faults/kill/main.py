"""One campaign by hand: `python -m tests.faults.kill.main KILLS [--world ec2] [--postgres]`.

With `--keep DIR` all that it has left, journal, database and logs, is copied there.
"""

import argparse
import json
import shutil
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from tests import postgres
from tests.faults.kill import harness
from tests.faults.kill.judge import judge
from tests.faults.kill.killer import MOMENTS, Campaign
from tests.faults.kill.reach import reach
from tests.faults.kill.record import Record


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int)
    parser.add_argument("--world", choices=["outside", "ec2"], default="outside")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--mutant", default="")
    parser.add_argument("--only", default="", help="one kind of moment")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack:
        database = stack.enter_context(postgres.cluster()).database() if args.postgres else ""
        place = stack.enter_context(harness.site(args.world, database=database, mutant=args.mutant))
        moments = {args.only: 1} if args.only else MOMENTS
        campaign = Campaign(kills=args.kills, moments=moments, drain_s=240.0)
        record = Record.of(harness.run(place, campaign))
        if args.keep:
            shutil.copytree(place.folder.parent, args.keep, ignore=shutil.ignore_patterns("*.sock"))
    problems = judge(record)
    json.dump({"problems": problems, "reach": asdict(reach(record))}, sys.stdout, indent=1)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
