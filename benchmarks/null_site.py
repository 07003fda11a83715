"""A real broker over a world where everything answers at once: what is left is the broker's cost.

    python benchmarks/null_site.py serve --state-dir DIR --nodes N

The broker is `scsched.scheduler.daemon.run` with its HTTP socket and its SQLite, which waits for
the disk at every commit. Its nodes exist as soon as they are asked for. Its driver is a process of
its own that speaks the beat protocol; it says of every run, in the beat after the one that ordered
it, that it has ended well, and of every node that it is up.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scsched.scheduler.client import Client

PROGRAM = (sys.executable, str(Path(__file__).resolve()), "drive")
BEAT_S = 0.5
"""Between two beats without news, as of the real driver."""
MARK = "times.json"


# ---- for the benchmarks ----


@dataclass(frozen=True, slots=True)
class Site:
    """A broker that answers."""

    state_dir: Path
    pid: int

    @property
    def socket(self) -> Path:
        return self.state_dir / "api.sock"

    def times(self, workflow: int) -> "Times | None":
        """What its driver has written down at its end; None before."""
        path = self.state_dir / "wf" / str(workflow) / MARK
        return Times(**json.loads(path.read_text())) if path.exists() else None


@dataclass(slots=True)
class Times:
    """Of one driver, on the clock of `time.time()`."""

    began: float = 0.0
    """First beat."""
    ended: float = 0.0
    """Last beat that had a run to report."""
    beats: int = 0


@contextmanager
def site(nodes: int) -> Iterator[Site]:
    """A broker with `nodes` nodes, gone at the end. Its drivers end when their steps have."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder:
        state_dir = Path(folder)
        argv = [sys.executable, str(Path(__file__).resolve()), "serve"]
        argv += ["--state-dir", folder, "--nodes", str(nodes)]
        with (state_dir / "broker.log").open("wb") as log:
            broker = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_for_answer(broker, state_dir)
            yield Site(state_dir, broker.pid)
        finally:
            broker.terminate()
            broker.wait(30.0)


def submit(client: "Client", steps: int) -> int:
    """A workflow of steps that need nothing, held; its number."""
    body = {
        "document": document(steps),
        "filename": "noop.json",
        "name": "noop",
        "hold": True,
        "key": f"noop-{time.time_ns()}",
    }
    workflow = client.submit(body)["id"]
    assert workflow is not None
    return workflow


def document(steps: int) -> str:
    """The text of a workflow file."""
    return json.dumps([
        {
            "object.id": str(number),
            "object.className": "ProtImportParticles",
            "object.label": f"step {number}",
        }
        for number in range(1, steps + 1)
    ])  # fmt: skip


def _wait_for_answer(broker: "subprocess.Popen[bytes]", state_dir: Path) -> None:
    from scsched.scheduler.client import Client
    from scsched.steps.errors import BrokerUnreachable

    client, deadline = Client(state_dir / "api.sock", attempts=1), time.monotonic() + 60.0
    while time.monotonic() < deadline and broker.poll() is None:
        try:
            client.ping()
            return
        except BrokerUnreachable:
            time.sleep(0.05)
    raise RuntimeError((state_dir / "broker.log").read_text()[-4000:])


# ---- the broker ----


@dataclass(slots=True)
class Nodes:
    """`Provider` and `Reclaims`: nodes that need no machine."""

    deployment: str = ""
    _seen: dict[str, Any] = field(default_factory=dict)

    def launch(self, requests: Sequence[Any]) -> tuple[Any, ...]:
        from scsched.cluster.provider import Launched, NodeState, Seen

        for request in requests:
            self._seen[request.token] = Seen(
                request.token, f"out-{request.token}", NodeState.RUNNING, ""
            )
        return tuple(Launched(request.token, f"out-{request.token}") for request in requests)

    def list(self) -> tuple[Any, ...]:
        return tuple(self._seen.values())

    def terminate(self, tokens: Sequence[str]) -> None:
        from scsched.cluster.provider import NodeState, Seen

        for token in tokens:
            self._seen[token] = Seen(token, f"out-{token}", NodeState.TERMINATED, "")

    def notices(self) -> tuple[Any, ...]:
        return ()

    def prices(self, pools: Sequence[Any], since: datetime) -> tuple[Any, ...]:
        return ()

    @property
    def traits(self) -> Any:
        from scsched.cluster.provider import Traits

        return Traits(remote=False, listing_lag_s=0.0, stranger_grace_s=0.0)

    def play(self, token: str, notice_s: float | None, *, now: datetime) -> None:
        """Nothing is taken back here."""

    def tick(self, now: datetime) -> None:
        """Nothing is taken back here."""


def serve(state_dir: Path, nodes: int) -> None:
    """Be the broker until SIGTERM."""
    from scsched.scheduler import daemon
    from scsched.scheduler.config import PoolConfig, ScipionConfig, Settings
    from scsched.scheduler.wiring import Outside

    for name in ("wf", "log"):
        (state_dir / name).mkdir()
    pool = PoolConfig(
        name="outside", max_nodes=nodes, cores=1, memory_gib=8.0, usd_per_hour=Decimal("1.0")
    )
    provider = Nodes()
    outside = Outside(providers={"local": provider}, reclaims=provider, driver_program=PROGRAM)
    scipion = ScipionConfig(python=Path(sys.executable))
    settings = Settings(state_dir=state_dir, pool=(pool,), scipion=scipion)
    daemon.run(settings, lambda *_: outside)


# ---- the driver ----


def drive(socket: Path, workflow: int, work_dir: Path) -> None:
    """Answer every order at once, until the broker says that nothing is left."""
    from scsched.scheduler.client import Client

    client, times = Client(socket), Times()
    identity = {
        "token": os.environ["SCSCHED_DRIVER"],
        "pid": os.getpid(),
        "start_ticks": _start_ticks(),
        "address": "null://",
        "tls_dir": str(work_dir),
    }
    orders: dict[str, Any] = {"runs": [], "end": False}
    while not orders["end"]:
        ended = [
            {"run": order["run"], "epoch": order["epoch"], "phase": "ended",
             "end": {"hint": "completed", "exit_code": 0}}
            for order in orders["runs"]
        ]  # fmt: skip
        names = sorted({node["name"] for order in orders["runs"] for node in order["nodes"]})
        times.began = times.began or time.time()
        orders = client.beat(
            workflow, {**identity, "nodes": [{"name": name} for name in names], "runs": ended}
        )
        times.beats += 1
        if ended:
            times.ended = time.time()
        if not orders["runs"] and not orders["end"]:
            time.sleep(BEAT_S)
    _write(work_dir / MARK, times)


def _write(path: Path, times: Times) -> None:
    written = {"began": times.began, "ended": times.ended, "beats": times.beats}
    path.with_suffix(".tmp").write_text(json.dumps(written))
    path.with_suffix(".tmp").replace(path)


def _start_ticks() -> int:
    stat = Path("/proc/self/stat").read_text(encoding="utf-8")
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    roles = parser.add_subparsers(dest="role", required=True)
    broker = roles.add_parser("serve")
    broker.add_argument("--state-dir", type=Path, required=True)
    broker.add_argument("--nodes", type=int, required=True)
    driver = roles.add_parser("drive")
    driver.add_argument("--socket", type=Path, required=True)
    driver.add_argument("--workflow", type=int, required=True)
    driver.add_argument("--work-dir", type=Path, required=True)
    asked = parser.parse_args()
    if asked.role == "serve":
        serve(asked.state_dir, asked.nodes)
    else:
        drive(asked.socket, asked.workflow, asked.work_dir)


if __name__ == "__main__":
    main()
