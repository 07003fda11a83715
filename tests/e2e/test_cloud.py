"""The real `scsched serve` on the cloud in a box: machines that boot, gangs over them, losses.

RELION refines under MPI over three spot hosts. One is reclaimed with a notice, one is lost without
a word; the step goes on from its checkpoints, nothing is left running, and the bill of the cloud is
what the receipt says.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scsched.scheduler import demo_data
from scsched.scheduler.demo_data import ParticleSet
from tests.cloudbox.client import Box, Machine
from tests.cloudbox.fixtures import skip_where_hosts_cannot_boot
from tests.e2e import site as sites
from tests.e2e.site import END_S, STEP_S, Site, iteration_of, wait_until
from tests.e2e.workflows import boxes

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

pytestmark = [pytest.mark.scipion, pytest.mark.relion, pytest.mark.slow]

REFUSED, TAKEN = "c6i.large", "c5.large"
REFINEMENT = "3"
CENT = Decimal("0.005")
NODES = """
[network]
address = "{gateway}"

[provider.box]
kind = "ec2"
region = "{region}"
image = "{image}"
python = "{python}"
security_groups = ["{group}"]
subnets = {{ {subnets} }}

[storage.shared]
path = "{shared}"
min_free_gib = 0.1

[[pool]]
name = "spot"
provider = "box"
market = "spot"
types = ["{refused}", "{taken}"]
zones = {zones}
max_nodes = 3
cores = 1
memory_gib = 3.5
storage = "shared"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def box(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    sites.skip_unless_all_is_here()
    skip_where_hosts_cannot_boot()
    with Box(tmp_path_factory.mktemp("box"), boot=True, binds=[shared]) as found:
        for zone in found.zones:
            found.price(REFUSED, zone, Decimal("0.031"))
            found.price(TAKEN, zone, Decimal("0.034"))
        yield found


@pytest.fixture(scope="module")
def site(box: Box, shared: Path) -> Iterator[Site]:
    nodes = NODES.format(
        gateway=box.gateway,
        region=box.region,
        image=box.image,
        python=sites.SERVE[0].replace("scsched", "python"),
        group=box.security_group,
        subnets=", ".join(f'{zone} = "{net}"' for zone, net in box.subnets.items()),
        shared=shared,
        refused=REFUSED,
        taken=TAKEN,
        zones=list(box.zones),
    )
    with sites.running(nodes=nodes, environ=box.env) as found:
        yield found


class Gang:
    """The refinement, and the machines that it runs on."""

    def __init__(self, box: Box, site: Site, workflow: int) -> None:
        self._box = box
        self._site = site
        self.workflow = workflow

    def at(self, iteration: int, *, least_run: int = 1, least: int = 2) -> list[Machine]:
        """The machines that work on that iteration, or a later one, of that run, or a later one."""
        found = wait_until(
            f"iteration {iteration} of run {least_run}",
            lambda: self._look(iteration, least_run),
            lambda machines: len(machines) >= least,
            STEP_S,
        )
        return sorted(found, key=lambda machine: machine.instance_id)

    def runs(self) -> "list[schema.Run]":
        return self._site.runs(self.workflow, REFINEMENT)

    def _look(self, iteration: int, least_run: int) -> list[Machine]:
        step = self._site.step(self.workflow, REFINEMENT)
        assert step["state"] not in ("FAILED", "CANCELLED", "COMPLETED"), step["last_end"]
        run = max(step["runs"], key=lambda one: one["attempt"], default=None)
        if run is None or run["ended_at"] or run["attempt"] < least_run:
            return []
        if step["state"] != "RUNNING" or iteration_of(step) < iteration:
            return []
        nodes = self._site.client.workflow(self.workflow)["nodes"]
        mine = {node["provider_id"] for node in nodes if node["run"] == run["id"]}
        return [one for one in self._box.up() if one.instance_id in mine]


def test_a_refinement_over_three_hosts_survives_a_notice_and_a_silent_loss(
    box: Box, site: Site, shared: Path
) -> None:
    """And a type without capacity."""
    demo_data.make_particles(shared / "data", ParticleSet(particles=160))
    data = shared / "data"
    refused = box.fault("InsufficientInstanceCapacity", kind=REFUSED, market="spot", times=None)
    document = boxes.document(
        boxes.particles(data),
        boxes.reference(data) | {"filesPath": str(data / "reference.mrc")},
        boxes.refinement() | {"numberOfMpi": 5},
        boxes.mask(),
        boxes.post_processing(),
    )
    workflow = site.submit(document, project=shared / "project")
    gang = Gang(box, site, workflow)
    machines = gang.at(3, least=3)
    assert len({machine.zone for machine in machines}) == 1
    assert {machine.kind for machine in machines} == {TAKEN}
    assert box.struck(refused) >= 1

    box.reclaim(machines[-1].instance_id, notice_s=15)
    again = gang.at(4, least_run=2)
    first = gang.runs()[0]
    assert first["end_reason"] == "PREEMPTED"
    assert first["nodes"] == 3

    box.lose(again[-1].instance_id)
    site.wait_for_workflow(workflow, "COMPLETED", timeout_s=2 * STEP_S)
    runs = gang.runs()
    ends = [run["end_reason"] for run in runs]
    assert ends[-1] == "COMPLETED"
    assert ends[:-1].count("PREEMPTED") + ends[:-1].count("NODE_FAIL") == len(ends) - 1 >= 2
    assert all(int(run["resumed_from"] or 0) >= 1 for run in runs[1:])
    wait_until("no machine is left", box.up, lambda left: not left, END_S)
    wait_until(
        "no node is on record as alive",
        lambda: site.client.nodes()["items"],
        lambda left: not [node for node in left if node["provider"] == "box"],
        END_S,
    )
    audited = site.client.audit()
    assert audited["ok"], audited["items"]
    bill = sum(box.bill().values(), Decimal(0))
    paid = Decimal(str(site.client.receipt(workflow)["total_usd"]))
    assert bill > 0
    assert abs(bill - paid) < CENT, (bill, paid)
