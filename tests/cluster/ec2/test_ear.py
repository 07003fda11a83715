"""Spot warnings by EventBridge and SQS."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from scsched.cluster.ec2.ear import WARNING, warning
from scsched.cluster.ec2.provider import Ec2Provider
from scsched.cluster.provider import BadRequest, NodeState, Notice, Throttled
from tests.cluster.ec2.rig import Rig, gang, wait_for

RULE = "cloudbox-notices"
"""Of the box's event bus: all warnings and hints."""


@pytest.fixture
def queue(rig: Rig) -> Iterator[str]:
    """URL of a new queue that hears what the event bus tells."""
    sqs, events, name = rig.box.service("sqs"), rig.box.service("events"), f"q{time.time_ns()}"
    url = str(sqs.create_queue(QueueName=name)["QueueUrl"])
    names = ["QueueArn"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]["QueueArn"]
    events.put_targets(Rule=RULE, Targets=[{"Id": name, "Arn": arn}])
    yield url
    events.remove_targets(Rule=RULE, Ids=[name])
    sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def ear(rig: Rig, queue: str) -> Ec2Provider:
    return rig.make(interruption_queue=queue)


def heard(ear: Ec2Provider) -> tuple[Notice, ...]:
    return wait_for(ear.notices, bool)


def left(rig: Rig, queue: str) -> int:
    """Messages in the queue, read or not."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = rig.box.service("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)[
        "Attributes"
    ]
    return sum(int(found[name]) for name in names)


def test_a_warning_is_a_notice_of_that_node_in_two_minutes(rig: Rig, ear: Ec2Provider) -> None:
    asked = gang(2)
    ids = rig.launch(asked)
    rig.box.reclaim(ids[1], notice_s=60)
    (notice,) = heard(ear)
    assert notice.token == asked[1].token
    left_s = (notice.deadline - datetime.now(UTC)).total_seconds()
    assert 100 < left_s <= 120


def test_a_message_is_deleted_by_the_call_after_it_was_told(
    rig: Rig, ear: Ec2Provider, queue: str
) -> None:
    ids = rig.launch(gang(1))
    rig.box.reclaim(ids[0], notice_s=60)
    told = heard(ear)
    assert left(rig, queue) == 1
    assert ear.notices() == told
    assert left(rig, queue) == 0
    assert ear.notices() == told


def test_who_dies_before_acting_lets_the_next_hear_it(
    rig: Rig, ear: Ec2Provider, queue: str
) -> None:
    rig.box.service("sqs").set_queue_attributes(
        QueueUrl=queue, Attributes={"VisibilityTimeout": "1"}
    )
    ids = rig.launch(gang(1))
    rig.box.reclaim(ids[0], notice_s=60)
    told = heard(ear)
    assert heard(rig.make(interruption_queue=queue)) == told


def test_a_node_that_has_ended_has_no_notice(rig: Rig, ear: Ec2Provider) -> None:
    asked = gang(1)
    ids = rig.launch(asked)
    rig.box.reclaim(ids[0], notice_s=60)
    heard(ear)
    rig.provider.terminate([asked[0].token])
    rig.until(asked[0].token, NodeState.TERMINATED)
    assert ear.notices() == ()


def test_hints_and_others_instances_are_dropped(rig: Rig, ear: Ec2Provider, queue: str) -> None:
    theirs = gang(1, deployment="theirs")
    rig.make(deployment="theirs").launch(theirs)
    (mine,) = rig.launch(gang(1))
    rig.box.hint(mine)
    rig.box.reclaim(next(one.instance_id for one in rig.box.up() if one.instance_id != mine))
    wait_for(lambda: left(rig, queue), lambda count: count == 2)
    assert ear.notices() == ()
    assert ear.notices() == ()
    assert left(rig, queue) == 0


def test_many_messages_are_read_in_one_call(rig: Rig, ear: Ec2Provider, queue: str) -> None:
    asked = gang(12)
    for instance in rig.launch(asked):
        rig.box.reclaim(instance, notice_s=60)
    wait_for(lambda: left(rig, queue), lambda count: count == 12)
    assert {one.token for one in ear.notices()} == {one.token for one in asked}
    ear.notices()
    assert left(rig, queue) == 0


def test_without_a_queue_nobody_is_asked(rig: Rig) -> None:
    rig.launch(gang(1))
    asked = len(rig.recorder.forms)
    assert rig.provider.notices() == ()
    assert len(rig.recorder.forms) == asked


def test_a_queue_that_is_not_there_is_an_error(rig: Rig, queue: str) -> None:
    with pytest.raises(BadRequest, match="nowhere"):
        rig.make(interruption_queue=f"{queue}-nowhere").notices()


def test_a_throttled_queue_is_read_later(rig: Rig, ear: Ec2Provider) -> None:
    ids = rig.launch(gang(1))
    rig.box.reclaim(ids[0], notice_s=60)
    number = rig.box.fault("RequestThrottled", action="ReceiveMessage", times=None)
    with pytest.raises(Throttled):
        ear.notices()
    rig.box.unfault(number)
    assert len(heard(ear)) == 1


NOON = "2026-11-22T12:00:00Z"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        json.dumps({"detail-type": WARNING}),
        json.dumps({"detail-type": WARNING, "time": NOON}),
        json.dumps({"detail-type": WARNING, "time": "noon", "detail": {"instance-id": "i-1"}}),
        json.dumps({"detail-type": WARNING, "time": NOON, "detail": []}),
        json.dumps({"detail-type": "Other", "time": NOON, "detail": {"instance-id": "i-1"}}),
    ],
)
def test_a_message_that_is_no_warning_says_nothing(body: str) -> None:
    assert warning(body) == {}


def test_a_warning_means_two_minutes_from_its_own_time() -> None:
    body = {"detail-type": WARNING, "time": NOON, "detail": {"instance-id": "i-1"}}
    noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert warning(json.dumps(body)) == {"i-1": noon + timedelta(minutes=2)}
