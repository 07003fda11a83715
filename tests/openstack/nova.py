"""A stand-in for Nova, as far as scsched asks: servers that build, run, fail and are deleted.

Written after Nova's API reference and compared with a real Nova: the tests that use it run on both.

    POST ─► BUILD ─► ACTIVE ─► (DELETE) deleting ─► DELETED, shown with changes-since,
              │                                     without metadata and fault
              └────► ERROR "No valid host was found."        SHUTOFF: power-off, or os-stop
"""

import threading
import time
import uuid
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha224
from re import fullmatch, search
from typing import Any

from tests.openstack.front import Answer, Call, say
from tests.openstack.keystone import Keystone, Token
from tests.openstack.services import GROUP, GROUP_NAME, IMAGE, NETWORK

ZONE = "nova"
HOSTS = ("compute", "compute2")
HOST_MEMORY_MIB = 8192 - 512
HOST_CORES = 10
LIMITS = {"maxTotalInstances": 10, "maxTotalCores": 20, "maxTotalRAMSize": 51200}
FLAVORS = {
    "1": ("m1.tiny", 512, 1, 1),
    "2": ("m1.small", 2048, 1, 20),
    "3": ("m1.medium", 4096, 2, 40),
    "4": ("m1.large", 8192, 4, 80),
    "5": ("m1.xlarge", 16384, 8, 160),
}
"""As Nova's functional tests have them: id, name, MiB, cores, GB of disk."""
_MICROVERSION = "2.96"
_PAGE = 1000


# Any: JSON as the API reference has it.
@dataclass
class Server:
    """One server; what is asked of it settles when somebody looks, by the clock."""

    asked: Mapping[str, Any]
    project: str
    host: str
    placed_at: float
    built_at: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    launched: datetime | None = None
    status: str = "BUILD"
    task: str | None = "scheduling"
    fault: str = ""
    gone_at: float = float("inf")
    ended: datetime | None = None

    @property
    def name(self) -> str:
        return str(self.asked["name"])

    @property
    def flavor(self) -> tuple[str, int, int, int]:
        return FLAVORS[self.asked["flavorRef"]]

    @property
    def exists(self) -> bool:
        return self.status != "DELETED"

    def settle(self) -> None:
        now = time.monotonic()
        if self.status == "BUILD" and not self.host and now >= self.placed_at:
            self.status, self.task, self.fault = "ERROR", None, "No valid host was found. "
        if self.status == "BUILD" and now >= self.built_at:
            self.status, self.task, self.launched = "ACTIVE", None, datetime.now(UTC)
        if self.exists and now >= self.gone_at:
            self.status, self.task, self.ended = "DELETED", None, datetime.now(UTC)

    def delete(self, after_s: float) -> None:
        """A server that no host has is deleted at once, as Nova does."""
        if self.gone_at == float("inf"):
            self.task = "deleting"
            self.gone_at = time.monotonic() + (after_s if self.host else 0.0)

    def view(self) -> Mapping[str, object]:
        placed = bool(self.host) and time.monotonic() >= self.placed_at
        name, mib, cores, disk = self.flavor
        shown: dict[str, object] = {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "tenant_id": self.project,
            "metadata": self.asked.get("metadata", {}) if self.exists else {},
            "created": _text(self.created),
            "updated": _text(self.ended or self.launched or self.created),
            "hostId": sha224((self.project + self.host).encode()).hexdigest() if placed else "",
            "flavor": {"original_name": name, "ram": mib, "vcpus": cores, "disk": disk},
            "addresses": {},
            "OS-EXT-AZ:availability_zone": ZONE if placed else "",
            "OS-EXT-STS:task_state": self.task if not placed or self.task != "scheduling" else None,
            "OS-SRV-USG:launched_at": _text(self.launched, "%Y-%m-%dT%H:%M:%S.%f"),
            "OS-SRV-USG:terminated_at": _text(self.ended, "%Y-%m-%dT%H:%M:%S.%f"),
        }
        if self.fault and self.status == "ERROR":
            shown["fault"] = {"code": 500, "message": self.fault, "created": _text(self.created)}
        return shown


