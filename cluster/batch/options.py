"""The keys of a batch system's `[provider.NAME]` table and of its pools."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.util import find_spec
from typing import TypeVar, get_type_hints

from scsched.cluster.pools import Pool
from scsched.steps.errors import ConfigError

_TIME = re.compile(r"^(\d+-)?\d+(:\d\d){0,2}$")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOptions:
    """One `[provider.NAME]` table."""

    kind: str
    python: str
    """Of scsched's environment, as the nodes see it."""
    scratch: str = "/var/tmp"  # noqa: S108 - the node's own directory in it is private
    commands: str = ""
    """Folder of sbatch and the others; empty: they are on PATH."""
    conf: str = ""
    """Slurm's configuration; empty: what SLURM_CONF says, or the site's default."""
    logs: str = ""
    """Folder on shared storage, writable by all owners, for the jobs' output; empty: dropped."""
    unproven: bool = False
    """Says that one knows: no real system of this kind has run scsched's nodes yet."""
    dead_man_s: int = 1800
    notice_s: int = 120
    """A job that ends within, by preemption or its time limit, counts as under notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """A pool's own keys. What a batch system has no word for is refused."""

    partition: str = ""
    """Slurm's partition; the queue of the others."""
    time: str = ""
    """Time limit of the job, e.g. 24:00:00; empty: the partition's default."""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    gres: str = ""
    """E.g. gpu:a100:4; empty: gpu:N, where the pool has N GPUs a node."""
    exclusive: bool = False
    """The whole machine, whatever the pool's cores."""
    directives: tuple[str, ...] = ()
    """More lines of the job script's header, as written after #SBATCH."""


def site(name: str, options: Mapping[str, object]) -> SiteOptions:
    """:raises ConfigError: a key is unknown, missing or of another type; names it."""
    if find_spec("dask_jobqueue") is None:
        raise ConfigError(
            f"provider.{name}: dask_jobqueue is not installed",
            hint="run scripts/bootstrap, or pip install '/path/to/scsched[batch]'",
        )
    found = _read(SiteOptions, f"provider.{name}", options)
    for key in ("python", "scratch"):
        if not str(getattr(found, key)).startswith("/"):
            raise ConfigError(f"provider.{name}.{key}: write an absolute path of the nodes")
    if found.dead_man_s < 1 or found.notice_s < 0:
        raise ConfigError(f"provider.{name}: dead_man_s and notice_s are seconds, above 0")
    return found


def pool(of: Pool, known: Sequence[str]) -> PoolOptions:
    """:param known: keys that this batch system has a meaning for.

    :raises ConfigError: a key is unknown, missing or wrong; names it.
    """
    where = f"pool {of.name}"
    if of.types or of.zones:
        raise ConfigError(
            f"{where}: a batch system has no types or zones",
            hint="a pool is one partition with one shape of node; set cores and memory_gib",
        )
    if unknown := sorted(set(of.options) - set(known)):
        raise ConfigError(f"{where}: unknown key {unknown[0]}", hint=f"known: {', '.join(known)}")
    found = _read(PoolOptions, where, of.options)
    if found.time and not _TIME.match(found.time):
        raise ConfigError(f"{where}: time {found.time!r}; write e.g. 24:00:00 or 2-00:00:00")
    for word in (found.partition, found.account, found.qos, found.reservation, found.gres):
        if re.search(r"\s", word):
            raise ConfigError(f"{where}: {word!r} has a space in it")
    if any("\n" in line for line in (*found.directives, found.constraint)):
        raise ConfigError(f"{where}: a directive is one line")
    return found


def _read(of: type[T], where: str, options: Mapping[str, object]) -> T:
    hints = get_type_hints(of)
    if unknown := sorted(set(options) - set(hints)):
        raise ConfigError(f"{where}: unknown key {unknown[0]}")
    values: dict[str, object] = {}
    for key, value in options.items():
        values[key] = _checked(f"{where}.{key}", value, hints[key])
    try:
        return of(**values)
    except TypeError as exc:
        required = [f.name for f in fields(of) if f.default is MISSING]  # type: ignore[arg-type]
        lacking = [key for key in required if key not in values]
        raise ConfigError(f"{where}: {lacking[0]} is missing") from exc


def _checked(where: str, value: object, hint: object) -> object:
    if hint in (str, int, bool):
        if type(value) is not hint:
            raise ConfigError(f"{where}: {value!r} is no {getattr(hint, '__name__', hint)}")
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: write a list of texts")
    return tuple(value)
