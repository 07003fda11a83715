"""From a spot notice to the broker's decision and to work again, beside a loss without a notice.

    python benchmarks/notice.py [--survivor waits goes-on] [--particles 160] [--notice-s 60]

A real `scsched serve` on the cloud in a box (tests/cloudbox): an auto-refine of RELION runs with
three ranks over two spot hosts, each a machine that boots. In one workflow a host is gone without a
word; in the next one a host is given a notice, in its metadata and on the event bus, as EC2 does
it. All times are from that moment to the time that the broker has written beside its own event. A
decision may be to let the iteration come to its end: what it was is told below the table.

With `waits` a node is too small for both halves, so work goes on with the replacement. With
`goes-on` the survivor takes all ranks at once; a replacement is then asked for only at a notice,
and is part of the next gang when it is there in time. Needs root, Scipion, RELION and Open MPI.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import box_gang
from benchmarks.common import Figure, heading, table
from tests.cloudbox.client import Box
from tests.e2e import site as sites
from tests.e2e.site import Site, iteration_of, wait_until
from tests.e2e.workflows import boxes
from tests.relion_data import Particles, make_project

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

REFINEMENT, RANKS = "3", 3
FIRST = 2
"""Iteration at which a host is taken."""
LONGEST_S = 400.0
USD = Decimal("0.034")
KIND, HOSTS = "c5.large", 2
MEMORY_GIB = {"waits": 0.25, "goes-on": 3.5}
"""That a node counts for: a worker takes 0.1, and the leader 0.1 too."""
DECISIONS = ("stop_asked", "stop_after_asked", "let_run")
NODES = """
[network]
address = "{gateway}"

[provider.box]
kind = "ec2"
region = "{region}"
image = "{image}"
python = "{python}"
security_groups = ["{group}"]
subnets = {{ {zone} = "{subnet}" }}
interruption_queue = "{queue}"

[storage.shared]
path = "{shared}"
min_free_gib = 0.1

[[pool]]
name = "spot"
provider = "box"
market = "spot"
types = ["{kind}"]
zones = ["{zone}"]
max_nodes = {most}
cores = 1
memory_gib = {memory_gib}
storage = "shared"
classes = ["gpu-bound", "memory-bound"]

