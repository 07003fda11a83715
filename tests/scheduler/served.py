"""The real application on a Unix socket, over a world that the test ticks; and `scsched serve`."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from scsched.scheduler import daemon
from scsched.scheduler.api import make_app
from scsched.scheduler.cli import schema
from scsched.scheduler.cli.misfit import misfit
from scsched.scheduler.config import ScipionConfig, Settings
from scsched.scheduler.ticker import Ticker, utc_now
from tests.scheduler.world import World, wait_until

Json = dict[str, Any]
JSON = {"Content-Type": "application/json"}
COMMAND = (sys.executable, "-m", "scsched.scheduler.cli.main")

DOCUMENT = json.dumps(
    [
        {"object.className": "ProtImportParticles", "object.id": "2", "object.label": "import"},
        {
            "object.className": "ProtRelionClassify2D",
            "object.id": "3",
            "object.label": "2D",
            "inputParticles": "2.outputParticles",
            "numberOfMpi": 3,
        },
        {
            "object.className": "XmippProtParticlePicking",
            "object.id": "4",
            "object.label": "pick",
            "inputMicrographs": "2.outputMicrographs",
        },
    ]
)


@dataclass(frozen=True, slots=True)
class Api:
    """The application on a socket, over a world that ticks when it is told to."""

    world: World
    ticker: Ticker
    socket: Path

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Json]:
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(60)
        connection.sock.connect(str(self.socket))
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, None if body is None else sent, JSON | (headers or {}))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Json:
        status, answer = self.call("GET", path)
        assert status == 200, answer
        return answer

    def post(self, path: str, body: object, status: int = 200) -> Json:
        found, answer = self.call("POST", path, body)
        assert found == status, answer
        return answer

    def submit(self, status: int = 201, **values: object) -> Json:
        body = {"document": DOCUMENT, "name": "betagal"} | values
        return self.post("/v1/workflows", body, status)

    def refused(self, method: str, path: str, body: object = None) -> tuple[int, str, int]:
        """Status, code and exit code of an error, whose form is checked."""
        status, answer = self.call(method, path, body)
        assert misfit(answer, schema.Refused) == []
        return status, answer["error"]["code"], answer["error"]["exit"]


@contextmanager
def serving(world: World) -> Iterator[Api]:
    """The application of this world, until the block ends. Its ticker is not started."""
    world.now = utc_now()
    with tempfile.TemporaryDirectory(prefix="scsched-") as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "api.sock"
        python = ScipionConfig(python=Path("/opt/scipion/bin/python"))
        settings = Settings(state_dir=Path(folder), scipion=python)
        ticker = Ticker(world.services, pause_s=0.01, clock=utc_now)
        app = make_app(settings, world.store, world.services, ticker)
        with listening(daemon._server_config(app, path)):
            yield Api(world, ticker, path)


@contextmanager
def listening(config: uvicorn.Config) -> Iterator[uvicorn.Server]:
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(20)


@dataclass(slots=True)
class Daemon:
    """`scsched serve` in a process, and commands against it."""

    state_dir: Path
    process: subprocess.Popen[bytes] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.state_dir / "api.sock"

    def start(self) -> None:
        with (self.state_dir / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve"], env=self._env(), stdout=log, stderr=log
            )
        process = self.process
        wait_until(lambda: process.poll() is not None or self._answers(), timeout_s=60)
        assert process.poll() is None, self.log()

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        self.process.send_signal(signum)
        code = self.process.wait(30)
        self.process = None
        return code

    def scsched(
        self, *argv: str, uid: int | None = None, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        who: Json = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
        return subprocess.run(
            [*COMMAND, *argv], env=self._env(), input=text, capture_output=True, text=True,
            timeout=60, check=False, cwd="/", **who,
        )  # fmt: skip

    def json(self, *argv: str, code: int = 0) -> Json:
        done = self.scsched(*argv, "--json")
        assert done.returncode == code, done.stderr
        found: Json = json.loads(done.stdout)
        return found

    def log(self) -> str:
        return (self.state_dir / "serve.log").read_text()

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def _env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SCSCHED_")}
        config = str(self.state_dir / "config.toml")
        return {
            **kept,
            "SCSCHED_STATE_DIR": str(self.state_dir),
            "SCSCHED_CONFIG": config,
            "HOME": str(self.state_dir),
            **self.environ,
        }


@contextmanager
def daemons(config: str = "") -> Iterator[Daemon]:
    """A state directory for a broker that others can reach; it is not started."""
    with tempfile.TemporaryDirectory(prefix="scsched-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "config.toml").write_text(config)
        found = Daemon(Path(folder))
        yield found
        if found.process is not None:
            found.stop(signal.SIGKILL)
