"""The box's own network: a bridge of a unique name with an unused 10.x.0.0/16 on it.

Hosts have no route but to that network: nothing they send can leave the machine.
"""

import ipaddress
import json
import random
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cloudbox.records import IP_S, Records

DEAD_MAC = "02:00:00:00:de:ad"
"""Nobody has it: what is sent there is lost without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`claim` keeps other boxes off the same prefix for as long as this process lives."""

    bridge: str
    prefix: str
    claim: socket.socket

    @property
    def cidr(self) -> str:
        return f"{self.prefix}.0.0/16"

    @property
    def gateway(self) -> str:
        """This machine's own address in it."""
        return f"{self.prefix}.0.1"

    @property
    def nowhere(self) -> str:
        """An address that no host gets."""
        return f"{self.prefix}.255.254"


def make(box: str, records: Records) -> Network:
    """A bridge with an address; `box` is the box's unique name."""
    prefix, claim = _unused()
    bridge, alias = f"cb{box[:8]}", f"cloudbox {box}"
    records.will_make("bridge", name=bridge, alias=alias)
    network = Network(bridge=bridge, prefix=prefix, claim=claim)
    ip_batch(
        f"link add {bridge} type bridge mcast_snooping 0",
        f'link set {bridge} alias "{alias}"',
        f"addr add {network.gateway}/16 dev {bridge}",
        f"link set {bridge} up",
    )
    return network


def ip_batch(*lines: str, enter: Sequence[str] = ()) -> None:
    """Runs them by `ip`, the first that fails ends it; `enter`: words that run it elsewhere."""
    argv, words = [*enter, "ip", "-batch", "-"], "\n".join(lines) + "\n"
    try:
        done = subprocess.run(
            argv, input=words, text=True, capture_output=True, timeout=IP_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise TimeoutError(f"ip: {words}: no answer in {IP_S:.0f} s") from exc
    if done.returncode:
        raise OSError(f"ip: {words}: {done.stderr.strip()}")


def remove_link(link: str) -> None:
    """Gone is done, whoever took it: it also goes by itself with the namespace of its other end."""
    deadline = time.monotonic() + IP_S
    while Path("/sys/class/net", link).exists():
        try:
            ip_batch(f"link delete {link}")
        except OSError:
            if time.monotonic() > deadline:
                raise


def _unused() -> tuple[str, socket.socket]:
    taken = _taken()
    numbers = list(range(16, 250))
    random.SystemRandom().shuffle(numbers)
    for number in numbers:
        net = ipaddress.ip_network(f"10.{number}.0.0/16")
        claim = None if any(net.overlaps(one) for one in taken) else _claim(str(net))
        if claim is not None:
            return f"10.{number}", claim
    raise OSError("every 10.x.0.0/16 is in use here")


def _claim(name: str) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0cloudbox {name}")
    except OSError:
        claim.close()
        return None
    return claim


def _taken() -> list[ipaddress.IPv4Network]:
    found = [
        f"{one['local']}/{one['prefixlen']}" for row in _ask("addr") for one in _addresses(row)
    ]
    routes = [str(row["dst"]) for row in _ask("route", "show", "table", "all")]
    found += [dst for dst in routes if dst != "default"]
    return [ipaddress.IPv4Network(one, strict=False) for one in found]


def _addresses(row: dict[str, object]) -> list[dict[str, object]]:
    found = row.get("addr_info", [])
    assert isinstance(found, list)
    return [one for one in found if "local" in one]


def _ask(*words: str) -> list[dict[str, object]]:
    done = subprocess.run(
        ["ip", "-4", "-json", *words], capture_output=True, timeout=IP_S, check=True
    )
    rows = json.loads(done.stdout or b"[]")
    assert isinstance(rows, list)
    return [row for row in rows if row]
