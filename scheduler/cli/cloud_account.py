"""What `cloud policy`, `cloud image` and `doctor --cloud` do; the heavy imports are all here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scsched.cluster import registry
from scsched.scheduler import config as configuration
from scsched.scheduler.render import put, talk
from scsched.steps.errors import ConfigError, ScschedError, UsageError

if TYPE_CHECKING:
    from scsched.cluster.health import Finding
    from scsched.scheduler.config import Settings

_NO_DEPLOYMENT = "DEPLOYMENT"
_HERE = "this host's"


def policy(config: Path | None, name: str, account: str) -> int:
    """Print the rights as JSON."""
    settings = configuration.load(config)
    one = _one(settings, name)
    make = registry.optional(settings.provider, one, "policy")
    deployment = _deployment(settings)
    if deployment == _NO_DEPLOYMENT:
        talk(f"{_NO_DEPLOYMENT} stands for the id of a database that is not there yet; to have it:")
        talk("scsched db upgrade")
    found = make(
        one,
        settings.provider[one],
        deployment=deployment,
        pools=[pool for pool in settings.pools() if pool.provider == one],
        account=account,
    )
    put(json.dumps(found, indent=2))
    return 0


def image(config: Path | None, name: str) -> int:
    """Print the recipe.

    :raises ConfigError: nothing says where nodes have Scipion.
    """
    settings = configuration.load(config)
    one = _one(settings, name)
    make = registry.optional(settings.provider, one, "image_recipe")
    if settings.scipion.python is None:
        raise ConfigError(
            "scipion.python is not set, and the image has to have Scipion at that path",
            hint='write [scipion] python = "/opt/scsched/.scipion/venv/bin/python"',
        )
    put(str(make(one, settings.provider[one], scipion_python=str(settings.scipion.python))))
    return 0


def findings(settings: Settings) -> Mapping[str, list[Finding]]:
    """What every provider of the site lacks or has, by its name, and this host before them; asks
    them, over the network.

    :raises ConfigError: the configuration names none.
    """
    if not settings.provider:
        raise ConfigError("the configuration has no [provider.NAME]", hint="see docs/how-to/cloud")
    from scsched.scheduler import home

    found = {_HERE: list(home.findings(settings))}
    for name, options in settings.provider.items():
        examine = registry.optional(settings.provider, name, "examine")
        pools = [pool for pool in settings.pools() if pool.provider == name]
        found[name] = list(examine(name, options, deployment=_deployment(settings), pools=pools))
    return found


def _one(settings: Settings, name: str) -> str:
    """The provider that is meant.

    :raises UsageError: there is none of that name, or none was named and there are several.
    """
    names = sorted(settings.provider)
    if name in names:
        return name
    if not name and len(names) == 1:
        return names[0]
    known = ", ".join(names) or "none: the configuration has no [provider.NAME]"
    raise UsageError(f"{name or 'which provider?'}: not a provider of this site; known: {known}")


def _deployment(settings: Settings) -> str:
    """Its id, as every resource is tagged with it; a placeholder before the first `db upgrade`."""
    from scsched.db.session import open_store

    try:
        store = open_store(settings.database_url)
    except ScschedError:
        return _NO_DEPLOYMENT
    try:
        return store.deployment()
    finally:
        store.close()
