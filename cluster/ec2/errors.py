"""AWS's errors as ours: the one border where their codes are known, by the table `codes.tsv`.

A code that the table lacks goes by its HTTP status: 5xx may have done something (`Unreachable`),
4xx has not and never will (`BadRequest`). The code stays in the message either way.
"""

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from scsched.cluster import provider
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    ProviderError,
    Throttled,
    Unreachable,
)

_HINTS = {
    "Blocked": "the account is blocked; ask AWS support",
    "InvalidPlacementGroup.Unknown": "make it, of strategy cluster; scsched makes none",
    "OptInRequired": "subscribe the account to the service or to the image's product",
    "PendingVerification": "AWS still verifies the account",
    "RequestExpired": "is this machine's clock right?",
    "UnauthorizedOperation": "compare the broker's rights with `scsched cloud policy`",
    "VcpuLimitExceeded": "ask for more vCPUs in Service Quotas",
    "MaxSpotInstanceCountExceeded": "ask for more spot vCPUs in Service Quotas",
    "InsufficientFreeAddressesInSubnet": "use a larger subnet",
}
_NOT_SENT = (
    "ParamValidationError",
    "NoRegionError",
    "InvalidRegionError",
    "UnknownServiceError",
    "UnknownEndpointError",
    "UnknownSignatureVersionError",
    "InvalidEndpointConfigurationError",
    "EndpointProviderError",
    "InvalidConfigError",
    "ConfigParseError",
    "ConfigNotFound",
)
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "NoAuthTokenError",
    "TokenRetrievalError",
    "SSOError",
    "ProfileNotFound",
    "RefreshWithMFAUnsupportedError",
    "MetadataRetrievalError",
    "InvalidIMDSEndpointError",
    "UnauthorizedSSOTokenError",
    "LoginError",
)
_PREFIXES = ("Client.", "Server.")


@cache
def codes() -> Mapping[str, type[ProviderError]]:
    """Our error by AWS's code."""
    with (Path(__file__).parent / "codes.tsv").open(encoding="ascii", newline="") as file:
        rows = csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t")
        return {row["code"]: getattr(provider, row["error"]) for row in rows}


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise ours for AWS's errors; `doing` says what we were at, as in `launch of 3 nodes`."""
    # botocore is slow to import: only who calls AWS has it.
    from botocore.exceptions import (  # type: ignore[import-untyped,unused-ignore]
        BotoCoreError,
        ClientError,
    )

    try:
        yield
    except ClientError as exc:
        raise of_answer(exc.response, doing) from exc
    except (BotoCoreError, OSError) as exc:
        raise of_silence(exc, doing) from exc


def of_answer(response: Mapping[str, object], doing: str) -> ProviderError:
    """Of an answer that is an error."""
    code, message, status = _parts(response)
    error = codes().get(code) or _by_status(status)
    text = f"{doing}: AWS answered {code}: {message}"
    if error is Throttled:
        return Throttled(text)
    return error(text, hint=_HINTS.get(code, ""))


def of_silence(exc: BaseException, doing: str) -> ProviderError:
    """Of no answer at all, or of a call that was never made."""
    names = {base.__name__ for base in type(exc).__mro__}
    text = f"{doing}: {type(exc).__name__}: {exc}"
    if names & set(_NO_CREDENTIALS):
        return Credentials(text, hint="give the broker an instance role, or AWS_PROFILE")
    if names & set(_NOT_SENT):
        return BadRequest(text)
    return Unreachable(text)


def code_of(exc: BaseException | None) -> str:
    """AWS's code in the answer that caused this error of ours; empty: there was none."""
    cause = None if exc is None else exc.__cause__
    response = getattr(cause, "response", None)
    return _parts(response)[0] if isinstance(response, Mapping) else ""


def _by_status(status: int) -> type[ProviderError]:
    if status == 429:
        return Throttled
    return BadRequest if 400 <= status < 500 else Unreachable


def _parts(response: Mapping[str, object]) -> tuple[str, str, int]:
    error, meta = response.get("Error"), response.get("ResponseMetadata")
    error = error if isinstance(error, Mapping) else {}
    meta = meta if isinstance(meta, Mapping) else {}
    code = str(error.get("Code", "")) or "no code"
    for prefix in _PREFIXES:
        code = code.removeprefix(prefix)
    return code, str(error.get("Message", "")), int(meta.get("HTTPStatusCode", 0))
