"""Instances that are really there: namespaces of this machine with limits, on the box's bridge.

A host is a process tree below its first process (hostd). It has no name on this machine: its
namespaces and its end of the link are gone when the last of its processes is.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cloudbox import cgroups
from tests.cloudbox.cgroups import Cgroup
from tests.cloudbox.imds import PUBLIC_KEY_PATH, USER_DATA_PATH
from tests.cloudbox.machines import Record
from tests.cloudbox.network import DEAD_MAC, Network, ip_batch, remove_link
from tests.cloudbox.records import Records, sweep

REPOSITORY = Path(__file__).parents[2]
END_S = 15.0
PROGRAMS = ("ip", "nsenter", "unshare", "setpriv", "pivot_root")
HIDDEN = ("/tmp", "/run", "/var/tmp", "/dev", "/proc", "/sys")
"""What a host has of its own."""


@dataclass(slots=True, kw_only=True)
class Host:
    """One instance that is there, or was."""

    instance_id: str
    address: str
    link: str
    directory: Path
    cgroup: Cgroup
    process: subprocess.Popen[str]
    pid: int | None = None
    """Of its first process, as this machine counts."""
    killed: bool = False
    watcher: threading.Thread | None = None


@dataclass(slots=True, kw_only=True)
class Hosts:
    """All hosts of a box. Implements the cloud's Machines."""

    box: str
    directory: Path
    network: Network
    records: Records
    shapes: Callable[[str], tuple[int, int]]
    """vCPUs and MiB of a type."""
    binds: Sequence[str] = ()
    image: str = ""
    _hosts: dict[str, Host] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # ------------------------------------------------------------------ the cloud's Machines

    def boot(self, record: Record, up: Callable[[], None], gone: Callable[[], None]) -> None:
        """Starts it, from a thread that lives as long as the box: the host dies with it."""
        instance = record.instance
        directory = self.directory / instance.id
        directory.mkdir(parents=True)
        self._write(directory, record)
        cgroup = Cgroup.named(f"cloudbox-{self.box}-{instance.id}")
        host = Host(
            instance_id=instance.id,
            address=str(instance.private_ip),
            link=f"cv{self.box[:8]}{len(self._hosts):x}",
            directory=directory,
            cgroup=cgroup,
            process=_start(directory),
        )
        with self._lock:
            self._hosts[instance.id] = host
        vcpus, mib = self.shapes(instance.instance_type)
        self.records.will_make("cgroup", **cgroup.record)
        cgroup.make(memory_bytes=mib << 20, cpus=vcpus)
        host.watcher = threading.Thread(target=self._watch, args=(host, up, gone), daemon=True)
        host.watcher.start()

    def kill(self, instance_id: str, *, silent: bool) -> None:
        """`silent`: the link goes first, so that no peer hears a packet of its end."""
        host = self._hosts.get(instance_id)
        if host is None or host.watcher is None:
            return
        host.killed = True
        if silent:
            remove_link(host.link)
        host.cgroup.thaw()
        _kill(host)
        host.watcher.join(END_S)
        if host.watcher.is_alive():
            raise TimeoutError(f"{instance_id} does not end")

    def tell(self, record: Record) -> None:
        directory = self.directory / record.instance.id
        if directory.exists():
            _put(directory / "imds.json", json.dumps(record.metadata))

    def close(self) -> None:
        """Ends all, and takes the bridge away: one that resists does not keep the others."""
        for identity in list(self._hosts):
            try:
                self.kill(identity, silent=True)
            except OSError:
                traceback.print_exc()
        sweep(self.records.directory)

    # ------------------------------------------------------------------ what a test does to them

    def pid(self, instance_id: str) -> int | None:
        host = self._hosts.get(instance_id)
        return host.pid if host and host.process.poll() is None else None

    def procs(self, instance_id: str) -> list[str]:
        """Files that take a process into the host's limits."""
        host = self._hosts.get(instance_id)
        return [str(path) for path in host.cgroup.procs()] if host else []

    def console(self, instance_id: str) -> str:
        path = self.directory / instance_id / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def do(self, verb: str, instance_id: str, words: Mapping[str, Any]) -> None:
        """freeze, thaw, cut, heal, blackhole, shutdown."""
        host = self._hosts[instance_id]
        if verb == "shutdown":
            _inside(host, "kill", "-TERM", "1")
        elif verb == "freeze":
            host.cgroup.freeze()
        elif verb == "thaw":
            host.cgroup.thaw()
        elif verb == "cut":
            ip_batch(f"link set {host.link} nomaster")
        elif verb == "heal":
            self._heal(host)
        elif words["incoming"]:
            ip_batch(f"link set dev {host.link} type bridge_slave {_flags('off')} fdb_flush")
        else:
            self._mute(host)

    def _heal(self, host: Host) -> None:
        ip_batch(
            f"link set {host.link} master {self.network.bridge}",
            f"link set dev {host.link} type bridge_slave {_flags('on')}",
        )
        direct = f"{self.network.cidr} dev eth0 scope link src {host.address}"
        ip_batch(f"route replace {direct}", enter=_net(host))

    def _mute(self, host: Host) -> None:
        nowhere = self.network.nowhere
        ip_batch(
            f"route replace {self.network.cidr} via {nowhere} dev eth0 onlink",
            enter=_net(host),
        )

    # ------------------------------------------------------------------ one host's life

    def _watch(self, host: Host, up: Callable[[], None], gone: Callable[[], None]) -> None:
        try:
            self._raise(host, up)
        except (OSError, ValueError):
            traceback.print_exc()
            host.process.kill()
        assert host.process.stdout is not None
        host.process.stdout.read()
        host.process.wait()
        try:
            remove_link(host.link)
            host.cgroup.remove()
        except OSError:
            traceback.print_exc()
        if not host.killed:
            gone()

    def _raise(self, host: Host, up: Callable[[], None]) -> None:
        assert host.process.stdin is not None
        assert host.process.stdout is not None
        word, _, number = host.process.stdout.readline().strip().partition(" ")
        if word != "pid":
            raise ValueError(f"{host.instance_id} did not start: see {host.directory}")
        host.pid = int(number)
        host.cgroup.add(host.pid)
        ip_batch(
            f"link add {host.link} type veth peer name eth0 netns {host.pid}",
            f"link set {host.link} master {self.network.bridge} up",
        )
        host.process.stdin.write("go\n")
        host.process.stdin.flush()
        if host.process.stdout.readline() == "up\n":
            up()

    def _write(self, directory: Path, record: Record) -> None:
        address = str(record.instance.private_ip)
        config = {
            "instance_id": record.instance.id,
            "address": address,
            "nowhere": self.network.nowhere,
            "dead_mac": DEAD_MAC,
            "bits": self.network.cidr.rpartition("/")[2],
            "hostname": f"ip-{address.replace('.', '-')}",
            "binds": [*_unseen(), *self.binds],
            "image": self.image,
            "public_key": record.tree.get(PUBLIC_KEY_PATH, ""),
            "user_data": record.tree.get(USER_DATA_PATH, ""),
        }
        _put(directory / "host.json", json.dumps(config))
        _put(directory / "imds.json", json.dumps(record.metadata))