class Nova:
    """`build_s` and `delete_s` are how long it takes; `place_s` how long a host is looked for."""

    def __init__(self, keystone: Keystone, url: str) -> None:
        self._keystone = keystone
        self._url = url
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}
        self.place_s, self.build_s, self.delete_s = 0.05, 0.15, 0.05

    def answer(self, call: Call) -> Answer:
        token = self._keystone.known(call.headers.get("x-auth-token", ""))
        if call.path.rstrip("/") in ("", "/v2.1"):
            return self._versions(call.path)
        if token is None:
            return say(401, {"error": {"code": 401, "title": "Unauthorized", "message": "who?"}})
        path = call.path.removeprefix("/v2.1")
        with self._lock:
            for server in self._servers.values():
                server.settle()
            return self._route(call, path, token)

    def _route(self, call: Call, path: str, token: Token) -> Answer:
        if path == "/servers" and call.method == "POST":
            return self._create(call.json()["server"], token)
        if path == "/servers/detail":
            return self._list(call.query, token)
        if found := fullmatch("/servers/([^/]+)(/action)?", path):
            return self._one(call, found[1], token)
        if path in ("/flavors", "/flavors/detail"):
            return say(200, {"flavors": [_flavor(one) for one in FLAVORS]})
        if found := fullmatch("/flavors/([^/]+)", path):
            known = found[1] in FLAVORS
            return say(200, {"flavor": _flavor(found[1])}) if known else _missing("flavor")
        if path == "/limits":
            return say(200, {"limits": {"rate": [], "absolute": self._limits(token.project)}})
        if path == "/os-availability-zone":
            zone = {"zoneName": ZONE, "zoneState": {"available": True}, "hosts": None}
            return say(200, {"availabilityZoneInfo": [zone]})
        return _missing(path)

    def _create(self, asked: Mapping[str, Any], token: Token) -> Answer:
        if problem := _refusal(asked):
            return say(400, {"badRequest": {"code": 400, "message": problem}})
        if problem := self._over_quota(asked, token.project):
            return say(403, {"forbidden": {"code": 403, "message": problem}})
        now = time.monotonic()
        server = Server(
            asked=asked,
            project=token.project,
            host=self._host_for(FLAVORS[asked["flavorRef"]]),
            placed_at=now + self.place_s,
            built_at=now + self.build_s,
        )
        self._servers[server.id] = server
        links = [{"rel": "self", "href": f"{self._url}/v2.1/servers/{server.id}"}]
        told = {"id": server.id, "links": links, "OS-DCF:diskConfig": "MANUAL"}
        return say(202, {"server": told | {"adminPass": "x", "security_groups": []}})

    def _list(self, query: Mapping[str, str], token: Token) -> Answer:
        since = query.get("changes-since")
        found = [
            one
            for one in self._servers.values()
            if one.project == token.project
            and search(query.get("name", ""), one.name)
            and (one.exists if since is None else _changed(one) >= _moment(since))
        ]
        names = [one.id for one in found]
        start = names.index(query["marker"]) + 1 if query.get("marker") else 0
        end = start + min(_PAGE, int(query.get("limit") or _PAGE))
        shown: dict[str, object] = {"servers": [one.view() for one in found[start:end]]}
        if end < len(found):
            more = f"{self._url}/v2.1/servers/detail?marker={names[end - 1]}&limit={end - start}"
            shown["servers_links"] = [{"rel": "next", "href": more}]
        return say(200, shown)

    def _one(self, call: Call, server_id: str, token: Token) -> Answer:
        server = self._servers.get(server_id)
        mine = server is not None and server.exists and token.project in (server.project, "admin")
        if server is None or not mine:
            return _missing(f"Instance {server_id}")
        if call.method == "GET":
            return say(200, {"server": server.view()})
        if call.method == "DELETE":
            server.delete(self.delete_s)
            return Answer(204)
        ((verb, said),) = call.json().items()
        if call.method == "PUT":
            server.asked = {**server.asked, **said}
            return say(200, {"server": server.view()})
        if verb == "os-stop":
            server.status = "SHUTOFF"
        elif verb == "os-resetState" and token.is_admin:
            server.status = {"error": "ERROR", "active": "ACTIVE"}[said["state"]]
        else:
            return say(403, {"forbidden": {"code": 403, "message": "Policy doesn't allow it"}})
        return Answer(202)

    def _host_for(self, flavor: tuple[str, int, int, int]) -> str:
        for host in HOSTS:
            here = [one.flavor for one in self._servers.values() if one.exists and one.host == host]
            memory, cores = sum(one[1] for one in here), sum(one[2] for one in here)
            if memory + flavor[1] <= HOST_MEMORY_MIB and cores + flavor[2] <= HOST_CORES:
                return host
        return ""

    def _over_quota(self, asked: Mapping[str, Any], project: str) -> str:
        _, mib, cores, _ = FLAVORS[asked["flavorRef"]]
        used = self._limits(project)
        for word, more, limit, name in (
            ("instances", 1, "maxTotalInstances", "totalInstancesUsed"),
            ("cores", cores, "maxTotalCores", "totalCoresUsed"),
            ("ram", mib, "maxTotalRAMSize", "totalRAMUsed"),
        ):
            if used[name] + more > used[limit]:
                said = f"Requested {more}, but already used {used[name]} of {used[limit]} {word}"
                return f"Quota exceeded for {word}: {said}"
        return ""

    def _limits(self, project: str) -> Mapping[str, int]:
        mine = [one for one in self._servers.values() if one.exists and one.project == project]
        return LIMITS | {
            "totalInstancesUsed": len(mine),
            "totalCoresUsed": sum(one.flavor[2] for one in mine),
            "totalRAMUsed": sum(one.flavor[1] for one in mine),
        }

    def _versions(self, path: str) -> Answer:
        known = {"id": "v2.1", "status": "CURRENT", "version": _MICROVERSION, "min_version": "2.1"}
        links = [{"rel": "self", "href": f"{self._url}/v2.1/"}]
        if path.rstrip("/"):
            return say(200, {"version": known | {"links": links}})
        return say(200, {"versions": [known | {"links": links}]})


