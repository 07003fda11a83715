"""The first process of one host: makes its root, serves its metadata, runs its user data.

Told by the box in lines on standard input, and answering on standard output:

    hostd: pid N      box: go       (the link is there now, and the limits)
    hostd: up

When standard input closes the box is gone, and so is the host. SIGTERM is the power button.
"""

import contextlib
import http.server
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.cloudbox import imds, root, userdata

LINK_LOCAL = ("169.254.169.254", 80)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IP_S = 10.0
KEYGEN_S = 30.0
SSHD = "/usr/sbin/sshd"
SSHD_OPTIONS = (
    "AuthenticationMethods=publickey",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "PermitRootLogin=prohibit-password",
    "UsePAM=no",
    "UseDNS=no",
    "PidFile=none",
)
NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
SPOOL = Path("/var/lib/cloud/instance")


def main() -> NoReturn:
    directory = Path(sys.argv[1])
    config = json.loads((directory / "host.json").read_text())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    print("pid", Path("/proc/self").readlink(), flush=True)
    if sys.stdin.readline() != "go\n":
        os._exit(1)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    console = Console((directory / "console.log").open("ab", buffering=0))
    try:
        _boot(directory, config, console)
    except BaseException:
        console.say(traceback.format_exc())
        os._exit(1)
    print("up", flush=True)
    _live(console)


class Console:
    """Where the host and its user data print, as the cloud would show it."""

    def __init__(self, file: Any) -> None:
        self._file, self._start = file, time.monotonic()
        self.children: dict[int, str] = {}

    def say(self, text: str) -> None:
        self._file.write(f"[{time.monotonic() - self._start:8.3f}] {text}\n".encode())

    def spawn(self, name: str, argv: Sequence[str]) -> None:
        """A process in a session of its own that prints here."""
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, self._file.fileno(), 1),
            (os.POSIX_SPAWN_DUP2, self._file.fileno(), 2),
        ]
        env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        pid = os.posix_spawn(
            argv[0], list(argv), env, file_actions=files, setsid=True, setsigmask=[]
        )
        self.children[pid] = name


def _boot(directory: Path, config: Mapping[str, Any], console: Console) -> None:
    _network(config)
    state = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    socket.sethostname(config["hostname"])
    root.make(
        directory,
        binds=config["binds"],
        image=config["image"],
        hostname=config["hostname"],
        address=config["address"],
        key=config["public_key"],
    )
    _serve_metadata(state)
    if config["public_key"]:
        _sshd(config["address"], console)
    console.say(f"{config['instance_id']} is up as {config['address']}")
    _run(config["user_data"].encode("latin-1").decode(errors="replace"), console)


def _network(config: Mapping[str, Any]) -> None:
    """Its address, and a default route as real ones have; whatever takes that route is lost."""
    lines = (
        "link set lo up",
        f"addr add {LINK_LOCAL[0]}/32 dev lo scope link",
        f"addr add {config['address']}/{config['bits']} dev eth0",
        "link set eth0 up",
        f"neigh replace {config['nowhere']} lladdr {config['dead_mac']} dev eth0 nud permanent",
        f"route add default via {config['nowhere']} dev eth0 onlink",
    )
    with contextlib.suppress(OSError):
        NO_IPV6.write_text("1")
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines).encode(), check=True, timeout=IP_S)


# ---------------------------------------------------------------------- metadata


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        """HTTPServer's own would ask for the name of the address: seconds, in here."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LINK_LOCAL


def _serve_metadata(directory: int) -> None:
    def state() -> Mapping[str, object]:
        with os.fdopen(os.open("imds.json", os.O_RDONLY, dir_fd=directory)) as file:
            found: Mapping[str, object] = json.load(file)
            return found

    service = imds.Metadata(state)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = service.answer(self.command, self.path, headers)
            self.send_response(answer.status)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = _Server(LINK_LOCAL, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


# ---------------------------------------------------------------------- what runs on it


def _sshd(address: str, console: Console) -> None:
    """For root with the key of the instance's pair alone; its own key is made at each boot."""
    if not Path(SSHD).exists():
        console.say(f"no {SSHD}: nobody can log in")
        return
    key = "/run/sshd/host_key"
    making = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key]
    subprocess.run(making, check=True, timeout=KEYGEN_S, stdin=subprocess.DEVNULL)
    words = [word for option in SSHD_OPTIONS for word in ("-o", option)]
    listen = ["-o", f"ListenAddress={address}"]
    console.spawn("sshd", [SSHD, "-D", "-e", "-f", os.devnull, "-h", key, *listen, *words])


def _run(text: str, console: Console) -> None:
    try:
        plan = userdata.read(text)
    except ValueError as exc:
        console.say(f"user data: {exc}")
        return
    for file in plan.files:
        path = Path(file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab" if file.append else "wb") as out:
            out.write(file.content)
        path.chmod(file.mode)
    if plan.script:
        SPOOL.mkdir(parents=True, exist_ok=True)
        (SPOOL / "user-data").write_text(plan.script)
        (SPOOL / "user-data").chmod(0o700)
        console.spawn("user data", [str(SPOOL / "user-data")])


def _live(console: Console) -> NoReturn:
    """Buries the dead until the power button is pressed."""
    while signal.sigwait({signal.SIGCHLD, signal.SIGTERM}) != signal.SIGTERM:
        for pid, status in _dead():
            name = console.children.pop(pid, None)
            if name:
                console.say(f"{name} ended with {os.waitstatus_to_exitcode(status)}")
    console.say("power off")
    os._exit(0)


def _dead() -> list[tuple[int, int]]:
    found = []
    try:
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(one)
    except ChildProcessError:
        pass
    return found


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
