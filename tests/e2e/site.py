"""A whole site for a test: the real `scsched serve` with nodes on this machine.

    with site.running(config(...)) as found:
        workflow = found.submit(document, project=...)
        found.wait_for_step(workflow, "3", "COMPLETED")

Processes are found by the tags in their environment, never by name alone, and at its end a site
stops all that it started and asserts that nothing of it is left.
"""

import contextlib
import getpass
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from scsched.cluster import processes, rundir, tags
from scsched.cluster.processes import Process
from scsched.scheduler.client import Client, Cut
from scsched.steps.errors import BrokerUnreachable
from scsched.steps.state import TERMINAL
from tests.e2e.census import Census, Seen
from tests.scheduler import scipion_site

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

T = TypeVar("T")
SERVE = (str(Path(sys.executable).with_name("scsched")), "serve")
START_S = 90.0
STEP_S = 600.0
"""A step on a slow machine with other work on it."""
END_S = 120.0
POLL_S = 0.1

CONFIG = """
state_dir = "{state}"

[scipion]
python = "{scipion_python}"

[relion]
bin = "{relion_bin}"

[retry]
max_failures = {max_failures}
backoff_s = 0.5

[times]
stall_s = {stall_s}
stop_grace_s = {stop_grace_s}

[[pool]]
name = "service"
max_nodes = 2
cores = 1
memory_gib = 2
service = true
"""
LOCAL = """
[[pool]]
name = "spot"
market = "spot"
max_nodes = 2
cores = 1
memory_gib = 4
usd_per_hour = 0.05
"""


def wait_until(
    what: str, look: Callable[[], T], holds: Callable[[T], object], timeout_s: float
) -> T:
    """What `look` saw when `holds` was true of it; a broker that is away is waited for."""
    deadline = time.monotonic() + timeout_s
    seen: object = "nothing"
    while time.monotonic() < deadline:
        try:
            found = look()
        except (BrokerUnreachable, Cut) as exc:
            seen = exc
        else:
            if holds(found):
                return found
            seen = found
        time.sleep(POLL_S)
    raise AssertionError(f"{what}: not within {timeout_s:.0f} s; last seen: {seen}")


