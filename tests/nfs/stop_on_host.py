"""Starts an attempt in FOLDER and stops it: `stop_on_host.py FOLDER SCRATCH`; says so in JSON.

The path of its scratch folder is also the run's token.

Meanwhile the folder may answer nobody, from before the start, or from when a line comes on stdin.
"""

import asyncio
import json
import sys
import threading
import time
from pathlib import Path

from scsched.cluster import attempt
from scsched.cluster.attempt import AttemptSpec, as_json

GRACE_S = 1.0


def main(folder: str, scratch: str) -> None:
    spec = AttemptSpec(
        run_token=scratch,
        argv=("sh", "-c", "echo up; sleep 60"),
        cwd=folder,
        stdout=f"{scratch}.out",
        stderr=f"{scratch}.err",
        scratch_dir=scratch,
    )
    run = threading.Thread(target=attempt.run_attempt, args=(as_json(spec),), daemon=True)
    run.start()
    while not attempt.children() and not Path(scratch, "tmp").exists():
        time.sleep(0.05)
    print("started", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    answer = asyncio.run(attempt.stop_attempt(scratch, GRACE_S, folder))
    alive = attempt._alive(scratch)
    print(json.dumps(answer | {"s": time.monotonic() - began, "alive": alive}), flush=True)
    run.join()  # whatever starts late, when the folder answers again, is its to end


if __name__ == "__main__":
    main(*sys.argv[1:])
