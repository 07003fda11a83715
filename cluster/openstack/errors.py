"""OpenStack's errors as ours: the one border where they are known, by the tables below.

An HTTP answer goes by its status and, where that has two meanings, by its words; an exception that
is no answer by its class. What the tables lack may have been done: `Unreachable`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Throttled,
    Unreachable,
)

Meaning = type[ProviderError]

STATUSES: Mapping[int, Meaning] = {
    400: BadRequest,
    401: Credentials,
    402: Credentials,
    403: Credentials,
    404: BadRequest,
    405: BadRequest,
    406: BadRequest,
    407: Unreachable,
    408: Unreachable,
    409: Unreachable,
    410: BadRequest,
    411: BadRequest,
    412: BadRequest,
    413: Throttled,
    414: BadRequest,
    415: BadRequest,
    416: BadRequest,
    417: BadRequest,
    422: BadRequest,
    425: Throttled,
    429: Throttled,
    431: BadRequest,
    500: Unreachable,
    501: BadRequest,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
    505: BadRequest,
}
"""409: another action is under way on the server; 413: what 429 was before it was invented."""

CLASSES: Mapping[str, Meaning] = {
    # openstack.exceptions; the first six are raised without an answer too
    "BadRequestException": BadRequest,
    "ConflictException": Unreachable,
    "ForbiddenException": Credentials,
    "NotFoundException": BadRequest,
    "PreconditionFailedException": BadRequest,
    "HttpException": Unreachable,
    "EndpointNotFound": Credentials,
    "InvalidResponse": Unreachable,
    "InvalidRequest": BadRequest,
    "MethodNotSupported": BadRequest,
    "DuplicateResource": BadRequest,
    "ResourceTimeout": Unreachable,
    "ResourceFailure": Unreachable,
    "InvalidResourceQuery": BadRequest,
    "ConfigException": Credentials,
    "NotSupported": BadRequest,
    "ValidationException": BadRequest,
    "ServiceDisabledException": Credentials,
    "ServiceDiscoveryException": Unreachable,
    "SDKException": Unreachable,
    # keystoneauth1.exceptions
    "AuthorizationFailure": Credentials,
    "MissingAuthMethods": Credentials,
    "AuthPluginException": Credentials,
    "CatalogException": Credentials,
    "ConnectionError": Unreachable,
    "RetriableConnectionFailure": Unreachable,
    "DiscoveryFailure": Unreachable,
    "VersionNotAvailable": BadRequest,
    "ImpliedVersionMismatch": BadRequest,
    "ServiceProviderNotFound": Credentials,
    "ClientException": Unreachable,
}
"""Without an answer, by the name of the nearest base class that is here."""

_QUOTA = ("quota", "maximum number of ports", "overlimit")
FAULTS: tuple[tuple[str, Meaning], ...] = (
    ("quota", QuotaExceeded),
    ("maximum number of ports", QuotaExceeded),
    ("no valid host", NoCapacity),
    ("exceeded maximum number of retries", NoCapacity),
    ("exhausted all hosts", NoCapacity),
    ("insufficient", NoCapacity),
    ("no more ip addresses", NoCapacity),
    ("no fixed ip addresses", NoCapacity),
    ("could not be found", BadRequest),
    ("unacceptable", BadRequest),
)
"""What Nova says of a server that it could not build, in small letters; the first match holds.

https://docs.openstack.org/nova/latest/user/support-matrix.html has no list of them: these are from
nova/exception.py, and nobody promises that they stay.
"""
_RETRY_S = 5.0


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise ours for OpenStack's errors; `doing` says what we were at, as in `launch of n3`."""
    # Both are slow to import: only who calls a cloud has them.
    from keystoneauth1.exceptions import ClientException, RetriableConnectionFailure
    from openstack.exceptions import SDKException

    try:
        yield
    except (SDKException, ClientException, RetriableConnectionFailure) as exc:
        raise meaning(exc, doing) from exc
    except (OSError, ValueError) as exc:  # requests' own; an answer that is no JSON
        raise Unreachable(f"{doing}: {type(exc).__name__}: {exc}") from exc


def meaning(exc: BaseException, doing: str) -> ProviderError:
    """Of an exception of openstacksdk or keystoneauth1."""
    status = status_of(exc)
    text = f"{doing}: {_said(exc)}"
    if status is None:
        return _told(_by_class(exc), text)
    if status == 403 and any(word in text.lower() for word in _QUOTA):
        return QuotaExceeded(text, hint="ask the site for more, or end servers of this project")
    found = STATUSES.get(status, BadRequest if status < 500 else Unreachable)
    if found is Throttled:
        return Throttled(text, retry_after_s=_retry_after_s(exc))
    return _told(found, text)


def of_fault(message: str, doing: str) -> ProviderError:
    """Of a server that Nova could not build. A fault we do not know: try elsewhere."""
    low = message.lower()
    found = next((error for words, error in FAULTS if words in low), NoCapacity)
    return found(f"{doing}: {message.strip() or 'the server ended in error, without a word'}")


def status_of(exc: BaseException | None) -> int | None:
    """The HTTP status of an answer; None: it was none."""
    status = getattr(exc, "status_code", None) or getattr(exc, "http_status", None)
    return status if isinstance(status, int) and status >= 400 else None


def _by_class(exc: BaseException) -> Meaning:
    names = (base.__name__ for base in type(exc).__mro__)
    return next((CLASSES[name] for name in names if name in CLASSES), Unreachable)


def _told(found: Meaning, text: str) -> ProviderError:
    hint = "check clouds.yaml, or OS_CLOUD and the other OS_* variables, of the broker's user"
    return found(text, hint=hint if found is Credentials else "")


def _said(exc: BaseException) -> str:
    details = getattr(exc, "details", None)
    return f"{details}" if isinstance(details, str) and details else f"{exc}" or type(exc).__name__


def _retry_after_s(exc: BaseException) -> float:
    headers = getattr(getattr(exc, "response", None), "headers", {})
    text = str(headers.get("Retry-After", ""))
    return float(text) if text.isdecimal() else _RETRY_S
