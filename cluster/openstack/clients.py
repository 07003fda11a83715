"""The connection to one cloud: made when first used, each call with a time limit."""

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from scsched.cluster.openstack.errors import translated
from scsched.cluster.openstack.site import Site

if TYPE_CHECKING:
    from openstack.connection import Connection

CALL_S = 8.0
"""No answer for so long is none."""
_KEPT_S = 600.0


class Client:
    """May be used from any thread. Remembers of the cloud what names mean, for ten minutes."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._known: dict[tuple[str, str], tuple[float, str]] = {}

    @property
    def connection(self) -> "Connection":
        """:raises Credentials: there are none, or they name no cloud."""
        with self._lock:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def id_of(self, kind: str, name: str) -> str:
        """The id of an image, flavor, network or security group that may be told by its name.

        :raises BadRequest: there is none, or there are several.
        """
        known = self._known.get((kind, name))
        if known is not None and known[0] > time.monotonic():
            return known[1]
        with translated(f"look for {kind} {name}"):
            found = str(self._find(kind, name).id)
        self._known[kind, name] = (time.monotonic() + _KEPT_S, found)
        return found

    def rules(self, group: str) -> list[Mapping[str, object]]:
        """The rules of a security group, by its name or id."""
        with translated(f"look at security group {group}"):
            return list(self._find("security group", group).security_group_rules or ())

    # Any: a resource as openstacksdk has it, with an `id`.
    def _find(self, kind: str, name: str):  # type: ignore[no-untyped-def]
        cloud = self.connection
        find = {
            "image": cloud.image.find_image,
            "flavor": cloud.compute.find_flavor,
            "network": cloud.network.find_network,
            "security group": cloud.network.find_security_group,
            "key pair": cloud.compute.find_keypair,
        }[kind]
        return find(name, ignore_missing=False)

    def _connect(self) -> "Connection":
        import openstack

        with translated("connect to OpenStack"):
            return openstack.connect(
                cloud=self._site.cloud or None,
                region_name=self._site.region or None,
                api_timeout=CALL_S,
                app_name="scsched",
            )
