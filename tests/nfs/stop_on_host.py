"""Starts an attempt in FOLDER and stops it: `stop_on_host.py FOLDER SCRATCH`; says so in JSON.

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

TOKEN = "stop-on-host"  # noqa: S105 - a run's
GRACE_S = 1.0


def main(folder: str, scratch: str) -> None:
    spec = AttemptSpec(
        run_token=TOKEN,
        argv=("sh", "-c", "echo up; sleep 60"),
        cwd=folder,
        stdout=f"{scratch}.out",
        stderr=f"{scratch}.err",
        scratch_dir=scratch,
    )
    threading.Thread(target=attempt.run_attempt, args=(as_json(spec),), daemon=True).start()
    while not attempt.children() and not Path(scratch, "tmp").exists():
        time.sleep(0.05)
    print("started", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    answer = asyncio.run(attempt.stop_attempt(TOKEN, GRACE_S, folder))
    alive = attempt._alive(TOKEN)
    print(json.dumps(answer | {"s": time.monotonic() - began, "alive": alive}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
