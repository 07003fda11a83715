"""AWS's error codes as ours: none that is documented is missing."""

from collections.abc import Mapping
from pathlib import Path

import botocore.exceptions  # type: ignore[import-untyped,unused-ignore]
import botocore.session  # type: ignore[import-untyped,unused-ignore]
import pytest
from botocore.retries import standard  # type: ignore[import-untyped,unused-ignore]

from scsched.cluster.ec2 import errors
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    ProviderError,
    QuotaExceeded,
    Throttled,
    Unreachable,
)
from tests.cluster.ec2 import documented

SQS_CALLS = ("ReceiveMessage", "DeleteMessageBatch", "GetQueueAttributes")


def answered(code: str, status: int = 400) -> Mapping[str, object]:
    return {
        "Error": {"Code": code, "Message": "words"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }


def meaning(code: str, status: int = 400) -> type[ProviderError]:
    return type(errors.of_answer(answered(code, status), "launch of 2"))


def test_every_documented_code_is_in_the_table() -> None:
    assert documented.ALL - errors.codes().keys() == set()


def test_every_code_that_botocore_knows_of_our_calls_is_in_the_table() -> None:
    session = botocore.session.get_session()
    known = {
        shape.name
        for service, calls in (("sqs", SQS_CALLS), ("service-quotas", ("GetServiceQuota",)))
        for call in calls
        for shape in session.get_service_model(service).operation_model(call).error_shapes
    }
    assert len(known) > 15
    assert known - errors.codes().keys() == set()


def test_every_code_that_botocore_holds_for_throttling_is_ours_too() -> None:
    throttling = set(standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES)
    assert {code for code in throttling if errors.codes().get(code) is not Throttled} == set()
    transient = set(standard.TransientRetryableChecker._TRANSIENT_ERROR_CODES)
    unsure = (Unreachable, Throttled)
    assert {code for code in transient if errors.codes().get(code) not in unsure} == set()


def test_capacity_and_quota_are_told_apart() -> None:
    assert {meaning(code) for code in documented.CAPACITY} == {NoCapacity}
    assert {meaning(code) for code in documented.QUOTA} == {QuotaExceeded}


def test_the_table_has_each_code_once_and_only_our_errors() -> None:
    lines = (Path(errors.__file__).parent / "codes.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    assert len({code for code, _ in rows}) == len(rows)
    known = {NoCapacity, QuotaExceeded, Throttled, Credentials, BadRequest, Unreachable}
    assert set(errors.codes().values()) == known


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, BadRequest),
        (404, BadRequest),
        (429, Throttled),
        (500, Unreachable),
        (503, Unreachable),
        (302, Unreachable),
        (0, Unreachable),
    ],
)
def test_an_unknown_code_goes_by_its_status_and_is_named(
    status: int, expected: type[ProviderError]
) -> None:
    error = errors.of_answer(answered("Surprise.New", status), "launch of 2")
    assert type(error) is expected
    assert "Surprise.New" in str(error)
    assert "launch of 2" in str(error)


def test_a_known_code_does_not_care_for_the_status() -> None:
    assert meaning("InsufficientInstanceCapacity", 500) is NoCapacity
    assert meaning("RequestLimitExceeded", 503) is Throttled
    assert meaning("Server.InsufficientInstanceCapacity", 500) is NoCapacity
    assert meaning("Client.UnauthorizedOperation", 403) is Credentials


@pytest.mark.parametrize("answer", [{}, {"Error": None}, {"Error": {}, "ResponseMetadata": None}])
def test_an_answer_without_a_code_may_have_been_done(answer: Mapping[str, object]) -> None:
    assert type(errors.of_answer(answer, "launch")) is Unreachable


def silence(name: str) -> type[ProviderError]:
    """What an error of botocore's that is no answer becomes, by its class."""
    kind = getattr(botocore.exceptions, name)
    return type(errors.of_silence(kind.__new__(kind), "launch"))


@pytest.mark.parametrize(
    "name",
    [
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "EndpointConnectionError",
        "ConnectionClosedError",
        "HTTPClientError",
        "SSLError",
        "ProxyConnectionError",
        "ResponseStreamingError",
        "IncompleteReadError",
    ],
)
def test_no_answer_may_have_been_done(name: str) -> None:
    assert silence(name) is Unreachable


def test_names_in_the_code_are_botocores() -> None:
    for name in (*errors._NOT_SENT, *errors._NO_CREDENTIALS):
        assert hasattr(botocore.exceptions, name), name


def test_no_credentials_is_not_a_wrong_request() -> None:
    assert silence("NoCredentialsError") is Credentials
    assert silence("SSOTokenLoadError") is Credentials
    assert silence("ParamValidationError") is BadRequest


def test_an_error_of_the_operating_system_may_have_been_done() -> None:
    with pytest.raises(Unreachable, match=r"launch of 2.*gone"), errors.translated("launch of 2"):
        raise ConnectionResetError("gone")


def test_the_cause_is_kept() -> None:
    response = answered("AuthFailure", 401)
    with pytest.raises(Credentials) as caught, errors.translated("list"):
        raise botocore.exceptions.ClientError(response, "DescribeInstances")
    assert errors.code_of(caught.value) == "AuthFailure"
    assert errors.code_of(BadRequest("ours")) == ""
    assert errors.code_of(None) == ""


def test_what_a_person_can_do_is_said() -> None:
    error = errors.of_answer(answered("VcpuLimitExceeded"), "launch")
    assert "Service Quotas" in error.hint
