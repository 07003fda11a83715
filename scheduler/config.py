"""The site's configuration: one frozen `Settings`, read and checked at start.

Order of precedence: environment `SCSCHED_*` > the file named by `SCSCHED_CONFIG` or `--config` >
`~/.config/scsched/config.toml` > `/etc/scsched/scsched.toml` > defaults.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from scsched.cluster import registry
from scsched.cluster.pools import Market, Pool
from scsched.scheduler import config_words, paths
from scsched.scheduler.config_pools import PoolConfig, StorageConfig, Strict
from scsched.steps.classes import ClassInfo, from_site
from scsched.steps.errors import ConfigError

_URL = re.compile(r"postgresql(\+\w+)?://.*|sqlite(\+\w+)?:////.*[^/]", re.DOTALL)

Place = Annotated[Path, AfterValidator(lambda path: paths.placed(str(path)))]
"""Absolute, or from somebody's home: broker and commands have working directories of their own."""


class ScipionConfig(Strict):
    python: Place | None = None
    """Python of the environment that Scipion is installed in."""


class RelionConfig(Strict):
    bin: Place = Path("/usr/bin")


class RetryConfig(Strict):
    max_failures: int = Field(default=2, ge=1)
    max_stalls: int = Field(default=3, ge=1)
    max_timeouts: int = Field(default=5, ge=1)
    max_infrastructure_ends: int = Field(default=20, ge=1)
    max_preemptions_on_spot: int = Field(default=3, ge=1)
    backoff_s: float = Field(default=15.0, ge=0.0)
    max_backoff_s: float = Field(default=1800.0, ge=0.0)


class TimesConfig(Strict):
    tick_s: float = Field(default=0.5, gt=0.0)
    stall_s: float = Field(default=1800.0, gt=0.0)
    """A run whose output has not grown for so long ends as STALLED."""
    stop_grace_s: float = Field(default=10.0, ge=0.0)
    walltime_s: float = Field(default=0.0, ge=0.0)
    """Wall time of one run; 0: none."""


class NetworkConfig(Strict):
    address: str = "127.0.0.1"
    """Of this host, as nodes reach it: drivers listen there. Nodes of other machines need more
    than the loopback."""


class LimitsConfig(Strict):
    """Caps on all pools together, counted from the providers' own lists."""

    max_nodes: int | None = Field(default=None, ge=0)
    max_usd_per_hour: Decimal | None = Field(default=None, ge=0)


