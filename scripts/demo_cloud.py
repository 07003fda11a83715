"""The main job on a cloud in a box: `./demo --cloud` calls this.

The cloud is played on this machine: EC2's own API in front, and instances that are network
namespaces with their own address, memory and processors, which really boot and are really taken
away. Everything else is as at a lab: the broker launches spot nodes of several types and zones, the
3D refinement runs under MPI over three of them, one is reclaimed with a notice, one is lost without
a word, one type has no capacity, and at the end nothing runs and the bill is what the receipt says.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

from scsched.scheduler.client import Client, Cut
from scsched.steps.errors import ScschedError
from tests.cloudbox.client import Box, Machine

REFINEMENT = "6"
NOTICE_S = 20.0
CHEAPEST, OTHER = "c6i.large", "c5.large"
SPOT = {CHEAPEST: Decimal("0.031"), OTHER: Decimal("0.034"), "m5.large": Decimal("0.037")}
ON_DEMAND = {"m5.large": Decimal("0.096"), "i3.large": Decimal("0.156")}

CONFIG = """
state_dir = "{here}/state"

[scipion]
python = "{scipion_python}"

[network]
address = "{gateway}"

[provider.box]
kind = "ec2"
region = "{region}"
python = "{python}"
image = "{image}"
security_groups = ["{group}"]
subnets = {{ {subnets} }}

[storage.shared]
path = "{here}/shared"
min_free_gib = 1

[[pool]]            # movies and micrographs: firm nodes with a fast disk
name = "preprocess"
provider = "box"
types = ["i3.large"]
zones = {zones}
max_nodes = 1
usd_per_hour = 0.156
storage = "shared"
classes = ["io-bound", "cpu-bound"]

[[pool]]            # classification and refinement: three spot nodes of any of these types
name = "refine"
provider = "box"
market = "spot"
types = ["{cheapest}", "{other}"]
zones = {zones}
max_nodes = 3
storage = "shared"
classes = ["gpu-bound", "memory-bound"]
cores = 2
memory_gib = 3.5

[[pool]]            # seconds of metadata work, on this machine
name = "service"
max_nodes = 2
cores = 1
memory_gib = 2
service = true
"""


def main(argv: Sequence[str]) -> int:
    """Exit code 0: everything happened as said above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--here", type=Path, required=True)
    parser.add_argument("--scsched", required=True)
    parser.add_argument("--scipion-python", required=True)
    args = parser.parse_args(argv)
    here: Path = args.here
    shared = here / "shared"
    shared.mkdir(parents=True)
    with Box(here / "box", boot=True, binds=[shared]) as box:
        for kind, usd in SPOT.items():
            for zone in box.zones:
                box.price(kind, zone, usd)
        for kind, usd in ON_DEMAND.items():
            box.on_demand(kind, usd)
        site = Site(here, args.scsched, args.scipion_python, box)
        try:
            return site.show()
        finally:
            site.stop()


