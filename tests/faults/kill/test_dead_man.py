"""With no broker at all there is no machine after the dead-man time. On hosts that boot.

That the watchdog ends one machine, and that a lease keeps it: cluster/test_remote.py.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from signal import SIGSTOP

import pytest

from scsched.cluster import processes, tags
from scsched.cluster.ec2.instances import GANG
from scsched.scheduler.client import Client
from scsched.steps.errors import BrokerUnreachable
from tests.cloudbox.client import Box, Machine
from tests.cloudbox.fixtures import skip_where_hosts_cannot_boot
from tests.faults.births import Births
from tests.faults.kill import harness, workflows
from tests.faults.kill.booting import DEAD_MAN_S, BootingWorld
from tests.faults.kill.broker import Site
from tests.faults.kill.brokers import Brokers, brokers_of, wait_until
from tests.faults.kill.killer import slay
from tests.faults.kill.watch import Watch

pytestmark = pytest.mark.slow

SLACK_S = 60.0
"""For machines that boot and end on a slow machine with other work on it."""
DEAD_MAN = "dead man: nobody has renewed the lease"
SELF = "Client.InstanceInitiatedShutdown"


@dataclass(slots=True)
class Lab:
    """A broker, its drivers, and a cloud whose machines boot."""

    site: Site
    brokers: Brokers
    box: Box
    watch: Watch = field(init=False)
    deployment: str = ""

    def __post_init__(self) -> None:
        self.watch = Watch(self.site.journal.path)

    def begin(self, count: int) -> None:
        """So many workflows are taken in."""
        self.brokers.start(cold=True)
        client = Client(self.site.settings.socket, timeout_s=15.0)
        chance = random.Random(1)  # noqa: S311 - makes workflows
        for number in range(count):
            body = {
                "document": workflows.document(chance),
                "name": f"dead man {number}",
                "market": "spot",
                "key": f"dead-man-{number}",
            }
            self.until(lambda body=body: _taken(client, body))  # type: ignore[misc]
        self.deployment = harness.deployment_of(self.site)

    def up(self) -> list[Machine]:
        return self.box.up()

    def joined(self) -> list[Machine]:
        """Machines whose node has joined its driver."""
        return [one for one in self.up() if " joined tls://" in self.log(one)]

    def log(self, machine: Machine) -> str:
        """Of the node on it."""
        return self.box.execute(
            machine.instance_id, "sh", "-c", "cat /var/tmp/scsched-*/*.log"
        ).stdout

    def kill_drivers(self, at_most: int = 9) -> int:
        """How many died. Where the broker is dead, no driver comes after them."""
        self.until(self._all_have_begun)
        found = list(self.watch.drivers.values())[:at_most]
        return sum(slay(one, self.site.journal, "dead man") for one in found)

    def _all_have_begun(self) -> bool:
        """Whether no driver is still on its way to its first line."""
        self.watch.look()
        tagged = {
            process
            for process, environ in processes.Table().environs().items()
            if environ.get(tags.DEPLOYMENT) == self.deployment and tags.NODE_TOKEN not in environ
        }
        return tagged <= {one.process for one in self.watch.drivers.values()}

    def until(self, true: Callable[[], bool], within_s: float = SLACK_S) -> None:
        assert wait_until(true, within_s=within_s), [
            (one.instance_id, one.state, self.box.console(one.instance_id)[-400:])
            for one in self.box.instances()
        ]

    def all_end(self) -> None:
        """Every machine there was has switched itself off, and nothing of it is left."""
        self.until(lambda: not self.up(), DEAD_MAN_S + SLACK_S)
        machines = self.box.instances()
        self.until(lambda: all(one.state == "terminated" for one in self.box.instances()))
        assert {one.reason for one in machines} == {SELF}
        assert [one.pid for one in self.box.instances()] == [None] * len(machines)

    def said(self, word: str) -> list[str]:
        """The machines on whose console it stands."""
        every = (one.instance_id for one in self.box.instances())
        return [one for one in every if word in self.box.console(one)]


@pytest.fixture
def lab() -> Iterator[Lab]:
    skip_where_hosts_cannot_boot()
    with harness.site("booting") as site, brokers_of(site) as brokers:
        world = site.world
        assert isinstance(world, BootingWorld)
        yield Lab(site, brokers, world.box)


def test_machines_whose_broker_died_in_their_launch_and_stays_away_end_themselves(
    lab: Lab,
) -> None:
    """The cloud has its calls, and answers nobody. The drivers died too: there are no keys."""
    lab.box.fault(delay_s=2.0, times=None)
    lab.begin(3)
    lab.until(lambda: lab.box.calls().get("RunInstances", 0) >= 3)
    assert lab.brokers.kill("launch")
    assert lab.kill_drivers() >= 1
    lab.until(lambda: len(lab.up()) >= 2)
    lab.all_end()
    assert len(lab.said(DEAD_MAN)) == len(lab.box.instances())
    assert harness.processes_of(lab.deployment) == []


def test_machines_at_work_whose_broker_is_gone_end_themselves(lab: Lab) -> None:
    """Their leases were renewed before, so they are older than a lease.

    One driver dies with the broker. The other lives, which does not help its nodes: it renews only
    what a broker still wants. And a node of each hangs.
    """
    lab.begin(2)
    births = Births(lab.box)
    lab.until(lambda: len({births.address(one) for one in lab.joined()}) == 2)
    first = lab.joined()
    old = datetime.now(UTC) + timedelta(seconds=DEAD_MAN_S + 3)
    lab.until(lambda: datetime.now(UTC) > old)
    assert {one.instance_id for one in first} <= {one.instance_id for one in lab.up()}
    hung = {births.address(one): one for one in first}.values()
    for one in hung:
        _stop_node(lab, one)
    assert lab.brokers.kill("work")
    assert lab.kill_drivers(at_most=1) == 1
    lab.all_end()
    assert {one.instance_id for one in hung} <= set(lab.said(DEAD_MAN))
    assert len(lab.said(DEAD_MAN)) >= 2


def _taken(client: Client, body: dict[str, object]) -> bool:
    try:
        return bool(client.submit(body)["id"])
    except BrokerUnreachable:
        return False


def _stop_node(lab: Lab, machine: Machine) -> None:
    """Its Python stands still, as one that hangs: only the watchdog is left."""
    token = f"{machine.tags[GANG]}-{machine.index}"
    found = processes.find({tags.DEPLOYMENT: lab.deployment, tags.NODE_TOKEN: token})
    assert found
    for process in found:
        assert processes.send(process, SIGSTOP)
