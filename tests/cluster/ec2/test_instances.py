"""EC2's words for an instance."""

from datetime import UTC, datetime

import pytest

from scsched.cluster.ec2 import instances, launching
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    NoCapacity,
    NodeState,
    ProviderError,
    QuotaExceeded,
    Refused,
    Unreachable,
)
from tests.cluster.ec2.rig import gang


def described(state: str = "running", **changes: object) -> dict[str, object]:
    return {
        "InstanceId": "i-1",
        "AmiLaunchIndex": 2,
        "State": {"Name": state},
        "Tags": [{"Key": "scsched:gang", "Value": "g"}],
        **changes,
    }


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("pending", NodeState.PENDING),
        ("running", NodeState.RUNNING),
        ("shutting-down", NodeState.STOPPING),
        ("stopping", NodeState.STOPPING),
        ("stopped", NodeState.STOPPING),
        ("terminated", NodeState.TERMINATED),
        ("something new", NodeState.PENDING),
    ],
)
def test_states(word: str, state: NodeState) -> None:
    assert instances.read(described(word)).seen.state is state


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("Server.SpotInstanceTermination", "spot"),
        ("Server.SpotInstanceShutdown", "spot"),
        ("Client.UserInitiatedShutdown", ""),
        ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown"),
        ("Server.InternalError", "Server.InternalError"),
    ],
)
def test_reasons(code: str, reason: str) -> None:
    told = {"StateReason": {"Code": code, "Message": "words"}}
    assert instances.read(described("terminated", **told)).seen.reason == reason
    assert instances.read(described("running", **told)).seen.reason == ""


@pytest.mark.parametrize("said", ["", "User initiated", "User initiated (soon)"])
def test_an_end_without_a_time_has_none(said: str) -> None:
    told = described("terminated", StateTransitionReason=said)
    assert instances.read(told).seen.ended_at is None


def test_the_end_is_when_ec2_says() -> None:
    said = "Service initiated (2026-11-22 06:52:08 GMT)"
    told = described("terminated", StateTransitionReason=said)
    assert instances.read(told).seen.ended_at == datetime(2026, 11, 22, 6, 52, 8, tzinfo=UTC)


def test_the_token_is_the_gang_and_the_place() -> None:
    ours, stranger = instances.read(described()), instances.read(described(Tags=[]))
    told = instances.read(described(Tags=[]), gang="h")
    assert [one.seen.token for one in (ours, stranger, told)] == ["g-2", "i-1", "h-2"]


def test_a_partial_answer_leaves_the_missing_open() -> None:
    asked = gang(3, name="g")
    answers = launching.answers(asked, [instances.read(described(AmiLaunchIndex=1))])
    assert [type(one) for one in answers] == [Refused, Launched, Refused]
    open_ones = [one.error for one in answers if isinstance(one, Refused)]
    assert {type(error) for error in open_ones} == {Unreachable}


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        ("Client.VolumeLimitExceeded", QuotaExceeded),
        ("Server.InsufficientInstanceCapacity", NoCapacity),
        ("Server.InternalError", BadRequest),
        ("Server.SpotInstanceTermination", BadRequest),
        ("Client.UserInitiatedShutdown", BadRequest),
    ],
)
def test_an_instance_that_ended_at_once_says_what_to_do(
    code: str, meaning: type[ProviderError]
) -> None:
    told = described("terminated", AmiLaunchIndex=0, StateReason={"Code": code})
    (answer,) = launching.answers(gang(1, name="g"), [instances.read(told)])
    assert isinstance(answer, Refused)
    assert type(answer.error) is meaning
