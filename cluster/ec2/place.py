"""Prints this instance's place in its launch: `python -I -m scsched.cluster.ec2.place`.

Instances of one launch have the same user data; the index tells them apart. From the metadata
service, version 2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

import sys
import time
from urllib.error import URLError
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

METADATA = "http://169.254.169.254"
_TIMEOUT_S = 2.0
_TRIES = 10


def launch_index(base: str = METADATA, *, tries: int = _TRIES, pause_s: float = 1.0) -> int:
    """:raises OSError: the metadata service does not answer, or with no number."""
    opener = build_opener(ProxyHandler({}))  # the address is this machine's own link
    for left in reversed(range(tries)):
        try:
            return int(_get(opener, base, "ami-launch-index"))
        except (URLError, OSError, ValueError) as exc:
            if not left:
                raise OSError(f"{base}: no launch index: {exc}") from exc
        time.sleep(pause_s)
    raise OSError(f"{base}: was not asked")


def _get(opener: OpenerDirector, base: str, name: str) -> str:
    ask = Request(  # noqa: S310 - http on purpose: the service has no other
        f"{base}/latest/api/token",
        method="PUT",
        headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"},
    )
    token = _read(opener, ask)
    return _read(
        opener,
        Request(  # noqa: S310
            f"{base}/latest/meta-data/{name}", headers={"X-aws-ec2-metadata-token": token}
        ),
    )


def _read(opener: OpenerDirector, request: Request) -> str:
    with opener.open(request, timeout=_TIMEOUT_S) as answer:
        return str(answer.read(4096), "ascii").strip()


if __name__ == "__main__":
    try:
        print(launch_index())
    except OSError as error:
        sys.exit(f"place: {error}")
