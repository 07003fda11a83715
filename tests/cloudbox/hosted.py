"""How the box's own tests use its hosts."""

import contextlib
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from tests.cloudbox.asking import launch, wait_until
from tests.cloudbox.client import Box

SILENCE_S = 1.0


def boot(box: Box, script: str = "", **words: Any) -> list[str]:
    """Instances that have come up, with this script as user data; it may have ended them."""
    data = {"UserData": script} if script else {}
    found = launch(box, **data, **words)
    wait_until(lambda: all(box.instance(one).state != "pending" for one in found))
    return found


def sh(box: Box, instance: str, line: str) -> str:
    """What a shell line prints inside; it must succeed."""
    done = box.execute(instance, "sh", "-c", line)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for_line(box: Box, instance: str, text: str) -> None:
    wait_until(lambda: text in box.console(instance))


@contextlib.contextmanager
def listening(box: Box, instance: str, port: int = 7000) -> Iterator[int]:
    """A server inside that greets, then answers each byte with one."""
    program = textwrap.dedent(f"""
        import socket
        server = socket.create_server(("", {port}))
        print("listening", flush=True)
        while True:
            peer, _ = server.accept()
            peer.sendall(b"hello")
            while byte := peer.recv(1):
                peer.sendall(byte)
    """)
    argv = [sys.executable, "-c", program]
    sh(box, instance, f"setsid {argv[0]} -c '{program}' > /tmp/log 2>&1 < /dev/null &")
    wait_until(lambda: "listening" in sh(box, instance, "cat /tmp/log"))
    yield port
