"""What a test has done on one of its hosts: `on_host.py WHAT ARGUMENTS`, plain lines come out."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scsched.cluster import storage
from scsched.cluster.storage_watch import StorageWatch, probe_of
from scsched.scheduler.driver import watch as driver_watch
from scsched.scheduler.driver.keeper import Inputs, Prepared
from scsched.steps import checkpoint
from scsched.steps.checkpoint import Branch

POLL_S = 0.05


def check(terms: str) -> None:
    """The node's check, in JSON."""
    print(json.dumps(asyncio.run(storage.check(json.loads(terms)))))


def watch(folder: str, stall_s: str) -> None:
    """Each word that the watch comes to, for ever."""
    watched = StorageWatch(probe_of(Path(folder), "b"), period_s=0.3, stall_s=float(stall_s))
    watched.start()
    said = ""
    while True:
        word = str(watched.state().word)
        if word != said:
            said = word
            print(word, flush=True)
        time.sleep(POLL_S)


def write(path: str) -> None:
    """Numbered lines, each synced to the server and then said; for ever."""
    with Path(path).open("w", encoding="ascii") as file:
        number = 0
        while True:
            number += 1
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
            print(number, flush=True)
            time.sleep(POLL_S / 5)


def certify(project: str, root: str, particles: str) -> None:
    """Each iteration that becomes the newest certified one, with its files' sizes, for ever."""
    last = 0
    while True:
        found = checkpoint.newest(
            [Branch(root)], project=Path(project), particles=int(particles)
        ).newest
        if found is not None and found.iteration != last:
            last = found.iteration
            sizes = {name: _size(Path(project) / name) for name in found.files}
            print(json.dumps({"iteration": last, "sizes": sizes}), flush=True)
        time.sleep(POLL_S)


def resumed(project: str, base: str) -> None:
    """From which iteration the driver's watch says that the attempt goes on, each time anew."""
    job_dir = Path(project) / base.removesuffix("/extra/relion")
    prepared = Prepared(
        argv=(),
        cwd=Path(project),
        stdout=job_dir / "out",
        stderr=job_dir / "err",
        job_dir=job_dir,
        run_db=job_dir / "run.db",
        protocol="",
        inputs=Inputs(),
    )
    last: object = ""
    while True:
        found = driver_watch.iterations(prepared, None, attempt=1).resumed_from
        if found != last:
            last = found
            print(found, flush=True)
        time.sleep(POLL_S)


def _size(path: Path) -> int:
    """As the server says, not as it was a while ago."""
    with path.open("rb") as file:
        return file.seek(0, os.SEEK_END)


_WHAT: dict[str, Callable[..., None]] = {
    "check": check,
    "watch": watch,
    "write": write,
    "certify": certify,
    "resumed": resumed,
}

if __name__ == "__main__":
    _WHAT[sys.argv[1]](*sys.argv[2:])
