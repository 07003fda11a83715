"""boto3's clients for one region: made when first used, with short timeouts and few repeats."""

import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any

CONNECT_S = 3.0
READ_S = 5.0
LAUNCH_S = 10.0
"""A spot launch takes EC2 some seconds at times."""
_making = threading.Lock()
"""A session of boto3 makes one client at a time."""


class Clients:
    """One per service; may be used from any thread."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._made: dict[str, Any] = {}

    # Any: boto3 makes its clients at run time and has no types for them.
    def of(self, service: str) -> Any:
        """The client of `ec2`, `sqs`, ... Its calls are repeated once."""
        with _making:
            if service not in self._made:
                settings = config(READ_S, attempts=2)
                self._made[service] = _session(self._region).client(service, config=settings)
            return self._made[service]


@cache
def _session(region: str) -> Any:
    """Of the process, with its credentials: it reads the large description of EC2 once."""
    import boto3  # type: ignore[import-untyped,unused-ignore]

    return boto3.session.Session(region_name=region)


def config(read_s: float, *, attempts: int) -> Any:
    """botocore's settings for calls that must end soon."""
    from botocore.config import Config  # type: ignore[import-untyped,unused-ignore]

    return Config(
        connect_timeout=CONNECT_S,
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": attempts},
        user_agent_extra="scsched",
    )


def date_of(answer: Any) -> datetime | None:
    """When AWS made this answer, by its own clock."""
    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None
