"""Every error of the libraries and of Nova has a meaning of ours."""

import inspect
from http import HTTPStatus
from types import ModuleType
from typing import cast

import keystoneauth1.exceptions
import openstack.exceptions
import pytest
import requests

from scsched.cluster import provider
from scsched.cluster.openstack import errors
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    NoCapacity,
    QuotaExceeded,
    Throttled,
    Unreachable,
)

MODULES = (openstack.exceptions, keystoneauth1.exceptions)


def classes(module: ModuleType) -> list[type[Exception]]:
    found = (one for _, one in inspect.getmembers(module, inspect.isclass))
    return [one for one in found if issubclass(one, Exception) and not issubclass(one, Warning)]


def answer(status: int, message: str = "no", **headers: str) -> openstack.exceptions.HttpException:
    said = requests.Response()
    said.status_code = status
    said.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return openstack.exceptions.HttpException(message, response=said)


BY_CLASS: dict[int, type[provider.ProviderError]] = {
    **dict.fromkeys((418, 421, 423, 424, 426, 428, 451), BadRequest),
    **dict.fromkeys((506, 507, 508, 510, 511), Unreachable),
}
"""Statuses that no service of OpenStack answers: 4xx is our fault, after 5xx nobody knows."""


def test_no_error_status_of_http_is_missing() -> None:
    known = {one.value for one in HTTPStatus if one.value >= 400}
    assert known <= errors.STATUSES.keys() | BY_CLASS.keys()
    assert not errors.STATUSES.keys() & BY_CLASS.keys()


@pytest.mark.parametrize(("status", "expected"), BY_CLASS.items())
def test_a_status_that_the_table_lacks_goes_by_its_class(
    status: int, expected: type[provider.ProviderError]
) -> None:
    assert type(errors.meaning(answer(status), "list")) is expected


@pytest.mark.parametrize("module", MODULES)
def test_every_exception_of_the_libraries_is_in_the_table(module: ModuleType) -> None:
    for found in classes(module):
        names = [base.__name__ for base in found.__mro__[:-3]]
        has_status = isinstance(getattr(found, "http_status", None), int)
        near = [name for name in names if name in errors.CLASSES]
        assert has_status or near, f"{found.__name__} has no meaning"
        general = {"SDKException", "ClientException"}
        assert has_status or near[0] not in general or found.__name__ in general, found


@pytest.mark.parametrize(
    ("status", "message", "meaning"),
    [
        (400, "Invalid input", BadRequest),
        (401, "who?", Credentials),
        (403, "Quota exceeded for cores: Requested 8, but already used 16 of 20", QuotaExceeded),
        (403, "Maximum number of ports exceeded", QuotaExceeded),
        (403, "Policy doesn't allow os_compute_api:servers:create", Credentials),
        (404, "no image", BadRequest),
        (409, "task_state is deleting", Unreachable),
        (413, "This request was rate-limited.", Throttled),
        (429, "slow down", Throttled),
        (500, "Unexpected API Error", Unreachable),
        (503, "no server is available", Unreachable),
        (504, "gateway time-out", Unreachable),
        (599, "?", Unreachable),
        (499, "?", BadRequest),
    ],
)
def test_an_answer_goes_by_its_status_and_words(
    status: int, message: str, meaning: type[provider.ProviderError]
) -> None:
    found = errors.meaning(answer(status, message), "launch of n1")
    assert type(found) is meaning
    assert str(found).startswith("launch of n1: ")
    assert message in str(found)


def test_a_throttled_answer_tells_how_long_to_wait() -> None:
    found = cast("Throttled", errors.meaning(answer(429, Retry_After="30"), "list"))
    assert found.retry_after_s == 30.0
    later = answer(429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")
    assert cast("Throttled", errors.meaning(later, "list")).retry_after_s == 5.0


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        ("No valid host was found. There are not enough hosts available.", NoCapacity),
        ("Exceeded maximum number of retries. Exhausted all hosts available", NoCapacity),
        ("Quota exceeded for volumes", QuotaExceeded),
        ("Maximum number of ports exceeded", QuotaExceeded),
        ("Image 7 could not be found.", BadRequest),
        ("something new", NoCapacity),
        ("", NoCapacity),
    ],
)
def test_a_fault_of_a_server_goes_by_its_words(
    fault: str, meaning: type[provider.ProviderError]
) -> None:
    found = errors.of_fault(fault, "launch of n1")
    assert type(found) is meaning
    assert str(found).removeprefix("launch of n1: ")


def test_what_breaks_below_the_libraries_is_no_answer() -> None:
    for broken in (requests.ConnectionError("reset"), TimeoutError("late"), ValueError("no JSON")):
        with pytest.raises(Unreachable), errors.translated("list"):
            raise broken


def test_every_refusal_that_a_name_can_remember_is_found_again() -> None:
    from scsched.cluster.openstack import servers

    final = (NoCapacity, QuotaExceeded, BadRequest, Credentials)
    assert {one.code for one in final} == servers._NOT_BUILT.keys()
    assert (
        not {Unreachable.code, Throttled.code, provider.InProgress.code} & servers._NOT_BUILT.keys()
    )
