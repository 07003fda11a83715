"""The instance metadata service: version 2 with tokens, version 1 unless tokens are required.

`answer` is pure but for the tokens it has given out, so the same words hold inside an instance, on
its link-local address, and on the box's own endpoint for instances that are not really there.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

TOKEN_PATH = "/latest/api/token"  # noqa: S105
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105
LONGEST_TTL_S = 21600
USER_DATA_PATH = "/latest/user-data"
META = "/latest/meta-data/"
KEYS_PATH = META + "public-keys"
PUBLIC_KEY_PATH = KEYS_PATH + "/0/openssh-key"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Metadata:
    """One instance's service. `state` is asked at each call: {"required": bool, "tree": {...}}."""

    state: Callable[[], Mapping[str, object]]
    _tokens: dict[str, float] = field(default_factory=dict)

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """`headers` with lower-case names."""
        clean = path.split("?")[0].rstrip("/")
        if method == "PUT":
            return self._token(clean, headers)
        state = self.state()
        if not self._may_read(headers.get(TOKEN_HEADER), required=bool(state["required"])):
            return Answer(401)
        tree = state["tree"]
        assert isinstance(tree, dict)
        return _read(tree, clean)

    def _token(self, path: str, headers: Mapping[str, str]) -> Answer:
        if path != TOKEN_PATH:
            return Answer(404)
        if "x-forwarded-for" in headers:
            return Answer(403)
        ttl = headers.get(TTL_HEADER, "")
        if not ttl.isdecimal() or not 1 <= int(ttl) <= LONGEST_TTL_S:
            return Answer(400)
        token = os.urandom(30).hex()
        self._tokens[token] = time.monotonic() + int(ttl)
        return Answer(200, token.encode(), {TTL_HEADER: ttl})

    def _may_read(self, token: str | None, *, required: bool) -> bool:
        if token is None:
            return not required
        return self._tokens.get(token, 0.0) > time.monotonic()


def _read(tree: Mapping[str, object], path: str) -> Answer:
    if path in tree:
        value = tree[path]
        text = value if isinstance(value, str) else json.dumps(value)
        return Answer(200, text.encode("latin-1" if path == USER_DATA_PATH else "utf-8"))
    below = [key[len(path) + 1 :] for key in tree if key.startswith(path + "/")]
    if not below:
        return Answer(404, b"<title>404 - Not Found</title>")
    names = sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in below})
    return Answer(200, "\n".join(names).encode())
