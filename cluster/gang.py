"""The gang: the nodes of one MPI run with their rank counts, lead first, and its file gang.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scsched.steps.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the gang; `slots` is how many ranks run there."""

    name: str
    slots: int


@dataclass(frozen=True, slots=True)
class Gang:
    """Ranks fill the members in order, so rank 0, RELION's leader, is on the lead."""

    members: tuple[Member, ...]

    @property
    def lead(self) -> Member:
        return self.members[0]

    @property
    def ranks(self) -> int:
        return sum(member.slots for member in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)


def spread(names: Sequence[str], ranks: int) -> Gang:
    """A leader on `names[0]` and the other ranks evenly over all of `names`.

    The leader only hands out work, so the lead is the last to get one worker more: 4 ranks on
    2 nodes are leader + 1 worker, and 2 workers. A single rank is a worker.
    """
    workers, count = max(ranks - 1, 0), len(names)
    slots = [workers // count + (place >= count - workers % count) for place in range(count)]
    slots[0] += 1
    return Gang(
        tuple(Member(name, n) for name, n in zip(names, slots, strict=True) if n),
    )


def to_json(gang: Gang) -> dict[str, object]:
    """The gang as plain data."""
    return {"nodes": [{"name": m.name, "slots": m.slots} for m in gang.members]}


def from_json(data: object, *, where: str) -> Gang:
    """The gang from plain data; `where` names its source in errors.

    :raises ConfigError: it is no gang.
    """
    if not isinstance(data, Mapping) or not isinstance(nodes := data.get("nodes"), list):
        raise ConfigError(f'{where}: not a gang; expected {{"nodes": [..]}}')
    if not nodes:
        raise ConfigError(f"{where}: a gang has at least one node")
    return Gang(tuple(_member(node, f"{where} nodes[{i}]") for i, node in enumerate(nodes)))


def write(gang: Gang, path: Path) -> None:
    """Write gang.json whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(to_json(gang)), encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> Gang:
    """Read gang.json.

    :raises ConfigError: it is missing or is no gang.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{path}: cannot be read as a gang: {exc}") from exc
    return from_json(data, where=str(path))


def _member(node: object, where: str) -> Member:
    name = node.get("name") if isinstance(node, Mapping) else None
    slots = node.get("slots") if isinstance(node, Mapping) else None
    # The name becomes a word of --host: no comma, colon or blank, no leading dash.
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"{where}: {name!r} is not a node name; letters, digits and _ only")
    if type(slots) is not int or slots < 1:
        raise ConfigError(f"{where}: {slots!r} slots; write 1 or more")
    return Member(name, slots)