def _refusal(asked: Mapping[str, Any]) -> str:
    """What Nova says to a request that makes no sense; empty: nothing."""
    if asked["flavorRef"] not in FLAVORS:
        return f"Flavor {asked['flavorRef']} could not be found."
    if asked.get("imageRef") not in (IMAGE, "", None):
        return f"Can not find requested image {asked['imageRef']}"
    if asked.get("availability_zone") not in (ZONE, None):
        return "The requested availability zone is not available"
    groups = [one["name"] for one in asked.get("security_groups", [])]
    if not set(groups) <= {GROUP, GROUP_NAME}:
        return f"Unable to find security_group with name or id {groups[0]!r}."
    if any(one.get("uuid") != NETWORK for one in asked["networks"]):
        return "Network could not be found."
    if any(len(str(text)) > 255 for text in asked.get("metadata", {}).values()):
        return "Invalid input for field/attribute metadata."
    b64decode(asked.get("user_data", ""), validate=True)
    return ""


def _changed(server: Server) -> datetime:
    return server.ended or server.launched or server.created


def _flavor(flavor_id: str) -> Mapping[str, object]:
    name, mib, cores, disk = FLAVORS[flavor_id]
    return {"id": flavor_id, "name": name, "ram": mib, "vcpus": cores, "disk": disk, "swap": 0}


def _missing(what: str) -> Answer:
    return say(404, {"itemNotFound": {"code": 404, "message": f"{what} could not be found."}})


def _text(moment: datetime | None, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str | None:
    return None if moment is None else moment.strftime(form)


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
