"""Which kinds of provider there are, and how one is made from its `[provider.NAME]` table.

A kind's module has `from_config(name, options, *, deployment, pools) -> Provider` and
`check(name, options, pools)`, both of which raise ConfigError with the key that is wrong, and
`examine`; some have `policy` and `image_recipe` as well, see `scheduler.cli.cloud_account`. The
modules are imported only where they are used: each needs libraries of an extra of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, cast

from scsched.cluster.pools import Pool
from scsched.cluster.provider import Provider
from scsched.steps.errors import ConfigError, UsageError

LOCAL = "local"
"""Nodes of this machine: needs no table."""

_MODULES = {
    "ec2": ("scsched.cluster.ec2.provider", "aws"),
    "openstack": ("scsched.cluster.openstack.provider", "openstack"),
    "slurm": ("scsched.cluster.batch.slurm", "batch"),
    "pbs": ("scsched.cluster.batch.others", "batch"),
    "sge": ("scsched.cluster.batch.others", "batch"),
    "lsf": ("scsched.cluster.batch.others", "batch"),
    "htcondor": ("scsched.cluster.batch.others", "batch"),
}
_NOT_YET = frozenset({"gcp", "azure", "digitalocean", "hetzner", "ibm", "nebius", "fargate", "ecs"})
"""dask-cloudprovider knows them; nobody has shown them to keep our contract."""

_INSTEAD = {
    "policy": "only EC2 has one; elsewhere the broker has all rights of the account it is given",
    "image_recipe": "its nodes are machines of the site: install scsched where `python` says",
}
"""By what a kind may lack."""

Options = Mapping[str, object]


def kind_of(providers: Mapping[str, Options], name: str) -> str:
    """The kind of the provider of that name.

    :raises ConfigError: it names none, or one that cannot be used.
    """
    if name == LOCAL:
        return LOCAL
    kind = str(providers.get(name, {}).get("kind", ""))
    if kind in _NOT_YET:
        raise ConfigError(
            f"provider.{name}: kind {kind} is not proven with scsched and is refused",
            hint=f"use one of {', '.join(sorted(_MODULES))}",
        )
    if kind not in _MODULES:
        raise ConfigError(
            f"provider.{name}: kind {kind!r} is none of {', '.join(sorted(_MODULES))}"
        )
    return kind


def check(providers: Mapping[str, Options], pools: Sequence[Pool]) -> None:
    """:raises ConfigError: names the table and key that is wrong, or the extra that is missing."""
    if LOCAL in providers:
        raise ConfigError(
            f"provider.{LOCAL}: nodes of this machine have this name, and need no table",
            hint="call it something else, in its pools too",
        )
    for pool in pools:
        if pool.provider == LOCAL and pool.options:
            raise ConfigError(f"pool {pool.name}: unknown key {sorted(pool.options)[0]}")
    for name, options in providers.items():
        mine = [pool for pool in pools if pool.provider == name]
        _module(providers, name).check(name, options, mine)


def make(
    providers: Mapping[str, Options], *, deployment: str, pools: Sequence[Pool]
) -> dict[str, Provider]:
    """The providers of the site by name, but for `local`.

    :raises ConfigError: as `check`.
    """
    return {
        name: _module(providers, name).from_config(
            name,
            options,
            deployment=deployment,
            pools=[pool for pool in pools if pool.provider == name],
        )
        for name, options in providers.items()
    }


def optional(providers: Mapping[str, Options], name: str, what: str) -> Callable[..., Any]:
    """A function beside the contract: `examine`, and what not every kind's module has.

    :raises UsageError: this kind has none.
    """
    found = getattr(_module(providers, name), what, None)
    if found is None:
        kind = kind_of(providers, name)
        raise UsageError(
            f"provider.{name}: kind {kind} has no {what.replace('_', ' ')}",
            hint=_INSTEAD.get(what, ""),
        )
    return cast("Callable[..., Any]", found)


def _module(providers: Mapping[str, Options], name: str) -> ModuleType:
    path, extra = _MODULES[kind_of(providers, name)]
    try:
        return import_module(path)
    except ModuleNotFoundError as exc:
        if exc.name and exc.name.startswith("scsched"):
            raise
        raise ConfigError(
            f"provider.{name}: {exc.name} is not installed",
            hint=f"run scripts/bootstrap, or pip install '/path/to/scsched[{extra}]'",
        ) from exc
