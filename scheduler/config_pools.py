"""The `[[pool]]` and `[storage.NAME]` tables of the site's configuration."""

import os
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scsched.cluster import catalogue, registry
from scsched.cluster.pools import Market, Pool, Storage
from scsched.steps.errors import ConfigError
from scsched.steps.spec import ResourceClass

Usd = Annotated[Decimal, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StorageConfig(Strict):
    """One `[storage.NAME]` table."""

    path: str = Field(pattern=r"^/[^\s]*$")
    """Where every node has it, and this host too."""
    export: str = ""
    """What nodes mount there; empty: it is mounted already."""
    fstype: str = "nfs4"
    options: str = "hard,nfsvers=4.1"
    min_free_gib: float = Field(default=10.0, ge=0.0)
    """Below it no new work starts."""
    floor_mib_per_s: float = Field(default=0.0, ge=0.0)
    """A node that writes more slowly does not work; 0: any."""


class PoolConfig(BaseModel):
    """One `[[pool]]` table: like nodes of one provider, shape and market.

    Keys that are not named here belong to the pool's provider, which checks them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")
    provider: str = registry.LOCAL
    """`local`, or the name of a `[provider.NAME]` table."""
    market: Market = Market.ON_DEMAND
    max_nodes: int = Field(default=1, ge=1, le=10_000)
    max_usd_per_hour: Usd | None = None
    """Cap on what all nodes of the pool cost together."""
    types: tuple[str, ...] = ()
    """Instance types or flavors that will do, the preferred first."""
    zones: tuple[str, ...] = ()
    one_zone: bool = True
    """False: a gang may take over nodes of several zones, and be completed in another one."""
    cores: int = Field(default=0, ge=0)
    """Cores a node; 0: of its type, or this machine's cores divided by `max_nodes`."""
    memory_gib: float = Field(default=0.0, ge=0.0)
    """Memory a node; 0: of its type, or this machine's memory divided by `max_nodes`."""
    gpus: int | None = Field(default=None, ge=0)
    vram_gib: float | None = Field(default=None, ge=0.0)
    usd_per_hour: Usd | Mapping[str, Usd] = Decimal(0)
    """One price, or a price by type. Where the provider tells spot prices, those hold."""
    storage: str = ""
    """Name of a `[storage.NAME]` table; nodes of other machines need one."""
    warm_s: float = Field(default=120.0, ge=0.0)
    """How long an idle node is kept for the next step of the same workflow."""
    boot_s: float = Field(default=120.0, gt=0.0)
    """A node that is not up by then ends as BOOT_FAIL."""
    classes: tuple[ResourceClass, ...] = ()
    service: bool = False
    """Takes the light and the long-lived steps, so that they never hold a dearer node."""

    def pool(self, kind: str, storages: Mapping[str, StorageConfig]) -> Pool:
        """:param kind: of its provider.

        :raises ConfigError: cores or memory are neither given nor known of its types.
        """
        shape = self._shape(kind)
        prices = self.usd_per_hour if isinstance(self.usd_per_hour, Mapping) else {}
        flat = min(prices.values(), default=Decimal(0))
        storage = storages.get(self.storage)
        return Pool(
            name=self.name,
            provider=self.provider,
            market=self.market,
            max_nodes=self.max_nodes,
            cores=shape.cores,
            memory_gib=shape.memory_gib,
            gpus=shape.gpus if self.gpus is None else self.gpus,
            vram_gib=shape.vram_gib if self.vram_gib is None else self.vram_gib,
            usd_per_hour=flat if isinstance(self.usd_per_hour, Mapping) else self.usd_per_hour,
            warm_s=self.warm_s,
            boot_s=self.boot_s,
            classes=frozenset(self.classes),
            service=self.service,
            types=self.types,
            zones=self.zones,
            one_zone=self.one_zone,
            prices=prices,
            max_usd_per_hour=self.max_usd_per_hour,
            remote=kind != registry.LOCAL,
            storage=Storage(**storage.model_dump()) if storage else None,
            options=self.model_extra or {},
        )

    def _shape(self, kind: str) -> catalogue.Shape:
        """What a node has: as configured, else the least of its types, else a part of this host."""
        if kind == registry.LOCAL:
            cores, memory_gib = _machine()
            found = catalogue.Shape(
                cores=max(1, cores // self.max_nodes), memory_gib=memory_gib / self.max_nodes
            )
        else:
            found = catalogue.least(kind, self.types) or self._told()
        return catalogue.Shape(
            cores=self.cores or found.cores,
            memory_gib=self.memory_gib or found.memory_gib,
            gpus=found.gpus,
            vram_gib=found.vram_gib,
        )

    def _told(self) -> catalogue.Shape:
        """:raises ConfigError: it is not."""
        if self.cores and self.memory_gib:
            return catalogue.Shape(cores=self.cores, memory_gib=self.memory_gib)
        raise ConfigError(
            f"pool {self.name}: cores and memory of {', '.join(self.types) or 'its nodes'} "
            "are not known; set cores and memory_gib"
        )


def _machine() -> tuple[int, float]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return len(os.sched_getaffinity(0)), pages / 2**30