def lacking() -> str:
    """Why hosts cannot boot on this machine; "": they can."""
    missing = [one for one in PROGRAMS if shutil.which(one) is None]
    if missing:
        return f"no {missing[0]} here"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "no overlay file system here"
    argv = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "true"]
    if subprocess.run(argv, capture_output=True, timeout=END_S, check=False).returncode:
        return "no right to make namespaces (root?)"
    return cgroups.lacking()


def _start(directory: Path) -> subprocess.Popen[str]:
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--kill-child=KILL", "--fork"]
    argv += ["--net", "--mount", "--uts", "--ipc", "--pid"]
    argv += [sys.executable, "-m", "tests.cloudbox.hostd", str(directory)]
    with (directory / "hostd.log").open("ab") as log:
        return subprocess.Popen(
            argv,
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )


def _unseen() -> list[str]:
    """Our program's own directories, where a host's root does not show them."""
    own = {str(REPOSITORY), sys.prefix, sys.base_prefix}
    root = Path("/").stat().st_dev
    return sorted(
        path
        for path in own
        if Path(path).stat().st_dev != root or path.startswith(tuple(f"{one}/" for one in HIDDEN))
    )


def _kill(host: Host) -> None:
    """Its first process, so that its parent buries it; the parent where there is none yet."""
    if host.pid is None:
        host.process.kill()
    elif host.process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.pid, signal.SIGKILL)


def _net(host: Host) -> Sequence[str]:
    return ("nsenter", "--target", str(host.pid), "--net")


def _inside(host: Host, *argv: str) -> None:
    enter = ["nsenter", "--target", str(host.pid), "--pid", "--mount"]
    subprocess.run([*enter, *argv], check=True, timeout=END_S, capture_output=True)


def _flags(word: str) -> str:
    names = ("learning", "flood", "mcast_flood", "bcast_flood")
    return " ".join(f"{name} {word}" for name in names)


def _put(path: Path, text: str) -> None:
    spare = path.with_suffix(".new")
    spare.write_text(text)
    spare.chmod(0o600)
    spare.rename(path)
