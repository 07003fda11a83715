"""Kills brokers and drivers, again and again, while people submit; then lets it come to rest."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scsched.cluster import processes, tags
from scsched.cluster.processes import Process
from scsched.cluster.provider import NodeState
from scsched.db.session import open_store
from scsched.scheduler.client import Client
from scsched.steps.errors import (
    ScschedError,
    StoreError,
)
from tests.faults.kill.broker import Site
from tests.faults.kill.brokers import brokers_of, wait_until
from tests.faults.kill.killer import Campaign, Killer
from tests.faults.kill.people import People
from tests.faults.kill.worlds import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be judged."""

    site: Site
    left: tuple[str, ...]
    """Processes of the deployment that were there at the end."""
    drained: bool
    kill_s: float
    drain_s: float


@contextmanager
def site(kind: str = "outside", *, database: str = "", mutant: str = "") -> Iterator[Site]:
    """A place for one campaign. At its end nothing of it is left, whatever happened."""
    with tempfile.TemporaryDirectory(prefix="kill-", dir="/tmp") as folder:
        root = Path(folder)
        for name in ("outside", "state", "state/wf", "state/log"):
            (root / name).mkdir()
        made = Site(
            folder=root / "outside",
            state_dir=root / "state",
            kind=kind,
            database=database,
            mutant=mutant,
        )
        with made.world.there():
            try:
                yield made
            finally:
                _end_all(made)


def run(place: Site, campaign: Campaign) -> Outcome:
    """Kill, drain, stop; returns with every process of ours ended but those that should not be."""
    began = time.monotonic()
    with brokers_of(place) as brokers:
        killer = Killer(brokers, campaign, place)
        people = People(
            place.settings.socket,
            place.journal,
            live_workflows=campaign.live_workflows,
            requeues=campaign.requeues,
        )
        people.start()
        try:
            killer.run(partial(deployment_of, place))
        finally:
            people.stop()
        drain_began = time.monotonic()
        deployment = deployment_of(place)
        client = Client(place.settings.socket, timeout_s=15.0, attempts=1)
        drained = wait_until(
            lambda: not brokers.alive() or _is_idle(client, deployment, place.world),
            within_s=campaign.drain_s,
        )
        brokers.stop()
        left = tuple(str(process) for process in processes_of(deployment))
    drain_s = time.monotonic() - drain_began
    return Outcome(place, left, drained, drain_began - began, drain_s)


def _is_idle(client: Client, deployment: str, world: World) -> bool:
    """Every workflow has ended, and so have the nodes, on record and outside, and the drivers."""
    with suppress(ScschedError):
        busy = client.workflows(scope="all", live=True)["items"] or client.nodes()["items"]
        return not busy and not processes_of(deployment) and not _is_peopled(world)
    return False


def _is_peopled(world: World) -> bool:
    now = time.time()
    return any(node.state(now) is not NodeState.TERMINATED for node in world.nodes())


def deployment_of(place: Site) -> str:
    store = open_store(place.settings.database_url)
    try:
        return store.deployment()
    finally:
        store.close()


def processes_of(deployment: str) -> list[Process]:
    """Those with the tag of the deployment, which drivers hand on to all that they start."""
    return processes.find({tags.DEPLOYMENT: deployment})


def _end_all(place: Site) -> None:
    with suppress(StoreError):  # no broker has come as far as to make the tables
        processes.kill_tagged({tags.DEPLOYMENT: deployment_of(place)})