[[pool]]            # the imports, on this machine
name = "rest"
market = "spot"
max_nodes = 1
cores = 1
memory_gib = 2
classes = ["light", "cpu-bound", "io-bound"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Seconds from the loss of a node, or its notice, to what followed; None: it did not."""

    case: str
    who: str
    decided: str
    """The broker's words."""
    told_s: float
    """The broker has written down the notice, or that the node is gone."""
    decided_s: float | None
    asked_s: float | None
    """A replacement is intended."""
    up_s: float | None
    """It has joined."""
    working_s: float
    """The next run of the refinement is at work."""
    nodes: int
    """Of that run."""


def main() -> int:
    asked = _options()
    if why := box_gang.missing():
        print(why, file=sys.stderr)
        return 69
    sites.skip_unless_all_is_here()
    heading(f"Loss of a spot host of an auto-refine of {asked.particles} particles")
    for case in asked.survivor:
        with tempfile.TemporaryDirectory(prefix="bench-notice-", dir="/tmp") as folder:
            shared = make_project(Path(folder, "shared"), Particles(n=asked.particles))
            losses = _losses(case, Path(folder), shared, asked.notice_s)
        table(_figures(losses))
        for loss in losses:
            print(f"{loss.who}: {loss.decided or 'nothing to decide'}; on with {loss.nodes} nodes")
        print(flush=True)
    return 0


def _losses(case: str, folder: Path, shared: Path, notice_s: float) -> Sequence[Loss]:
    """One without a notice, and one with."""
    with Box(folder / "box", boot=True, binds=[shared]) as box:
        box.price(KIND, box.zones[0], USD)
        with sites.running(nodes=_nodes(box, shared, case), environ=box.env) as site:
            bench = Bench(box, site, shared, case)
            return [
                bench.lose("no notice", box.lose),
                bench.lose(
                    f"{notice_s:.0f} s of notice", lambda one: box.reclaim(one, notice_s=notice_s)
                ),
            ]


@dataclass(frozen=True, slots=True)
class Bench:
    """A site on the box."""

    box: Box
    site: Site
    shared: Path
    case: str

    def lose(self, who: str, take: Callable[[str], None]) -> Loss:
        """A workflow of its own, cancelled when all is seen."""
        document = boxes.document(
            boxes.particles(self.shared),
            boxes.reference(self.shared),
            boxes.refinement(numberOfMpi=RANKS),
        )
        workflow = self.site.submit(document, project=self.shared / who.replace(" ", "_"))
        seen = Seen(self.site, workflow, self.case)
        victim = wait_until("the refinement is at work", seen.victim, bool, LONGEST_S)
        print(f"{who}: takes {victim} at iteration {seen.iteration()}", file=sys.stderr)
        began = datetime.now(UTC)
        take(victim)
        found = wait_until("it works again", lambda: seen.loss(who, began), bool, LONGEST_S)
        assert found is not None
        self.site.client.act("cancel", str(workflow))
        wait_until("no machine is left", self.box.up, lambda left: not left, LONGEST_S)
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What the broker tells of one workflow."""

    site: Site
    workflow: int
    case: str

    def iteration(self) -> int:
        return iteration_of(self.site.step(self.workflow, REFINEMENT))

    def victim(self) -> str:
        """The instance of the last node of the running gang; "": none is at work yet."""
        step = self.site.step(self.workflow, REFINEMENT)
        assert step["state"] not in ("FAILED", "CANCELLED", "COMPLETED"), step["last_end"]
        if step["state"] != "RUNNING" or iteration_of(step) < FIRST:
            return ""
        (run,) = [one for one in step["runs"] if one["ended_at"] is None]
        assert run["nodes"] == HOSTS, f"the gang has {run['nodes']} nodes"
        mine = [node for node in self._nodes() if node["run"] == run["id"]]
        return max((node["id"], node["provider_id"] or "") for node in mine)[1]

    def loss(self, who: str, began: datetime) -> Loss | None:
        """None until work goes on, and a replacement that was asked for is up."""
        said = [one for one in self._events() if _time(one["at"]) >= began]

        def first(*kinds: str, node: str | None = None) -> float | None:
            times = [
                (_time(one["at"]) - began).total_seconds()
                for one in said
                if one["kind"] in kinds and node in (None, one["node"])
            ]
            return min(times, default=None)

        new = next((one["node"] for one in said if one["kind"] == "node_requested"), None)
        decision = next((one for one in said if one["kind"] in DECISIONS), None)
        told_s, up_s = first("notice", "node_ended"), first("up", node=new) if new else None
        working = [run for run in self._runs() if run["attempt"] > 1 and run["running_at"]]
        if not working or told_s is None or (new and up_s is None):
            return None
        return Loss(
            case=self.case,
            who=who,
            decided=decision["text"] if decision else "",
            told_s=told_s,
            decided_s=first(*DECISIONS),
            asked_s=first("node_requested"),
            up_s=up_s,
            working_s=(_time(str(working[0]["running_at"])) - began).total_seconds(),
            nodes=working[0]["nodes"],
        )

    def _runs(self) -> "Sequence[schema.Run]":
        return self.site.runs(self.workflow, REFINEMENT)

    def _nodes(self) -> "Sequence[schema.Node]":
        return self.site.client.workflow(self.workflow)["nodes"]

    def _events(self) -> "Sequence[schema.Event]":
        return self.site.client.events(workflow=self.workflow)["items"]


def _figures(losses: Sequence[Loss]) -> Iterator[Figure]:
    measures: Mapping[str, Callable[[Loss], float | None]] = {
        "the broker knows": lambda loss: loss.told_s,
        "it has decided": lambda loss: loss.decided_s,
        "a replacement is asked for": lambda loss: loss.asked_s,
        "the replacement is up": lambda loss: loss.up_s,
        "the refinement is at work again": lambda loss: loss.working_s,
    }
    for what, of in measures.items():
        for loss in losses:
            if (value := of(loss)) is not None:
                yield Figure(f"{loss.case}: {what}", loss.who, value, "s")


def _nodes(box: Box, shared: Path, case: str) -> str:
    return NODES.format(
        gateway=box.gateway,
        region=box.region,
        image=box.image,
        python=sys.executable,
        group=box.security_group,
        zone=box.zones[0],
        subnet=box.subnets[box.zones[0]],
        queue=box.queue,
        shared=shared,
        kind=KIND,
        memory_gib=MEMORY_GIB[case],
        most=HOSTS + 1,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--survivor", nargs="+", default=list(MEMORY_GIB), choices=list(MEMORY_GIB))
    parser.add_argument("--particles", type=int, default=160)
    parser.add_argument("--notice-s", type=float, default=60.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
