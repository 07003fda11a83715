"""The real `scsched serve` with a real NFS server under all of it.

    nfs-ganesha ── network of the cloud in a box ─┬─ two spot hosts: mounted at boot by user data
                                                  └─ broker and driver: in mounts of their own

RELION classifies under MPI over both hosts. The server stands still for longer than a silent run is
given: that is a stall of the storage, no loss of a node, and nobody starts anything anew. A host
that is lost is one, and so are hosts whose mounts the server no longer knows: the next gang goes on
from what they have left on the server.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scsched.scheduler import demo_data
from scsched.scheduler.demo_data import ParticleSet
from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import skip_where_hosts_cannot_boot
from tests.e2e import site as sites
from tests.e2e.census import Seen
from tests.e2e.site import END_S, STEP_S, Site, iteration_of, wait_until
from tests.e2e.workflows import boxes
from tests.nfs import export, mount_nfs
from tests.nfs.export import NfsExport
from tests.nfs.places import Place, switch

if TYPE_CHECKING:
    from scsched.scheduler.cli import schema

pytestmark = [
    pytest.mark.scipion,
    pytest.mark.relion,
    pytest.mark.slow,
    pytest.mark.skipif(bool(export.missing()), reason=f"no NFS in user space: {export.missing()}"),
]

KIND, ZONE = "c5.large", "us-east-1a"
SERVER = "200.10"
"""The server's address in the box's network, which no host is given."""
CLASSES, WAITING = "20", "21"
SILENT_S = 30.0
"""A run whose output has not grown for so long is ended as STALLED."""
STOPPED_S = SILENT_S + 5.0
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

[storage.shared]
path = "{path}"
export = "{export}"
min_free_gib = 0.1

[[pool]]
name = "spot"
provider = "box"
market = "spot"
types = ["{kind}"]
zones = ["{zone}"]
max_nodes = 2
cores = 1
memory_gib = 3.5
storage = "shared"
"""


@dataclass(frozen=True, slots=True)
class World:
    """`path` is the same storage for hosts and broker, and the folder `disk` at the server."""

    box: Box
    export: NfsExport
    here: Place
    path: Path
    disk: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    sites.skip_unless_all_is_here()
    skip_where_hosts_cannot_boot()
    tmp_path = tmp_path_factory.mktemp("cloud")
    disk, path, image = tmp_path / "disk", tmp_path / "shared", tmp_path / "image"
    demo_data.make_particles(disk / "data", ParticleSet(particles=160))
    mount_nfs.bake(image)
    with Box(tmp_path / "box", boot=True, image=image) as box, switch() as hosts:
        box.price(KIND, ZONE, Decimal("0.034"))
        address = f"{box.cidr.removesuffix('0.0/16')}{SERVER}"
        server, here = hosts.place_on(box.bridge, address, 16), hosts.place_here(box.gateway)
        with (
            NfsExport(server, disk, tmp_path / "work") as exported,
            exported.mount_in(here, str(path), source=exported.twin),
        ):
            yield World(box, exported, here, path, disk)


@pytest.fixture(scope="module")
def site(world: World) -> Iterator[Site]:
    box = world.box
    nodes = NODES.format(
        gateway=box.gateway,
        region=box.region,
        image=box.image,
        python=sites.SERVE[0].replace("scsched", "python"),
        group=box.security_group,
        zone=ZONE,
        subnet=box.subnets[ZONE],
        path=world.path,
        export=world.export.source,
        kind=KIND,
    )
    enter = world.here.argv()
    with sites.running(nodes=nodes, environ=box.env, enter=enter, stall_s=SILENT_S) as found:
        yield found


