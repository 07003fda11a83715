"""One campaign by hand: `python -m tests.faults.kill.main KILLS [--postgres] [--mutant NAME]`."""

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict

from tests import postgres
from tests.faults.kill import harness
from tests.faults.kill.harness import Campaign
from tests.faults.kill.judge import judge
from tests.faults.kill.reach import reach
from tests.faults.kill.record import Record


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--mutant", default="")
    args = parser.parse_args()
    with ExitStack() as stack:
        database = stack.enter_context(postgres.cluster()).database() if args.postgres else ""
        place = stack.enter_context(harness.site(database, args.mutant))
        record = Record.of(harness.run(place, Campaign(kills=args.kills)))
    problems = judge(record)
    json.dump({"problems": problems, "reach": asdict(reach(record))}, sys.stdout, indent=1)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
