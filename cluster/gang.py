"""The gang: the nodes of one MPI run with their rank counts, lead first, and its file gang.json.

A gang over several machines has its members' addresses, and a key that opens their agents for
this one run. So its file is readable by its owner alone.
"""

import ipaddress
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scsched.steps.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the gang; `slots` is how many ranks run there."""

    name: str
    slots: int
    address: str = ""
    """host:port of its agent, where the node is a machine of its own."""

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class Gang:
    """Ranks fill the members in order, so rank 0, RELION's leader, is on the lead."""

    members: tuple[Member, ...]
    key: str = field(default="", repr=False)
    """Shown to the agents of members with addresses."""

    @property
    def lead(self) -> Member:
        return self.members[0]

    @property
    def ranks(self) -> int:
        return sum(member.slots for member in self.members)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def apart(self) -> bool:
        """Whether it spans machines: then every member has an address."""
        return len(self.members) > 1 and all(member.address for member in self.members)

    def address(self, name: str) -> str:
        """Where that member's agent listens; empty: on this machine."""
        return next((member.address for member in self.members if member.name == name), "")

    def reached(self, addresses: Mapping[str, str], key: str) -> "Gang":
        """The same gang over machines, with the address of each member's agent and its key."""
        members = (replace(m, address=addresses.get(m.name, "")) for m in self.members)
        return Gang(tuple(members), key)

    def with_ranks(self, ranks: int) -> "Gang":
        """The same nodes with other rank counts; nodes that get none are left out."""
        again = spread(self.names, ranks)
        return again.reached({m.name: m.address for m in self.members}, self.key)


def make_key() -> str:
    """A key for one gang: 256 bits."""
    return secrets.token_hex(32)


def network(gang: Gang) -> str:
    """The smallest network, as a.b.c.d/n, that all members' addresses are in."""
    hosts = [int(ipaddress.IPv4Address(member.host)) for member in gang.members]
    length = 32 - (min(hosts) ^ max(hosts)).bit_length()
    return str(ipaddress.IPv4Network((hosts[0], length), strict=False))


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
    nodes: list[dict[str, object]] = [
        {"name": m.name, "slots": m.slots} | ({"address": m.address} if m.address else {})
        for m in gang.members
    ]
    return {"nodes": nodes} | ({"key": gang.key} if gang.key else {})


def from_json(data: object, *, where: str) -> Gang:
    """The gang from plain data; `where` names its source in errors.

    :raises ConfigError: it is no gang.
    """
    if not isinstance(data, Mapping) or not isinstance(nodes := data.get("nodes"), list):
        raise ConfigError(f'{where}: not a gang; expected {{"nodes": [..]}}')
    if not nodes:
        raise ConfigError(f"{where}: a gang has at least one node")
    members = tuple(_member(node, f"{where} nodes[{i}]") for i, node in enumerate(nodes))
    return Gang(members, str(data.get("key", "")))


def write(gang: Gang, path: Path) -> None:
    """Write gang.json whole or not at all; only its owner can read it."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(to_json(gang), file)
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
    return Member(name, slots, _address(node, where))


def _address(node: object, where: str) -> str:
    address = node.get("address", "") if isinstance(node, Mapping) else ""
    host, _, port = str(address).rpartition(":")
    try:
        if address and not (ipaddress.IPv4Address(host) and 0 < int(port) < 65536):
            raise ValueError
    except ValueError:
        raise ConfigError(f"{where}: {address!r} is not a.b.c.d:port") from None
    return str(address)