class Work:
    """Two-dimensional classes of a number of iterations, and one more step that waits for them."""

    def __init__(self, world: World, site: Site, name: str, iterations: int) -> None:
        self._site = site
        self._iterations = iterations
        self._folder = world.disk / name
        document = boxes.document(
            boxes.particles(world.path / "data"),
            boxes.classes_2d(step=CLASSES, iterations=iterations),
            boxes.classes_2d(step=WAITING, iterations=1),
        )
        self.workflow = site.submit(document, project=world.path / name)
        self._log = site.state / "log" / f"driver-{self.workflow}.log"

    def nodes(self, said: str) -> set[str]:
        """Of which the driver has noted that."""
        return {*re.findall(rf"node (\w+): {said}", self._log.read_text())}

    def step(self, step: str = CLASSES) -> "schema.StepAnswer":
        return self._site.step(self.workflow, step)

    def ranks(self) -> list[Seen]:
        """RELION's processes, when they have an iteration behind them."""

        def look() -> list[Seen]:
            step = self.step()
            assert step["state"] not in ("FAILED", "COMPLETED"), step["last_end"]
            return self._site.seen("rank") if iteration_of(step) > 1 else []

        return wait_until("RELION works on iteration 2", look, bool, STEP_S)

    def finished(self) -> "list[schema.Run]":
        """The runs of the classes, which are there; nothing is left of the rest."""
        self._site.client.act("cancel", f"{self.workflow}.{WAITING}")
        self._site.wait_for_step(self.workflow, CLASSES, "COMPLETED")
        last = f"Runs/*/extra/relion*_it{self._iterations:03d}_classes.mrcs"
        assert [path.stat().st_size > 0 for path in self._folder.glob(last)], "no classes"
        return self._site.runs(self.workflow, CLASSES)


def test_a_gang_outlasts_a_stall_of_its_storage(world: World, site: Site) -> None:
    work = Work(world, site, "stalled", iterations=6)
    ranks = work.ranks()
    hosts, launched = world.box.up(), len(world.box.instances())
    assert len(hosts) == 2
    checked = rf"storage \S+ on fuse.nfs on {re.escape(world.export.source)}: ok"
    assert len(work.nodes(checked)) == len(hosts)

    with stopped(world.export) as seconds:
        wait_until(
            "the storage is told to stall",
            lambda: work.step(WAITING)["why"],
            lambda why: why["reason"] == "Storage" and "stalled" in why["sentence"],
            STOPPED_S,
        )
        wait_until("the run is silent for long", seconds, lambda s: s > STOPPED_S, 2 * STOPPED_S)
        assert work.step()["state"] == "RUNNING"
        assert len(work.nodes("storage is stalled")) == len(hosts)
    (run,) = work.finished()
    assert (run["end_reason"], run["nodes"]) == ("COMPLETED", 2)
    (token,) = {one.run for one in ranks}
    assert site.census.ranks[token] == {one.process for one in ranks}
    assert len(world.box.instances()) == launched
    all_is_paid_and_gone(world, site)


def test_the_work_of_a_lost_host_goes_on_from_the_server(world: World, site: Site) -> None:
    work = Work(world, site, "lost", iterations=5)
    work.ranks()
    world.box.lose(world.box.up()[-1].instance_id)
    first, last = work.finished()
    assert first["end_reason"] in ("NODE_FAIL", "PREEMPTED")
    assert last["end_reason"] == "COMPLETED"
    assert int(last["resumed_from"] or 0) >= 1
    all_is_paid_and_gone(world, site)


def test_a_run_whose_hosts_have_a_stale_storage_goes_on_elsewhere(world: World, site: Site) -> None:
    work = Work(world, site, "stale", iterations=5)
    work.ranks()
    hosts = {host.instance_id for host in world.box.up()}
    world.export.export_anew()
    first, last = work.finished()
    assert first["end_reason"] == "NODE_FAIL"
    assert first["detail"].endswith("Stale file handle; unmount it and mount it again"), first
    assert last["end_reason"] == "COMPLETED"
    assert int(last["resumed_from"] or 0) >= 1
    assert all(world.box.instance(host).ended_at for host in hosts), "they were kept"
    all_is_paid_and_gone(world, site)


def all_is_paid_and_gone(world: World, site: Site) -> None:
    wait_until("no machine is left", world.box.up, lambda left: not left, END_S)
    wait_until(
        "no node is on record as alive",
        lambda: site.client.nodes()["items"],
        lambda left: not [node for node in left if node["provider"] == "box"],
        END_S,
    )
    audited = site.client.audit()
    assert audited["ok"], audited["items"]


@contextlib.contextmanager
def stopped(server: NfsExport) -> Iterator[Callable[[], float]]:
    """It answers nobody; what is given tells for how many seconds so far."""
    server.pause()
    began = time.monotonic()
    try:
        yield lambda: time.monotonic() - began
    finally:
        server.resume()
