"""What an instance was told at its birth: read from its metadata, as it would do itself."""

import json
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from tests.cloudbox.client import Box, Machine

_GANG = re.compile(r"^\{.*\"scheduler_address\".*\}$", re.MULTILINE)
_TIMEOUT_S = 30.0


class Births:
    """Of the instances of one box; each is asked for once."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._known: dict[str, Mapping[str, Any]] = {}

    def gang(self, machine: Machine) -> Mapping[str, Any]:
        """The whole gang file of its user data."""
        found = self._known.get(machine.instance_id)
        if found is None:
            text = _user_data(self._box.imds(machine.instance_id))
            line = _GANG.search(text)
            assert line, text
            found = self._known[machine.instance_id] = json.loads(line[0])
        return found

    def address(self, machine: Machine) -> str:
        """Of the Dask scheduler that it joins."""
        return str(self.gang(machine)["scheduler_address"])

    def node(self, machine: Machine) -> Mapping[str, str]:
        """Its own name and token."""
        found: Mapping[str, str] = self.gang(machine)["nodes"][machine.index]
        return found


def _user_data(base: str) -> str:
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _ask(f"{base}/latest/api/token", "PUT", ttl)
    return _ask(f"{base}/latest/user-data", "GET", {"X-aws-ec2-metadata-token": token})


def _ask(url: str, method: str, headers: Mapping[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=dict(headers))  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as answer:
        return str(answer.read(), "latin-1")
