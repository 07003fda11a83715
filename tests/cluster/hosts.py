"""Other machines for a test: namespaces with an address, processes and /tmp of their own.

    this machine ── bridge ──┬── host 0   own network, processes, /etc /home /tmp /run /dev/shm ...
                             └── host 1   the same disk otherwise, and the shared folder

What calls itself `shutdown` inside ends the host and says so in its folder. Names are unique, and
`close` removes what `start` made and nothing else.
"""

import ipaddress
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_TOOLS = ("ip", "unshare", "mount", "setpriv")
_INIT = """
mount --make-rprivate / || exit 9
mount -t tmpfs none /mnt && mkdir /mnt/shared /mnt/own /mnt/program || exit 9
mount --bind "$SHARED" /mnt/shared && mount --bind "$OWN" /mnt/own || exit 9
mount --bind "$PROGRAM" /mnt/program || exit 9
for at in /tmp /run /var/tmp /dev/shm; do mount -t tmpfs -o mode=1777 none $at || exit 9; done
for at in /usr/local/sbin /home /var/log /var/mail; do mount -t tmpfs none $at || exit 9; done
mkdir /mnt/etc /mnt/work || exit 9
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/work none /etc || exit 9
mkdir -p "$SHARED" "$OWN" "$PROGRAM"
mount --bind /mnt/program "$PROGRAM" || exit 9
mount --bind /mnt/shared "$SHARED" && mount --bind /mnt/own "$OWN" || exit 9
hostname "$HOST_NAME"
for name in shutdown poweroff halt reboot; do
  printf '#!/bin/sh\\necho "$0 $*" >>"%s/power"\\nkill -TERM 1\\n' "$OWN" >/usr/local/sbin/$name
  chmod 755 /usr/local/sbin/$name
done
PATH=/usr/local/sbin:$PATH
trap 'exit 0' TERM
cd /
sh "$OWN/start.sh" >"$OWN/console" 2>&1 </dev/null &
touch "$OWN/up"
while :; do sleep 1000 & wait; done
"""


def missing() -> str:
    """Why there can be no such hosts here; empty: there can."""
    if os.geteuid() != 0:
        return "only root can make hosts"
    lacking = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} is not installed"
    probe = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "mount", "-t", "tmpfs"]
    done = subprocess.run(
        [*probe, "none", "/mnt"], capture_output=True, text=True, timeout=20, check=False
    )
    return f"no namespaces: {done.stderr.strip()}" if done.returncode else ""


needs_hosts = pytest.mark.skipif(bool(missing()), reason=f"no hosts: {missing()}")


class Hosts:
    """Up to nine hosts on one bridge."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self._folder = folder
        self._shared = shared
        self._id = secrets.token_hex(3)
        self._bridge = f"sct{self._id}"
        self._network = _free_network()
        self._inits: dict[int, subprocess.Popen[bytes]] = {}
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    @property
    def address(self) -> str:
        """Of this machine."""
        return str(self._network[1])

    def address_of(self, number: int) -> str:
        return str(self._network[10 + number])

    def start(self, number: int, script: str, **environ: str) -> None:
        """Run `script` on a new host, as its start."""
        own, name = self.folder(number), self._name(number)
        own.mkdir(parents=True)
        (own / "start.sh").write_text(script)
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", self._bridge, "up")
        inside = ("-n", name)
        _ip(*inside, "addr", "add", f"{self.address_of(number)}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "addr", "add", "169.254.169.254/32", "dev", "lo")
        told = {
            "PROGRAM": str(REPOSITORY),
            "HOST_NAME": name,
            "OWN": str(own),
            "SHARED": str(self._shared),
        }
        self._inits[number] = subprocess.Popen(
            [
                *("ip", "netns", "exec", name),
                *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"),
                *("--kill-child=SIGKILL", "--mount-proc", "sh", "-c", _INIT),
            ],
            env={"PATH": os.environ["PATH"], **told, **environ},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(lambda: (own / "up").exists(), lambda: self.console(number))

    def cut(self, number: int) -> None:
        """The host vanishes from the network without a word; it runs on."""
        _ip("link", "del", self._name(number))

    def kill(self, number: int) -> None:
        """All of the host ends at once; its kernel closes its connections."""
        init = self._inits.pop(number)
        with suppress(ProcessLookupError):
            os.killpg(init.pid, signal.SIGKILL)
        init.wait(timeout=20)

    def run(self, number: int, *argv: str) -> "subprocess.CompletedProcess[str]":
        """Run a command inside, as root."""
        (child,) = _children(self._inits[number].pid)
        return subprocess.run(
            ["nsenter", "--all", "--target", str(child), *argv],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    def is_up(self, number: int) -> bool:
        return number in self._inits and self._inits[number].poll() is None

    def folder(self, number: int) -> Path:
        return self._folder / f"host{number}"

    def console(self, number: int) -> str:
        path = self.folder(number) / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def power(self, number: int) -> str:
        """How the host was switched off, from inside."""
        path = self.folder(number) / "power"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        for number in list(self._inits):
            self.kill(number)
        for own in self._folder.glob("host*"):
            name = self._name(int(own.name.removeprefix("host")))
            _ip("link", "del", name, check=False)
            _ip("netns", "del", name, check=False)
        _ip("link", "del", self._bridge, check=False)

    def _name(self, number: int) -> str:
        return f"sct{self._id}h{number}"


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(
    done: Callable[[], object], seen: Callable[[], object] = str, timeout_s: float = 60.0
) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, f"waited in vain; last seen: {seen()}"
        time.sleep(0.02)


def _free_network() -> ipaddress.IPv4Network:
    """A network of 256 addresses that nothing of this machine is in."""
    told = subprocess.run(
        ["ip", "-j", "route", "show", "table", "all"], capture_output=True, timeout=10, check=True
    )
    used = {str(route.get("dst", "")).rpartition(".")[0] for route in json.loads(told.stdout)}
    while True:
        prefix = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(256)}"
        if prefix not in used:
            return ipaddress.IPv4Network(f"{prefix}.0/24")


def _ip(*words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20, check=False)
    assert not check or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
