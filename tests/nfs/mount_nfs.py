"""`mount -t nfs4 SOURCE FOLDER -o OPTIONS` where the kernel has no NFS: see mount(8), HELPERS.

mount(8) calls /sbin/mount.<type> SOURCE FOLDER ...; `bake` puts one into a host's image that starts
the client in user space, which goes on when this program has ended.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

CLIENT = Path(__file__).with_name("client.py")
WAIT_S = 20.0
FAILED = 32
"""Exit code of mount(8) for a mount that failed."""


def bake(image: Path, *types: str) -> None:
    """Into the tree `image` of a host whose root has this file at the same path."""
    environ = f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"
    call = shlex.join(["/usr/bin/env", environ, sys.executable, str(Path(__file__))])
    folder = image / "usr" / "sbin"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in types or ("nfs", "nfs4"):
        path = folder / f"mount.{kind}"
        path.write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        path.chmod(0o755)


def main(words: list[str]) -> int:
    source, folder = words[:2]
    client = subprocess.Popen(
        [sys.executable, str(CLIENT), source, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    end = time.monotonic() + WAIT_S
    while client.poll() is None and time.monotonic() < end:
        if os.path.ismount(folder):  # asks the file system, which answers
            return 0
        time.sleep(0.05)
    print(f"mount.nfs: {source} cannot be mounted on {folder}", file=sys.stderr)
    client.kill()
    return FAILED


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # the client goes on: nobody waits for it here
