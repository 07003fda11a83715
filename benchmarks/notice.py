"""From a spot notice to the broker's decision and to work again, beside a loss without a notice.

    python benchmarks/notice.py [--particles 160] [--notice-s 60]

A real `scsched serve` on the cloud in a box (tests/cloudbox): an auto-refine of RELION runs over
two spot hosts, each a machine that boots. In the first workflow one of the hosts is given a notice,
in its metadata and on the event bus, as EC2 does it; in the second one a host is gone without a
word. All times are from that moment to the time that the broker has written beside its own event.
What the broker does with a notice may be to let the iteration come to its end; the line of the
decision says what it was. Needs root, Scipion, RELION and Open MPI.
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

REFINEMENT, RANKS, HOSTS = "3", 3, 2
FIRST = 2
"""Iteration at which a host is taken."""
LONGEST_S = 400.0
KIND, USD = "c5.large", Decimal("0.034")
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
memory_gib = 3.5
storage = "shared"
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """Seconds from the loss of a node, or its notice, to what followed; None: it did not."""

    who: str
    decided: str
    """The broker's words."""
    told_s: float
    """The broker has written down the notice, or that the node is gone."""
    decided_s: float | None
    asked_s: float
    """A replacement is intended."""
    up_s: float
    """It has joined."""
    working_s: float
    """The next run of the refinement is at work, with the replacement."""


def main() -> int:
    asked = _options()
    if why := box_gang.missing():
        print(why, file=sys.stderr)
        return 69
    sites.skip_unless_all_is_here()
    heading(f"Loss of one of {HOSTS} spot hosts of an auto-refine, {asked.particles} particles")
    with tempfile.TemporaryDirectory(prefix="bench-notice-", dir="/tmp") as folder:
        shared = make_project(Path(folder, "shared"), Particles(n=asked.particles))
        with Box(Path(folder, "box"), boot=True, binds=[shared]) as box:
            box.price(KIND, box.zones[0], USD)
            with sites.running(nodes=_nodes(box, shared), environ=box.env) as site:
                losses = [
                    _lose(box, site, shared, "no notice", box.lose),
                    _lose(
                        box, site, shared, f"{asked.notice_s:.0f} s of notice",
                        lambda one: box.reclaim(one, notice_s=asked.notice_s),
                    ),
                ]  # fmt: skip
    table(_figures(losses))
    print()
    for loss in losses:
        print(f"{loss.who}: {loss.decided or 'nothing to decide'}")
    return 0


def _lose(box: Box, site: Site, shared: Path, who: str, take: Callable[[str], None]) -> Loss:
    """A workflow of its own, cancelled when all is seen."""
    document = boxes.document(
        boxes.particles(shared), boxes.reference(shared), boxes.refinement(numberOfMpi=RANKS)
    )
    workflow = site.submit(document, project=shared / who.replace(" ", "_"))
    seen = Seen(site, workflow)
    victim = wait_until("the refinement is at work", seen.follower, bool, LONGEST_S)
    print(f"{who}: takes {victim} at iteration {seen.iteration()}", file=sys.stderr)
    began = datetime.now(UTC)
    take(victim)
    found = wait_until("a replacement works", lambda: seen.loss(who, began), bool, LONGEST_S)
    assert found is not None
    site.client.act("cancel", str(workflow))
    wait_until("no machine is left", box.up, lambda left: not left, LONGEST_S)
    return found


class Seen:
    """What the broker tells of one workflow."""

    def __init__(self, site: Site, workflow: int) -> None:
        self._site = site
        self._workflow = workflow

    def iteration(self) -> int:
        return iteration_of(self._site.step(self._workflow, REFINEMENT))

    def follower(self) -> str:
        """The instance of a node of the running gang that is not its lead; "": none is yet."""
        step = self._site.step(self._workflow, REFINEMENT)
        assert step["state"] not in ("FAILED", "CANCELLED", "COMPLETED"), step["last_end"]
        if step["state"] != "RUNNING" or iteration_of(step) < FIRST:
            return ""
        (run,) = [one for one in step["runs"] if one["ended_at"] is None]
        assert run["nodes"] == HOSTS, f"the gang has {run['nodes']} nodes"
        mine = [node for node in self._nodes() if node["run"] == run["id"]]
        return max((node["id"], node["provider_id"] or "") for node in mine)[1]

    def loss(self, who: str, began: datetime) -> Loss | None:
        """None until the replacement works."""
        said = [one for one in self._events() if _time(one["at"]) >= began]
        new = next((one["node"] for one in said if one["kind"] == "node_requested"), None)
        runs = {node["run"] for node in self._nodes() if node["name"] == new and node["run"]}
        of_runs = self._site.runs(self._workflow, REFINEMENT)
        working = [run["running_at"] for run in of_runs if run["id"] in runs and run["running_at"]]
        if not working:
            return None
        decision = next((one for one in said if one["kind"] in DECISIONS), None)

        def first(*kinds: str, node: str | None = None) -> float:
            return next(
                (_time(one["at"]) - began).total_seconds()
                for one in said
                if one["kind"] in kinds and node in (None, one["node"])
            )

        return Loss(
            who=who,
            decided=decision["text"] if decision else "",
            told_s=first("notice", "node_ended"),
            decided_s=first(*DECISIONS) if decision else None,
            asked_s=first("node_requested"),
            up_s=first("up", node=new),
            working_s=(_time(min(working)) - began).total_seconds(),
        )

    def _nodes(self) -> "Sequence[schema.Node]":
        return self._site.client.workflow(self._workflow)["nodes"]

    def _events(self) -> "Sequence[schema.Event]":
        return self._site.client.events(workflow=self._workflow)["items"]


def _figures(losses: Sequence[Loss]) -> Iterator[Figure]:
    measures: Mapping[str, Callable[[Loss], float | None]] = {
        "the broker knows": lambda loss: loss.told_s,
        "it has decided": lambda loss: loss.decided_s,
        "a replacement is asked for": lambda loss: loss.asked_s,
        "the replacement is up": lambda loss: loss.up_s,
        "the refinement runs with it": lambda loss: loss.working_s,
    }
    for what, of in measures.items():
        for loss in losses:
            if (value := of(loss)) is not None:
                yield Figure(what, loss.who, value, "s")


def _nodes(box: Box, shared: Path) -> str:
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
        most=HOSTS + 1,
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--particles", type=int, default=160)
    parser.add_argument("--notice-s", type=float, default=60.0)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
