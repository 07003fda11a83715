"""Glance and Neutron as far as scsched asks: the same ids as in Nova's own functional tests."""

import re
import uuid
from collections.abc import Mapping, Sequence

from tests.openstack.front import Answer, Call, say

REGION = "box"
IMAGE = "155d900f-4e14-4e4c-a73d-069cbf4541e6"
IMAGE_NAME = "scsched-node"
NETWORK = "3cb9bc59-5699-4588-a4b1-b87f96708bc6"
NETWORK_NAME = "private"
GROUP = "aec9df91-db1f-4e04-8ac6-e761d8461c53"
GROUP_NAME = "default"
OPEN_GROUP_NAME = "open"
UNSAID_GROUP_NAME = "unsaid"
"""Its rule names no source at all, which Neutron reads as everybody."""


class Images:
    """Glance, version 2."""

    def answer(self, call: Call) -> Answer:
        image = {"id": IMAGE, "name": IMAGE_NAME, "status": "active", "visibility": "public"}
        if call.path in ("", "/"):
            return _versions(call, "v2.9")
        if call.path == "/v2/images":
            wanted = call.query.get("name", IMAGE_NAME)
            return say(200, {"images": [image] if wanted == IMAGE_NAME else []})
        if call.path == f"/v2/images/{IMAGE}":
            return say(200, image)
        return say(404, {"message": "No image found"})


class Networks:
    """Neutron, version 2.0: one network, and groups with and without the world in them."""

    def __init__(self) -> None:
        network = {"id": NETWORK, "name": NETWORK_NAME, "status": "ACTIVE", "admin_state_up": True}
        everybody = {"remote_ip_prefix": "0.0.0.0/0", "protocol": "tcp", "port_range_min": 22}
        self.held: Mapping[str, Sequence[Mapping[str, object]]] = {
            "networks": [network],
            "security-groups": [
                _group(GROUP, GROUP_NAME, {"remote_group_id": GROUP}),
                _group(str(uuid.uuid4()), OPEN_GROUP_NAME, everybody),
                _group(str(uuid.uuid4()), UNSAID_GROUP_NAME, {"ethertype": "IPv6"}),
            ],
        }

    def answer(self, call: Call) -> Answer:
        if call.path in ("", "/"):
            return _versions(call, "v2.0")
        found = re.fullmatch(r"/v2\.0/([a-z-]+)(?:/([0-9a-f-]+|[a-z-]+))?", call.path)
        if found is None or found[1] not in self.held:
            return say(404, {"NeutronError": {"message": "not found"}})
        held, key = self.held[found[1]], found[1].replace("-", "_")
        if found[2] is None:
            name = call.query.get("name")
            return say(200, {key: [one for one in held if name in (None, one["name"])]})
        for one in held:
            if one["id"] == found[2]:
                return say(200, {key[:-1]: one})
        return say(404, {"NeutronError": {"message": f"{found[2]} could not be found"}})


def _group(group_id: str, name: str, ingress: Mapping[str, object]) -> Mapping[str, object]:
    absent = ("protocol", "remote_group_id", "remote_ip_prefix", "port_range_min", "port_range_max")
    rule: dict[str, object] = dict.fromkeys(absent) | {"id": name, "ethertype": "IPv4"}
    rules = [rule | {"direction": "egress"}, rule | {"direction": "ingress"} | dict(ingress)]
    return {"id": group_id, "name": name, "security_group_rules": rules}


def _versions(call: Call, version: str) -> Answer:
    """What a client asks first; the link leads back to where it asked."""
    service = "image" if version == "v2.9" else "network"
    link = f"http://{call.headers['host']}/{service}/{version.split('.')[0]}"
    link += ".0" if service == "network" else ""
    known = {"id": version, "status": "CURRENT", "links": [{"rel": "self", "href": link + "/"}]}
    return say(200, {"versions": [known]})
