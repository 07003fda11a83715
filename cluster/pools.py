"""Pools: like nodes of one provider, shape and market."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from scsched.steps.spec import ResourceClass


class Market(StrEnum):
    """How a node is paid for."""

    SPOT = "spot"
    """Cheaper; the provider may take it back at any time."""
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing to ask a provider for: an instance type (or flavor) in a zone.

    Both empty where the provider has no such choice.
    """

    kind: str = ""
    zone: str = ""

    def __str__(self) -> str:
        return " in ".join(part for part in (self.kind, self.zone) if part) or "a node"


ANY = Candidate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Shared storage as every node of a pool sees it, at the same path as the submission host."""

    path: str
    """Where it is mounted, e.g. /shared."""
    export: str = ""
    """What a node mounts there, e.g. `server:/export`; empty: it is there."""
    fstype: str = "nfs4"
    options: str = "hard,nfsvers=4.1"
    min_free_gib: float = 10.0
    """Below it no new work starts."""
    floor_mib_per_s: float = 0.0
    """A node that writes more slowly does not work; 0: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What one node of the pool has, and how many there may be.

    `warm_s` is how long an idle node is kept, `boot_s` how long a launch may take until its Dask
    worker answers.
    """

    name: str
    provider: str
    market: Market
    max_nodes: int
    cores: int
    memory_gib: float
    gpus: int = 0
    vram_gib: float = 0.0
    usd_per_hour: Decimal = Decimal(0)
    warm_s: float = 60.0
    boot_s: float = 60.0
    classes: frozenset[ResourceClass] = field(default_factory=frozenset)
    """Resource classes that may run here; empty: all."""
    service: bool = False
    """For light steps and monitors, beside the pools that are paid by the hour."""
    types: tuple[str, ...] = ()
    """Instance types or flavors that will do, the preferred first."""
    zones: tuple[str, ...] = ()
    one_zone: bool = True
    """All nodes of a gang are in one zone. Those of one launch are in any case."""
    prices: Mapping[str, Decimal] = field(default_factory=dict)
    """US dollars an hour by type, where the provider tells none; else `usd_per_hour`."""
    max_usd_per_hour: Decimal | None = None
    """Cap on what all nodes of the pool cost together."""
    remote: bool = False
    """Its nodes are other machines: they enrol, and talk over the network."""
    storage: Storage | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    """What only its provider understands (image, partition, ...), checked by the provider."""

    def candidates(self) -> tuple[Candidate, ...]:
        """Everything that may be asked for, in the order of the configuration."""
        return tuple(
            Candidate(kind, zone) for kind in self.types or ("",) for zone in self.zones or ("",)
        )

    def takes(self, resource_class: ResourceClass) -> bool:
        """Whether steps of `resource_class` may run here."""
        return not self.classes or resource_class in self.classes
