"""Pools: like nodes of one provider, shape, zone and market."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from scsched.steps.spec import ResourceClass


class Market(StrEnum):
    """How a node is paid for."""

    SPOT = "spot"
    """Cheaper; the provider may take it back at any time."""
    ON_DEMAND = "on-demand"


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

    def takes(self, resource_class: ResourceClass) -> bool:
        """Whether steps of `resource_class` may run here."""
        return not self.classes or resource_class in self.classes
