"""Hosts for a test: a network and a mount namespace each, joined by a switch of their own.

    switch (a network namespace with a bridge) ── server 10.213.0.1 ── a 10.213.0.2 ── b 10.213.0.3

Nothing of it is linked to the machine's own network. Namespaces have unique names, and only those
made here are removed.
"""

import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 20.0
_NETWORK = "10.213.0"


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to run a program: the namespaces of process `pid`, whose address is `address`."""

    pid: int
    address: str

    def argv(self, *words: str) -> list[str]:
        """The command that runs `words` there."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--root", "--wdns=/", *words]

    def run(self, *words: str, timeout_s: float = TIMEOUT_S) -> str:
        """What it printed; an AssertionError with its stderr when it failed."""
        return run(*self.argv(*words), timeout_s=timeout_s)

    def start(self, *words: str, out: Path) -> "subprocess.Popen[bytes]":
        """Start a program there that writes to `out`; its pid is its own, and it ends with us."""
        argv = ["setpriv", "--pdeathsig", "KILL", *self.argv(*words)]
        with out.open("ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def missing() -> str:
    """Why no places can be made here; empty: they can."""
    if os.geteuid() != 0:
        return "only root may make namespaces"
    absent = [
        name for name in ("ip", "nsenter", "setpriv", "unshare") if shutil.which(name) is None
    ]
    return f"{', '.join(absent)} not installed" if absent else ""


def run(*argv: str, timeout_s: float = TIMEOUT_S) -> str:
    """What it printed. One that hangs is left behind: on a dead mount it cannot be killed."""
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{argv}: not done within {timeout_s:.0f} s") from None
    assert process.returncode == 0, f"{argv}: exit {process.returncode}: {err[-2000:]}"
    return out


class Switch:
    """Makes places and ends them."""

    def __init__(self) -> None:
        self._name = f"scnfs{secrets.token_hex(4)}"
        self._namespaces: list[str] = []
        self._holders: list[subprocess.Popen[bytes]] = []

    def open(self) -> None:
        self._namespace(self._name)
        run("ip", "-n", self._name, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self._name, "link", "set", "br0", "up")

    def place(self) -> Place:
        """A new host with the next address."""
        number = len(self._holders) + 1
        name, address = f"{self._name}p{number}", f"{_NETWORK}.{number}"
        self._namespace(name)
        peer = ("type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "-n", self._name, "link", "add", f"p{number}", *peer)
        run("ip", "-n", self._name, "link", "set", f"p{number}", "master", "br0", "up")
        return self._up(name, address, 24)

    def place_on(self, bridge: str, address: str, prefix: int) -> Place:
        """A new host on somebody's bridge of this machine, such as that of a cloud in a box."""
        name, link = f"{self._name}p{len(self._holders) + 1}", f"n{secrets.token_hex(5)}"
        self._namespace(name)
        peer = ("type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "add", link, *peer)  # goes with the namespace
        run("ip", "link", "set", link, "master", bridge, "up")
        return self._up(name, address, prefix)

    def place_here(self, address: str) -> Place:
        """On this machine's own network, where it is `address`; its mounts are nobody else's."""
        return self._held((), address)

    def _up(self, name: str, address: str, prefix: int) -> Place:
        run("ip", "-n", name, "address", "add", f"{address}/{prefix}", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", device, "up")
        return self._held(("ip", "netns", "exec", name), address)

    def _held(self, enter: tuple[str, ...], address: str) -> Place:
        """A process holds the namespaces while we hold its stdin: when we die, they go."""
        holder = subprocess.Popen(
            [*enter, "unshare", "--mount", "--propagation=private", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._holders.append(holder)
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"up\n")
        assert holder.stdout.read(3) == b"up\n"
        return Place(pid=holder.pid, address=address)

    def close(self) -> None:
        for holder in self._holders:
            end(holder)
        for name in reversed(self._namespaces):
            with suppress(AssertionError):
                run("ip", "netns", "delete", name)

    def _namespace(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._namespaces.append(name)


def end(process: "subprocess.Popen[bytes]", *, number: int = signal.SIGKILL) -> None:
    """Signal a process that we started, and wait for it."""
    if process.poll() is None:
        process.send_signal(number)
        process.wait(TIMEOUT_S)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


@contextmanager
def switch() -> Iterator[Switch]:
    made = Switch()
    try:
        made.open()
        yield made
    finally:
        made.close()
