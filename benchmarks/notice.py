"""From a spot notice to the broker's decision and to work again, beside a loss without a notice.

    python benchmarks/notice.py [--hosts 1 2] [--particles 160] [--notice-s 30] [--bus]

A real `scsched serve` on the cloud in a box (tests/cloudbox), with spot hosts that boot: a 3D
classification of RELION on one of them, or an auto-refine with three ranks over two. In one
workflow a host is gone without a word; in the next one a notice appears in a host's metadata, which
the host looks at every 5 s. With --bus the event bus tells of it too, as EC2 does; its message has
no time in it and stands for two minutes, so give --notice-s 120. All times are from the notice, or
the loss, to the time that the broker has written beside its own event.

A noticed step works on until an iteration ends that fits into the time left, so what it loses is
the standstill: from the end of its run, or the loss, until the next one is at work. Of one host
nothing is left, so work goes on with the replacement. Of two, the survivor takes all ranks at once;
a replacement is then asked for only at a notice, and is part of the next gang when it is there in
time. Needs root, Scipion, RELION and Open MPI.
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

STEP, RANKS = "3", 3
FIRST = 2
"""Iteration at which a host is taken."""
LONGEST_S = 400.0
USD = Decimal("0.034")
KIND = "c5.large"
STEPS: "Mapping[int, boxes.Box]" = {
    1: boxes.classes_3d(step=STEP, iterations=200) | {"numberOfMpi": 1},
    2: boxes.refinement(step=STEP, numberOfMpi=RANKS),
}
"""By number of hosts that they take."""
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
{queue}

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
memory_gib = 3.5
storage = "shared"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Seconds from the loss of a node, or its notice, to what followed; None: it did not."""

    hosts: int
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
    """The next run of the step is at work."""
    standstill_s: float
    """Before it."""
    nodes: int
    """Of that run."""
    iterations_lost: int | None
    """Of the run before."""


def main() -> int:
    asked = _options()
    if why := box_gang.missing():
        print(why, file=sys.stderr)
        return 69
    sites.skip_unless_all_is_here()
    heading(f"Loss of a spot host at work on {asked.particles} particles")
    for hosts in asked.hosts:
        with tempfile.TemporaryDirectory(prefix="bench-notice-", dir="/tmp") as folder:
            shared = make_project(Path(folder, "shared"), Particles(n=asked.particles))
            losses = _losses(hosts, Path(folder), shared, asked)
        table(_figures(losses))
        for loss in losses:
            print(
                f"{loss.who}: {loss.decided or 'nothing to decide'}; {loss.iterations_lost} "
                f"iterations lost; {loss.nodes} of {hosts} nodes in the next run"
            )
        print(flush=True)
    return 0


def _losses(hosts: int, folder: Path, shared: Path, asked: argparse.Namespace) -> Sequence[Loss]:
    """One without a notice, and one with."""
    notice_s: float = asked.notice_s
    with Box(folder / "box", boot=True, binds=[shared]) as box:
        box.price(KIND, box.zones[0], USD)
        with sites.running(
            nodes=_nodes(box, shared, hosts, bus=asked.bus), environ=box.env
        ) as site:
            bench = Bench(box, site, shared, hosts)
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
    hosts: int

    def lose(self, who: str, take: Callable[[str], None]) -> Loss:
        """A workflow of its own, cancelled when all is seen."""
        document = boxes.document(
            boxes.particles(self.shared), boxes.reference(self.shared), STEPS[self.hosts]
        )
        workflow = self.site.submit(document, project=self.shared / who.replace(" ", "_"))
        seen = Seen(self.site, workflow, self.hosts)
        victim = wait_until("the step is at work", seen.victim, bool, LONGEST_S)
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
    hosts: int

    def iteration(self) -> int:
        return iteration_of(self.site.step(self.workflow, STEP))

    def victim(self) -> str:
        """The instance of the last node of the running gang; "": none is at work yet."""
        step = self.site.step(self.workflow, STEP)
        assert step["state"] not in ("FAILED", "CANCELLED", "COMPLETED"), step["last_end"]
        if step["state"] != "RUNNING" or iteration_of(step) < FIRST:
            return ""
        (run,) = [one for one in step["runs"] if one["ended_at"] is None]
        assert run["nodes"] == self.hosts, f"the gang has {run['nodes']} nodes"
        mine = [node for node in self._nodes() if node["run"] == run["id"]]
        return max((node["id"], node["provider_id"] or "") for node in mine)[1]

    def loss(self, who: str, began: datetime) -> Loss | None:
        """None until work goes on, and a replacement that was asked for is up."""
        state = self.site.step(self.workflow, STEP)["state"]
        assert state != "COMPLETED", "the step ended before its host went: give more --particles"
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
        before, *again = self._runs()
        working = [run for run in again if run["running_at"]]
        if not working or told_s is None or (new and up_s is None):
            return None
        working_at = _time(str(working[0]["running_at"]))
        stopped_at = _time(str(before["ended_at"])) if decision else began
        return Loss(
            hosts=self.hosts,
            who=who,
            decided=decision["text"] if decision else "",
            told_s=told_s,
            decided_s=first(*DECISIONS),
            asked_s=first("node_requested"),
            up_s=up_s,
            working_s=(working_at - began).total_seconds(),
            standstill_s=(working_at - stopped_at).total_seconds(),
            nodes=working[0]["nodes"],
            iterations_lost=before["iterations_lost"],
        )

    def _runs(self) -> "Sequence[schema.Run]":
        return self.site.runs(self.workflow, STEP)

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
        "the step is at work again": lambda loss: loss.working_s,
        "of it standstill": lambda loss: loss.standstill_s,
    }
    for what, of in measures.items():
        for loss in losses:
            if (value := of(loss)) is not None:
                yield Figure(f"{loss.hosts}: {what}", loss.who, value, "s")


def _nodes(box: Box, shared: Path, hosts: int, *, bus: bool) -> str:
    return NODES.format(
        gateway=box.gateway,
        region=box.region,
        image=box.image,
        python=sys.executable,
        group=box.security_group,
        zone=box.zones[0],
        subnet=box.subnets[box.zones[0]],
        queue=f'interruption_queue = "{box.queue}"' if bus else "",
        shared=shared,
        kind=KIND,
        most=hosts + 1,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=list(STEPS), choices=STEPS)
    parser.add_argument("--particles", type=int, default=160)
    parser.add_argument("--notice-s", type=float, default=30.0)
    parser.add_argument("--bus", action="store_true", help="the event bus tells of notices too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
