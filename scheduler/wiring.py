"""The broker's services put together over one store and what is outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scsched.cluster import registry
from scsched.cluster.local import LocalProvider
from scsched.cluster.provider import Provider
from scsched.db.session import Store
from scsched.scheduler.audit import Audit
from scsched.scheduler.background import Background
from scsched.scheduler.caps import Limits
from scsched.scheduler.config import Settings
from scsched.scheduler.dispatch import Dispatch
from scsched.scheduler.driver_processes import PROGRAM, LocalDrivers, Places
from scsched.scheduler.drivers import Drivers
from scsched.scheduler.ending import Ending
from scsched.scheduler.fleet import Fleet
from scsched.scheduler.inbox import Inbox
from scsched.scheduler.monitor import Monitor
from scsched.scheduler.player import Player, Reclaims
from scsched.scheduler.prices import Prices
from scsched.scheduler.scale import Scale
from scsched.scheduler.sizing import Sizing
from scsched.scheduler.storage_hold import StorageHold
from scsched.scheduler.ticker import Services
from scsched.scheduler.widening import Widening


@dataclass(frozen=True, slots=True)
class Outside:
    """What the broker acts upon."""

    providers: Mapping[str, Provider]
    reclaims: Reclaims
    driver_program: Sequence[str] = PROGRAM


def wire(settings: Settings, store: Store, outside: Outside) -> Services:
    """All services over one store and the pools of the site."""
    deployment = store.deployment()
    inbox = Inbox()
    providers = {name: _unblocking(one, inbox) for name, one in outside.providers.items()}
    fleet = Fleet(settings.pools(), providers, _limits(settings))
    places = Places(settings.state_dir, settings.socket)
    programs = LocalDrivers(places, deployment, program=outside.driver_program)
    drivers = Drivers(store, programs, inbox.heard)
    storage = StorageHold()
    monitor = Monitor(
        store,
        fleet,
        Ending(settings.retry, fleet.pools),
        Sizing(settings.site_classes()),
        storage,
    )
    return Services(
        fleet=fleet,
        inbox=inbox,
        monitor=monitor,
        player=Player(store, outside.reclaims),
        dispatch=Dispatch(
            store, fleet, unproven=lambda: monitor.unproven, storage=storage.unplaced
        ),
        widening=Widening(store, fleet),
        drivers=drivers,
        scale=Scale(store, fleet, deployment, drivers.joining),
        prices=Prices(store, fleet),
        audit=Audit(store, fleet),
    )


def _unblocking(provider: Provider, inbox: Inbox) -> Provider:
    """No call over a network holds up a tick."""
    return Background(provider, inbox.wake) if provider.traits.remote else provider


def _limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(max_nodes=limits.max_nodes, max_usd_per_hour=limits.max_usd_per_hour)


def this_machine(settings: Settings, store: Store) -> Outside:
    """Local nodes, and drivers that run Scipion."""
    local = LocalProvider(settings.state_dir, store.deployment())
    others = registry.make(settings.provider, deployment=store.deployment(), pools=settings.pools())
    return Outside(providers={registry.LOCAL: local, **others}, reclaims=local)