class Settings(Strict):
    state_dir: Path
    database: str = ""
    """SQLAlchemy URL; empty: SQLite in the state directory."""
    default_market: Market = Market.ON_DEMAND
    scipion: ScipionConfig = ScipionConfig()
    relion: RelionConfig = RelionConfig()
    retry: RetryConfig = RetryConfig()
    times: TimesConfig = TimesConfig()
    network: NetworkConfig = NetworkConfig()
    limits: LimitsConfig = LimitsConfig()
    provider: Mapping[str, Mapping[str, object]] = Field(default_factory=dict)
    """`[provider.NAME]` tables: `kind` (ec2, openstack, slurm, ...) and what that kind needs."""
    storage: Mapping[str, StorageConfig] = Field(default_factory=dict)
    """`[storage.NAME]` tables: shared storage that pools name."""
    classes: Mapping[str, Mapping[str, object]] = Field(default_factory=dict)
    """`[classes.NAME]` tables: protocol classes of the site's own; see `steps.classes`."""
    pool: tuple[PoolConfig, ...] = (
        PoolConfig(name="local"),
        PoolConfig(name="service", max_nodes=4, cores=1, memory_gib=2.0, service=True),
    )

    _origins: Mapping[str, str] = PrivateAttr(default_factory=dict)
    """Where values come from that are no defaults, by key."""

    @field_validator("database")
    @classmethod
    def _is_one_that_we_know(cls, url: str) -> str:
        if url and not _URL.fullmatch(url):
            known = "write sqlite:////absolute/path or postgresql://user@host/name"
            raise ValueError(f"{without_password(url)!r}; {known}")
        return url

    @field_validator("pool")
    @classmethod
    def _names_are_unique(cls, pools: tuple[PoolConfig, ...]) -> tuple[PoolConfig, ...]:
        if not pools:
            raise ValueError("no pool, no node; write a [[pool]], or nothing for the defaults")
        names = [pool.name for pool in pools]
        if len(set(names)) != len(names):
            raise ValueError(f"two pools have one name among {', '.join(sorted(names))}")
        return pools

    @model_validator(mode="after")
    def _pools_name_what_exists(self) -> Self:
        for pool in self.pool:
            if pool.provider != registry.LOCAL and pool.provider not in self.provider:
                raise ValueError(f"pool {pool.name}: there is no [provider.{pool.provider}]")
            if pool.storage and pool.storage not in self.storage:
                raise ValueError(f"pool {pool.name}: there is no [storage.{pool.storage}]")
            if pool.provider == registry.LOCAL and pool.model_extra:
                said = config_words.unknown(min(pool.model_extra), list(PoolConfig.model_fields))
                raise ValueError(f"pool {pool.name}: {min(pool.model_extra)}: {said}")
            if pool.provider != registry.LOCAL and not pool.storage:
                raise ValueError(f"pool {pool.name}: other machines need a storage; name one")
        return self

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.state_dir / 'scsched.db'}"

    @property
    def socket(self) -> Path:
        return paths.socket_path(self.state_dir)

    def pools(self) -> tuple[Pool, ...]:
        """:raises ConfigError: a pool's nodes have a shape that is not known."""
        return tuple(
            config.pool(registry.kind_of(self.provider, config.provider), self.storage)
            for config in self.pool
        )

    @property
    def remote(self) -> bool:
        """Whether nodes of other machines may come."""
        return any(pool.provider != registry.LOCAL for pool in self.pool)

    @property
    def storage_paths(self) -> tuple[str, ...]:
        """Where nodes of other machines find projects."""
        return tuple(storage.path for storage in self.storage.values()) if self.remote else ()

    def storage_of(self, project: str | None) -> StorageConfig | None:
        """The storage that a project is on; one that its driver will make is on the first."""
        if project is None:
            return next(iter(self.storage.values()), None)
        path = PurePosixPath(normpath(project))
        over = [one for one in self.storage.values() if path.is_relative_to(normpath(one.path))]
        return max(over, key=lambda one: len(normpath(one.path)), default=None)

    def site_classes(self) -> dict[str, ClassInfo]:
        return {
            name: from_site(name, found, where=f"classes.{name}")
            for name, found in self.classes.items()
        }


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force.

    :raises ConfigError: a file cannot be read, or a key in it is wrong; names both.
    """
    environ = os.environ if environ is None else environ
    file = paths.config_file(path, environ)
    values = _read(file) if file else {}
    origin = {key: str(file) for key, _ in _rows(values)}
    if python := environ.get("SCSCHED_SCIPION_PYTHON"):
        values = {**values, "scipion": {**_table(values, "scipion"), "python": python}}
        origin["scipion.python"] = "SCSCHED_SCIPION_PYTHON"
    if database := environ.get("SCSCHED_DATABASE"):
        values["database"] = database
        origin["database"] = "SCSCHED_DATABASE"
    if environ.get("SCSCHED_STATE_DIR"):
        origin["state_dir"] = "SCSCHED_STATE_DIR"
    try:
        values["state_dir"] = paths.state_dir(environ, values.get("state_dir"))
        settings = Settings.model_validate(values)
        settings.site_classes()
        registry.check(settings.provider, settings.pools())
    except ValidationError as exc:
        raise _refused(values, str(file or "environment"), origin, exc) from exc
    except ConfigError as exc:
        raise ConfigError(f"{file or 'environment'}: {exc}", hint=exc.hint) from exc
    settings._origins = origin
    return settings


def origins(settings: Settings) -> list[tuple[str, str, str]]:
    """Every key with its value and where it comes from, for `scsched config show`.

    Everybody may ask for these: a password in the database's URL is not among them.
    """
    shown = settings.model_dump(mode="json") | {"database": without_password(settings.database)}
    return [(key, text, settings._origins.get(key, "default")) for key, text in _rows(shown)]


def without_password(url: str) -> str:
    """A database's URL as it may be shown and logged."""
    return re.sub(r"(?<=://)([^:/@]*):[^/]*@", r"\1:***@", url)


def _rows(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [row for key, value in values.items() for row in _flat(key, value)]


def _flat(key: str, value: object) -> Sequence[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for name, inner in value.items() for row in _flat(f"{key}.{name}", inner)]
    if isinstance(value, list):
        return [row for i, inner in enumerate(value) for row in _flat(f"{key}[{i}]", inner)]
    return [(key, "" if value is None else str(value))]


def _read(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: is not TOML: {exc}") from exc


def _table(values: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = values.get(key, {})
    return found if isinstance(found, Mapping) else {}


def _refused(
    values: Mapping[str, object], file: str, origin: Mapping[str, str], exc: ValidationError
) -> ConfigError:
    first = exc.errors()[0]
    key = config_words.key(first, values)
    said = config_words.sentence(first, Settings)
    source = origin.get(key, file)
    parts = (source, said) if source.startswith("SCSCHED_") else (source, key, said)
    return ConfigError(": ".join(part for part in parts if part))
