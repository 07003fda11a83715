"""The broker's services put together over one store and what is outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster import registry
from scsched.cluster.local import LocalProvider
from scsched.cluster.provider import Provider
from scsched.db.session import Store
from scsched.scheduler.config import Settings
from scsched.scheduler.dispatch import Dispatch
from scsched.scheduler.driver_processes import PROGRAM, LocalDrivers, Places
from scsched.scheduler.drivers import Drivers
from scsched.scheduler.ending import Ending
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.inbox import Inbox
from scsched.scheduler.monitor import Monitor
from scsched.scheduler.player import Player, Reclaims
from scsched.scheduler.scale import Scale
from scsched.scheduler.sizing import Sizing
from scsched.scheduler.ticker import Services


@dataclass(frozen=True, slots=True)
class Outside:
    """What the broker acts upon."""

    providers: Mapping[str, Provider]
    reclaims: Reclaims
    driver_program: Sequence[str] = PROGRAM


def wire(settings: Settings, store: Store, outside: Outside) -> Services:
    """All services over one store and the pools of the site."""
    deployment = store.deployment()
    fleet = Fleet(settings.pools(), outside.providers)
    places = Places(settings.state_dir, settings.socket)
    drivers = Drivers(store, LocalDrivers(places, deployment, program=outside.driver_program))
    return Services(
        fleet=fleet,
        inbox=Inbox(),
        monitor=Monitor(
            store,
            fleet,
            Ending(settings.retry, fleet.pools),
            Sizing(settings.site_classes()),
        ),
        player=Player(store, outside.reclaims),
        dispatch=Dispatch(store, fleet),
        drivers=drivers,
        scale=Scale(store, fleet, deployment, drivers.joining),
    )


def this_machine(settings: Settings, store: Store) -> Outside:
    """Local nodes, and drivers that run Scipion."""
    local = LocalProvider(settings.state_dir, store.deployment())
    others = registry.make(settings.provider, deployment=store.deployment(), pools=settings.pools())
    return Outside(providers={registry.LOCAL: local, **others}, reclaims=local)
