"""The fake does what its script says."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from scsched.cluster.fake import FakeProvider
from scsched.cluster.provider import (
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Refused,
    Throttled,
    Unreachable,
)

Ask = Callable[..., LaunchRequest]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def fake(deployment: str) -> FakeProvider:
    return FakeProvider(deployment)


def test_a_scripted_refusal_is_given_as_often_as_asked(
    fake: FakeProvider, request_node: Ask
) -> None:
    fake.refuse(NoCapacity("none left"), pool="local-spot", times=2)
    fake.refuse(NoCapacity("none left"), pool="another")
    answers = [fake.launch([request_node(1)])[0] for _ in range(3)]
    assert [type(answer) for answer in answers] == [Refused, Refused, Launched]


def test_a_lost_reply_has_launched_all_the_same(fake: FakeProvider, request_node: Ask) -> None:
    fake.lose_replies()
    (answer,) = fake.launch([request_node(1)])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, Unreachable)
    assert len(fake.up()) == 1
    (again,) = fake.launch([request_node(1)])
    assert isinstance(again, Launched)
    assert len(fake.up()) == 1


def test_a_new_node_may_be_missing_from_listings(fake: FakeProvider, request_node: Ask) -> None:
    fake.delay_listing(2)
    fake.launch([request_node(1)])
    assert [len(fake.list()) for _ in range(3)] == [0, 0, 1]


def test_a_listing_may_be_partial(fake: FakeProvider, request_node: Ask) -> None:
    fake.launch([request_node(1), request_node(2)])
    fake.hide(request_node(1).token)
    assert [seen.token for seen in fake.list()] == [request_node(2).token]
    fake.show(request_node(1).token)
    assert len(fake.list()) == 2


def test_a_reclaimed_node_says_why(fake: FakeProvider, request_node: Ask) -> None:
    token = request_node(1).token
    fake.launch([request_node(1)])
    fake.notify(token, NOW)
    assert fake.notices() == (Notice(token, NOW),)
    fake.reclaim(token)
    assert fake.notices() == ()
    assert [(seen.state, seen.reason) for seen in fake.list()] == [(NodeState.TERMINATED, "spot")]


@pytest.mark.parametrize("verb", ["list", "notices"])
def test_a_verb_fails_as_scripted_and_then_works(fake: FakeProvider, verb: str) -> None:
    fake.fail(verb, Throttled("slow down"))
    with pytest.raises(Throttled):
        getattr(fake, verb)()
    assert getattr(fake, verb)() == ()