class Site:
    """The broker, and what a person at the lab would type."""

    def __init__(self, here: Path, scsched: str, scipion_python: str, box: Box) -> None:
        self._here = here
        self._scsched = scsched
        self._box = box
        config = here / "config.toml"
        config.write_text(
            CONFIG.format(
                here=here,
                scipion_python=scipion_python,
                python=sys.executable,
                gateway=box.gateway,
                region=box.region,
                image=box.image,
                group=box.security_group,
                subnets=", ".join(f'{zone} = "{net}"' for zone, net in box.subnets.items()),
                zones=list(box.zones),
                cheapest=CHEAPEST,
                other=OTHER,
            )
        )
        self._environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "SCSCHED_"))},
            **box.env,
            "SCSCHED_CONFIG": str(config),
        }
        self._broker: subprocess.Popen[bytes] | None = None
        self._client = Client(here / "state" / "api.sock")
        self.losses = Losses(box, self._client, self._look)

    def show(self) -> int:
        say("what the cloud gives us")
        if broken := self.type("doctor", "--cloud"):
            return broken
        self._box.fault("InsufficientInstanceCapacity", kind=CHEAPEST, market="spot", times=None)
        say("a synthetic data set, made with RELION's own tools")
        data = self._here / "shared" / "data"
        self._run([sys.executable, "-m", "scsched.scheduler.demo_data", str(data)])
        say("the broker")
        self._serve()
        self.type("pools")
        say(
            f"the workflow on spot nodes; {CHEAPEST} has no capacity, one node of the refinement "
            f"is taken back with {NOTICE_S:.0f} s of notice, another one without a word"
        )
        code = self._submit(data)
        say("the queue")
        self.type("queue", "--state", "CD,F")
        say("the steps")
        self.type("show", "last")
        say("what became of the refinement")
        self.type("show", f"last.{REFINEMENT}")
        say("the receipt")
        self.type("receipt", "last")
        say("is anything left, is anything unpaid?")
        audited = self._until_audited()
        self.type("nodes", "--ended")
        return max(code, audited, self._check())

    def type(self, *words: str) -> int:
        """A command, and what it prints."""
        print(f"$ scsched {' '.join(words)}", flush=True)
        return self._run([self._scsched, *words])

    def stop(self) -> None:
        self.losses.stop()
        if self._broker is not None:
            self._broker.terminate()
            self._broker.wait(60)

    def _look(self) -> None:
        """While `scsched run` tells the events as they come."""
        print(flush=True)
        self.type("queue")
        self.type("nodes")

    def _run(self, argv: Sequence[str]) -> int:
        return subprocess.run(argv, env=self._environ, check=False).returncode

    def _serve(self) -> None:
        with (self._here / "broker.log").open("ab") as log:
            self._broker = subprocess.Popen(
                [self._scsched, "serve"], env=self._environ, stdout=log, stderr=log
            )
        wait_until(self._answers, 60, "the broker answers")

    def _answers(self) -> bool:
        try:
            return bool(self._client.ping())
        except (ScschedError, Cut):
            return False

    def _submit(self, data: Path) -> int:
        template = Path("examples/demo.json.template")
        self.losses.start()
        return self.type(
            "run", str(template), "--spot", "--yes", "--map", "ProtRelionClassify2D=memory-bound",
            "--map", "ProtRelionInitialModel=memory-bound", "--param", f"data={data}",
            "--param", "mpi=5", "--project", str(self._here / "shared" / "project"),
        )  # fmt: skip

    def _until_audited(self) -> int:
        """Nodes take a moment to end."""
        wait_until(lambda: not self._box.up(), 300, "no node is left")
        return self.type("audit")

    def _check(self) -> int:
        bill = sum(self._box.bill().values(), Decimal(0))
        paid = Decimal(str(self._client.receipt(self._last())["total_usd"]))
        runs = [run for run in self._client.workflow("last")["runs"] if run["step"] == REFINEMENT]
        ends = [run["end_reason"] for run in runs]
        kinds = {machine.kind for machine in self._box.instances() if machine.spot}
        claims = [
            claim(self._client.workflow("last")["state"] == "COMPLETED", "the workflow completed"),
            claim(self.losses.noticed, "a node of the gang was reclaimed with a notice"),
            claim(self.losses.lost, "a node of the gang was lost without a word"),
            claim(ends.count("COMPLETED") == 1 and len(ends) >= 3, f"the refinement: {ends}"),
            claim(max(run["nodes"] for run in runs) == 3, "the refinement ran on three hosts"),
            claim(kinds == {OTHER}, f"{CHEAPEST} was refused, {OTHER} was taken"),
            claim(not self._box.up(), "no node is left at the cloud"),
            claim(abs(bill - paid) < Decimal("0.005"), f"the bill {bill:.4f}, receipt {paid:.4f}"),
        ]
        return 0 if all(claims) else 1

    def _last(self) -> int:
        return int(self._client.workflow("last")["id"])


class Losses:
    """Takes nodes of the refinement away, once with a notice and once without a word.

    Each time that it has begun to work, somebody has a `look` before that.
    """

    def __init__(self, box: Box, client: Client, look: Callable[[], None]) -> None:
        self._box = box
        self._client = client
        self._look = look
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._stopping = threading.Event()
        self.noticed = False
        self.lost = False

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def _watch(self) -> None:
        looked_at = 0
        while not self._stopping.wait(0.5) and not self.lost:
            run = self._refining()
            if run is None:
                continue
            attempt, iteration, gang = run
            if attempt > looked_at:
                looked_at = attempt
                self._look()
            elif not self.noticed and iteration >= 3 and len(gang) == 3:
                self._take(gang[-1], "notice")
                self.noticed, noticed_in = True, attempt
            elif self.noticed and attempt > noticed_in and iteration >= 5 and len(gang) > 1:
                self._take(gang[-1], "silent")
                self.lost = True

    def _refining(self) -> tuple[int, int, list[Machine]] | None:
        """Attempt, iteration and machines of the refinement while it runs."""
        try:
            step = self._client.step(self._workflow(), REFINEMENT)
            workflow = self._client.workflow("last")
        except (ScschedError, Cut, LookupError):
            return None
        running = [run for run in step["runs"] if run["end_reason"] is None]
        iteration = (step["progress"] or {}).get("iteration")
        if step["state"] != "RUNNING" or not running or not iteration:
            return None
        mine = {n["provider_id"] for n in workflow["nodes"] if n["run"] == running[0]["id"]}
        gang = [one for one in self._box.up() if one.instance_id in mine]
        return int(running[0]["attempt"]), int(iteration), gang

    def _workflow(self) -> int:
        return int(self._client.workflow("last")["id"])

    def _take(self, machine: Machine, how: str) -> None:
        if how == "notice":
            print(f"\n== the cloud: {machine.instance_id} will be taken in {NOTICE_S:.0f} s")
            self._box.reclaim(machine.instance_id, notice_s=NOTICE_S)
        else:
            print(f"\n== the cloud: {machine.instance_id} is gone, and says nothing")
            self._box.lose(machine.instance_id)


def wait_until(holds: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.2)


def claim(holds: object, text: str) -> bool:
    print(f"{'ok  ' if holds else 'FAIL'} {text}", flush=True)
    return bool(holds)


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
