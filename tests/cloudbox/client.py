"""The box as a test sees it.

with Box(tmp_path) as box:
    ec2 = box.ec2()
    ec2.run_instances(..., SubnetId=box.subnets["us-east-1a"], ImageId=box.image)
    box.reclaim(instance_id, notice_s=5)

To look into a host while a test stands still: give it the KeyName of a pair that was imported, then
`ssh -i KEY root@ADDRESS`; or, without sshd, `box.execute`.
"""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tests.cloudbox import aws
from tests.cloudbox.verbs import Verbs, Word

REPOSITORY = Path(__file__).parents[2]
START_S = 60.0
END_S = 30.0
CALL_S = 60.0
POLL_S = 0.02
PORT_FILE = "port.json"
NO_MORE_THAN_HOST = "--bounding-set=-sys_module,-sys_rawio,-sys_boot,-sys_time"
"""What no process of a host may: else a command run in one sets this machine's clock."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class BoxError(Exception):
    """The box did not start, or does not understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An instance as the box itself knows it, whatever its API shows."""

    instance_id: str
    state: str
    kind: str
    zone: str
    spot: bool
    address: str
    token: str
    index: int
    tags: Mapping[str, str]
    launched_at: datetime
    ended_at: datetime | None
    reason: str
    pid: int | None
    """Of its first process as this machine counts, where it is really there."""
    procs: Sequence[str]
    """Files that take a process into its limits."""

    @property
    def up(self) -> bool:
        return self.state in ("pending", "running")


class Box(Verbs):
    """A cloud of one's own. `boot`: instances are really there, which takes root."""

    def __init__(
        self,
        directory: Path,
        *,
        boot: bool = False,
        boot_s: float = 0.0,
        shutting_down_s: float = 0.1,
        binds: Sequence[Path] = (),
        image: Path | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self._options = [f"--boot-s={boot_s}", f"--shutting-down-s={shutting_down_s}"]
        self._options += ["--boot"] * boot
        self._options += [f"--bind={path}" for path in binds]
        self._options += [f"--image={image}"] if image else []
        self._process: subprocess.Popen[bytes] | None = None
        self._config: Mapping[str, Any] = {}
        self._clients: dict[str, Any] = {}
        self.endpoint = ""

    # ------------------------------------------------------------------ life

    def start(self) -> Self:
        """:raises BoxError: with its log, when it does not serve in time."""
        self.directory.mkdir(parents=True, exist_ok=True)
        port_file = self.directory / PORT_FILE
        port_file.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.cloudbox", "--lifeline", f"--dir={self.directory}"]
        argv += [f"--port-file={port_file}", *self._options]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        self._wait_for(port_file)
        return self.attach()

    def attach(self) -> Self:
        """Takes a box that somebody else started with this directory and its port.json."""
        port_file = self.directory / PORT_FILE
        self.endpoint = str(json.loads(port_file.read_text())["endpoint"])
        self._config, self._clients = self.say("config"), {}
        return self

    def stop(self) -> None:
        """Ends the box and all that it has made.

        :raises BoxError: it does not end, or something has resisted it.
        """
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(END_S)
            raise BoxError(f"the box did not end within {END_S:.0f} s: {self._tail()}") from None
        if process.returncode > 0:
            raise BoxError(f"the box ended with {process.returncode}: {self._tail()}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.directory / "box.log"

    def _wait_for(self, port_file: Path) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BoxError(f"the box does not serve: {self._tail()}")
            time.sleep(POLL_S)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    # ------------------------------------------------------------------ what it is

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to take the box for its cloud."""
        return aws.env(self.endpoint, self.region)

    @property
    def region(self) -> str:
        return str(self._config["region"])

    @property
    def vpc(self) -> str:
        return str(self._config["vpc"])

    @property
    def cidr(self) -> str:
        return str(self._config["cidr"])

    @property
    def subnets(self) -> Mapping[str, str]:
        """Subnet by zone."""
        return dict(self._config["subnets"])

    @property
    def zones(self) -> Sequence[str]:
        return sorted(self.subnets)

    @property
    def security_group(self) -> str:
        return str(self._config["security_group"])

    @property
    def image(self) -> str:
        return str(self._config["image"])

    @property
    def gateway(self) -> str:
        """This machine's own address in the instances' network."""
        return str(self._config["gateway"])

    @property
    def bridge(self) -> str:
        """Name of that network's link on this machine, where hosts boot."""
        return str(self._config["bridge"])

    @property
    def queue(self) -> str:
        """URL of the queue that hears warnings and hints from the event bus."""
        return f"{self.endpoint}/{self._config['account']}/{self._config['queue']}"

    def ec2(self) -> Any:
        """A boto3 client that does not repeat calls on its own."""
        return self.service("ec2")

    def service(self, name: str) -> Any:
        """The same of any service."""
        if name not in self._clients:
            self._clients[name] = aws.client(name, self.endpoint, self.region)
        return self._clients[name]

    def clear(self) -> None:
        """Ends every instance and forgets it, and all faults, limits, prices and counts."""
        self.say("clear")

    # ------------------------------------------------------------------ what is there

    def instances(self, *, ended_within_s: float | None = None) -> list[Machine]:
        """Every instance there ever was, in order of launch.

        :param ended_within_s: without those that ended longer ago.
        """
        return [
            Machine(
                **{
                    **row,
                    "launched_at": datetime.fromisoformat(row["launched_at"]),
                    "ended_at": row["ended_at"] and datetime.fromisoformat(row["ended_at"]),
                }
            )
            for row in self.say("instances", ended_within_s=ended_within_s)
        ]

    def instance(self, instance_id: str) -> Machine:
        return next(one for one in self.instances() if one.instance_id == instance_id)

    def up(self) -> list[Machine]:
        """Those which EC2 says are pending or running."""
        return [one for one in self.instances() if one.up]

    def console(self, instance_id: str) -> str:
        """What the host and its user data have printed."""
        return str(self.say("console", instance_id=instance_id))

    def calls(self) -> Mapping[str, int]:
        """How often each API action was called; also by refused code, `replayed`, `lost_reply`."""
        return dict(self.say("calls"))

    def execute(
        self, instance_id: str, *argv: str, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command as root inside a host, within its limits."""
        found = self.instance(instance_id)
        join = 'for one in $PROCS; do echo $$ > "$one"; done; unset PROCS; exec "$@"'
        enter = ["nsenter", "--target", str(found.pid), "--mount", "--uts", "--ipc", "--net"]
        return subprocess.run(
            ["sh", "-c", join, "sh", *enter, "--pid", "--", "setpriv", NO_MORE_THAN_HOST, *argv],
            env={"PATH": PATH, "HOME": "/root", "PROCS": " ".join(found.procs)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def imds(self, instance_id: str) -> str:
        """Base URL of the instance's metadata, as if asked from inside."""
        return f"{self.endpoint}/imds/{instance_id}"

    # ------------------------------------------------------------------ the wire

    def say(self, verb: str, **words: Word) -> Any:
        """One verb to the box.

        :raises BoxError: it does not understand.
        """
        request = urllib.request.Request(  # noqa: S310 - the box's own address
            f"{self.endpoint}/cloudbox/{verb}", data=json.dumps(words).encode(), method="POST"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CALL_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise BoxError(exc.read().decode()) from exc
