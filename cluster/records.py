"""Small files with what /proc cannot tell of a local node: `nodes/<token>.json`."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

from scsched.steps.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a node beside /proc. Times are ISO 8601 UTC; empty: not yet."""

    token: str
    name: str
    pool: str
    uid: int
    provider_id: str = ""
    """Empty: about to be started, or never was."""
    cpus: tuple[int, ...] = ()
    deadline: str = ""
    """When it is to be taken back."""
    ended: str = ""
    reason: str = ""

    def is_due(self, now: datetime) -> bool:
        """Whether it is to be taken back by `now`."""
        return bool(self.deadline) and datetime.fromisoformat(self.deadline) <= now


class Records:
    """All records of one directory, in memory and on disk; one writer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._by_token = {r.token: r for r in map(_read, sorted(directory.glob("*.json")))}

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._by_token.values()))

    def get(self, token: str) -> Record | None:
        """The record of a node, where there is one."""
        return self._by_token.get(token)

    def write(self, record: Record, **changes: str) -> Record:
        """Store the record, with `changes`, whole or not at all."""
        changed = replace(record, **changes)  # type: ignore[arg-type]  # text fields only
        path = self._path(changed.token, ".json")
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(changed)), encoding="utf-8")
        temporary.replace(path)
        self._by_token[changed.token] = changed
        return changed

    def log(self, token: str) -> Path:
        """Where a node's first words go, until it has a log of its own."""
        return self._path(token, ".log")

    def forget(self, *, older_than: timedelta, now: datetime) -> None:
        """Drop the records of nodes that ended longer ago."""
        for record in self:
            if record.ended and now - datetime.fromisoformat(record.ended) > older_than:
                self.remove(record.token)

    def remove(self, token: str) -> None:
        """Drop the record of a node and its first words."""
        self.log(token).unlink(missing_ok=True)
        self._path(token, ".json").unlink(missing_ok=True)
        self._by_token.pop(token, None)

    def _path(self, token: str, suffix: str) -> Path:
        return self._directory / f"{token}{suffix}"


def _read(path: Path) -> Record:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name: data[field.name] for field in fields(Record) if field.name in data}
        return Record(**{**known, "cpus": tuple(known.get("cpus", ()))})
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"{path}: not the record of a node: {exc}", hint=f"rm {path}") from exc
