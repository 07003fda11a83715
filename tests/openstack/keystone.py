"""A stand-in for Keystone, version 3: passwords, application credentials, tokens, a catalog."""

import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.openstack.front import Answer, Call, say
from tests.openstack.services import REGION

SERVICES = {"compute": "/compute/v2.1", "image": "/image", "network": "/network"}
PEOPLE = {"scientist": ("secret", "lab"), "admin": ("admin", "admin")}
"""Name: password and project."""


@dataclass(frozen=True, slots=True)
class Token:
    user: str
    project: str

    @property
    def is_admin(self) -> bool:
        return self.user == "admin"


class Keystone:
    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}
        self._credentials: dict[str, tuple[str, Token]] = {}

    def known(self, token: str) -> Token | None:
        with self._lock:
            return self._tokens.get(token)

    def forget_tokens(self) -> None:
        """As if all had run out."""
        with self._lock:
            self._tokens.clear()

    def answer(self, call: Call) -> Answer:
        if call.path.rstrip("/") in ("", "/v3"):
            link = [{"rel": "self", "href": f"{self._url}/identity/v3/"}]
            return say(200, {"version": {"id": "v3.14", "status": "stable", "links": link}})
        if call.path == "/v3/auth/tokens" and call.method == "POST":
            return self._issue(call.json()["auth"])
        if call.path.endswith("/application_credentials") and call.method == "POST":
            return self._credential(call)
        return say(404, {"error": {"code": 404, "message": "Could not find it."}})

    # Any: JSON as the API reference has it.
    def _issue(self, auth: Mapping[str, Any]) -> Answer:
        token = self._who(auth["identity"])
        if token is None:
            said = "The request you have made requires authentication."
            return say(401, {"error": {"code": 401, "message": said, "title": "Unauthorized"}})
        name = uuid.uuid4().hex
        with self._lock:
            self._tokens[name] = token
        return say(201, {"token": self._body(token)}, {"X-Subject-Token": name})

    def _who(self, identity: Mapping[str, Any]) -> Token | None:
        if "application_credential" in identity["methods"]:
            asked = identity["application_credential"]
            secret, token = self._credentials.get(asked["id"], ("", Token("", "")))
            return token if secret and secret == asked["secret"] else None
        user = identity["password"]["user"]
        password, project = PEOPLE.get(user["name"], ("", ""))
        return Token(user["name"], project) if password and password == user["password"] else None

    def _credential(self, call: Call) -> Answer:
        token = self.known(call.headers.get("x-auth-token", ""))
        if token is None:
            return say(401, {"error": {"code": 401, "message": "who?"}})
        made = {"id": uuid.uuid4().hex, "secret": uuid.uuid4().hex}
        with self._lock:
            self._credentials[made["id"]] = (made["secret"], token)
        return say(201, {"application_credential": made | {"name": "scsched"}})

    def _body(self, token: Token) -> Mapping[str, object]:
        now = datetime.now(UTC)
        paths = {"identity": "/identity/v3", **SERVICES}
        return {
            "methods": ["password"],
            "user": {"id": token.user, "name": token.user, "domain": {"id": "default"}},
            "project": {"id": token.project, "name": token.project, "domain": {"id": "default"}},
            "roles": [{"name": "member"}],
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "expires_at": (now + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "catalog": [
                {"type": kind, "name": kind, "endpoints": [self._endpoint(path)]}
                for kind, path in paths.items()
            ],
        }

    def _endpoint(self, path: str) -> Mapping[str, str]:
        where = {"region": REGION, "region_id": REGION, "url": self._url + path}
        return where | {"id": path, "interface": "public"}