class Site:
    """A broker that may be killed and started again, and what it has started."""

    def __init__(
        self,
        folder: Path,
        *,
        stall_s: float = 600.0,
        stop_grace_s: float = 10.0,
        max_failures: int = 3,
        nodes: str = LOCAL,
        environ: Mapping[str, str] | None = None,
        enter: Sequence[str] = (),
    ) -> None:
        """:param folder: its path must be short: the broker's socket lies in it.
        :param nodes: tables of the configuration that say where the nodes come from.
        :param environ: more of the broker's environment.
        :param enter: words before its command that take it elsewhere, as `nsenter ...`.
        """
        self.folder = folder
        self._environ = dict(environ or {})
        self._argv = [*enter, *SERVE]
        self.state = folder / "state"
        self.log = folder / "broker.log"
        self.client = Client(self.state / "api.sock")
        self._broker: subprocess.Popen[bytes] | None = None
        self._config = folder / "config.toml"
        self._config.write_text(
            CONFIG.format(
                state=self.state,
                scipion_python=scipion_site.scipion_python(),
                relion_bin=scipion_site.relion_bin(),
                stall_s=stall_s,
                stop_grace_s=stop_grace_s,
                max_failures=max_failures,
            )
            + nodes
        )
        self.deployment = ""
        self.census: Census

    # ---- the broker ----

    def start(self) -> None:
        """Start a broker and wait until it answers."""
        self.launch()
        answer = wait_until("the broker answers", self.client.ping, bool, START_S)
        assert self.deployment in ("", answer["deployment"]), "the deployment has changed"
        if not self.deployment:
            self.deployment = answer["deployment"]
            self.census = Census(self.deployment)
            self.census.start()

    def launch(self) -> None:
        """Start a broker, and do not wait."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SCSCHED_")}
        with self.log.open("ab") as out:
            self._broker = subprocess.Popen(
                self._argv,
                env={**kept, **self._environ, "SCSCHED_CONFIG": str(self._config)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def kill_broker(self) -> None:
        """SIGKILL."""
        assert self._broker is not None, "no broker was started"
        self._broker.kill()
        self._broker.wait(START_S)

    def stop_broker(self) -> int:
        """SIGTERM; its exit code."""
        assert self._broker is not None, "no broker was started"
        self._broker.send_signal(signal.SIGTERM)
        return self._broker.wait(START_S)

    # ---- workflows ----

    def submit(self, document: str, *, project: Path, **more: object) -> int:
        """Submit on spot; the workflow's number."""
        body = {"document": document, "name": "e2e", "project": str(project), "market": "spot"}
        answer = self.client.submit({**body, "key": os.urandom(8).hex(), **more})
        assert answer["id"] is not None
        return answer["id"]

    def step(self, workflow: int, step: str) -> "schema.StepAnswer":
        return self.client.step(workflow, step)

    def runs(self, workflow: int, step: str) -> "list[schema.Run]":
        """Oldest first."""
        return sorted(self.step(workflow, step)["runs"], key=lambda run: run["attempt"])

    def open_run(self, workflow: int, step: str) -> "schema.Run":
        """The one that has not ended."""
        (found,) = [run for run in self.runs(workflow, step) if run["ended_at"] is None]
        return found

    def wait_for_step(
        self, workflow: int, step: str, *states: str, timeout_s: float = STEP_S
    ) -> "schema.StepAnswer":
        """The step once it is in one of these states; fails at once when it ends otherwise."""

        def ended(found: "schema.StepAnswer") -> bool:
            wrong = found["state"] in TERMINAL and found["state"] not in states
            assert not wrong, f"step {step} is {found['state']}: {found['last_end']}"
            return found["state"] in states

        what = f"step {workflow}.{step} is {' or '.join(states)}"
        return wait_until(what, lambda: self.step(workflow, step), ended, timeout_s)

    def wait_for_run(self, workflow: int, step: str, run: int) -> "schema.Run":
        """This run once it has ended."""

        def look() -> "schema.Run":
            (found,) = [one for one in self.runs(workflow, step) if one["id"] == run]
            return found

        return wait_until(f"run {run} has ended", look, lambda one: one["ended_at"], END_S)

    def wait_for_workflow(self, workflow: int, state: str, timeout_s: float = STEP_S) -> None:
        def ended(found: "schema.WorkflowAnswer") -> bool:
            failed = [one["last_end"] for one in found["steps"] if one["state"] == "FAILED"]
            assert found["state"] == state or not failed, failed
            return found["state"] == state

        what = f"workflow {workflow} is {state}"
        wait_until(what, lambda: self.client.workflow(workflow), ended, timeout_s)

    # ---- processes ----

    def seen(self, role: str = "", **tagged: str) -> list[Seen]:
        """Live processes of this site."""
        return [
            one
            for one in self.census.look()
            if role in ("", one.role) and tagged.items() <= {**one.tags}.items()
        ]

    def ranks(self, workflow: int) -> list[Seen]:
        """Processes of RELION itself."""
        work_dir = str(self.state / "wf" / str(workflow)) + os.sep
        return [one for one in self.seen("rank") if one.argv[0].startswith(work_dir)]

    def kill_node(self, token: str) -> int:
        """SIGKILL all that runs on a node at once, as when a machine is gone."""
        return processes.kill_tagged({tags.DEPLOYMENT: self.deployment, tags.NODE_TOKEN: token})

    def wait_gone(self, those: Collection[Process], timeout_s: float = 60.0) -> float:
        """Seconds until none of them was left."""
        start = time.monotonic()
        wait_until(
            "these processes are gone",
            lambda: [one for one in those if processes.alive(one)],
            lambda left: not left,
            timeout_s,
        )
        return time.monotonic() - start

    # ---- the end ----

    def close(self) -> None:
        """Cancel what is left, stop the broker, and see that nothing is left of this site."""
        if self._broker is None or not self.deployment:
            return
        if self._broker.poll() is not None:
            self.start()
        self.client.act("cancel", "all") if self._live() else None
        wait_until(
            "every node and driver has ended",
            lambda: [(one.role, one.argv) for one in self.seen()],
            lambda left: not left,
            END_S,
        )
        names = [node["name"] for node in self.client.nodes(ended=True)["items"]]
        assert self.stop_broker() == 0, self.log.read_text()[-4000:]
        assert not list(self._folders(names)), "a node has left its private folders"
        assert not self.census.problems, self.census.problems

    def _live(self) -> bool:
        return bool(self.client.workflows(scope="all")["items"])

    def _folders(self, names: Collection[str]) -> Iterator[Path]:
        uid = os.geteuid()
        for name in names:
            for path in (rundir.node_dir, rundir.shm_dir):
                if path(uid, self.deployment, name).exists():
                    yield path(uid, self.deployment, name)

    def clean(self) -> None:
        """After `close`, also one that has failed: leave the machine as it was."""
        if self._broker is not None and self._broker.poll() is None:
            self.kill_broker()
        if self.deployment:
            self.census.stop()
            processes.kill_tagged({tags.DEPLOYMENT: self.deployment})


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Site]:
    """A site of its own, in a folder with a short name; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"e2e-{getpass.getuser()[:8]}-"))
    keep = False
    try:
        site = Site(folder, **settings)
        try:
            site.start()
            yield site
            site.close()
        except BaseException:
            keep = True
            raise
        finally:
            site.clean()
    finally:
        if not (keep and os.environ.get("SCSCHED_KEEP_E2E")):
            shutil.rmtree(folder, ignore_errors=True)


def iteration_of(step: "schema.StepAnswer") -> int:
    """The one at work; 0 before the first."""
    progress = step["progress"]
    return (progress and progress["iteration"]) or 0


def skip_unless_all_is_here() -> None:
    """Real Scipion, real RELION, real Open MPI, or no test."""
    scipion_site.scipion_python()
    scipion_site.relion_bin()
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun: apt-get install openmpi-bin")
