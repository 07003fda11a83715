"""What the box shows: listings, prices, the bill, metadata and notices."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.cloudbox.asking import KIND, WAIT_S, ZONE, code_of, launch, shown, wait_until
from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import flat_box

__all__ = ["flat_box"]

# ---------------------------------------------------------------------- listings


def test_listings_filter_by_token_tag_and_state(flat_box: Box) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "owner", "Value": "a"}]}]
    [one] = launch(flat_box, ClientToken="gang-1", TagSpecifications=tags)
    [two] = launch(flat_box, ClientToken="gang-2", spot=False)
    for name, values, wanted in (
        ("client-token", ["gang-1"], [one]),
        ("tag:owner", ["a"], [one]),
        ("instance-lifecycle", ["spot"], [one]),
        ("instance-state-name", ["pending", "running"], [one, two]),
        ("instance-state-name", ["terminated"], []),
    ):
        filters = [{"Name": name, "Values": values}]
        assert list(shown(flat_box, Filters=filters)) == wanted
    assert shown(flat_box)[one]["SpotInstanceRequestId"].startswith("sir-")


def test_a_new_instance_may_be_listed_late(flat_box: Box) -> None:
    [old] = launch(flat_box)
    flat_box.describe_late(calls=2)
    [new] = launch(flat_box)
    assert list(shown(flat_box)) == [old]
    assert code_of(lambda: shown(flat_box, InstanceIds=[new])) == "InvalidInstanceID.NotFound"
    assert list(shown(flat_box)) == [old, new]


def test_a_new_instance_may_be_listed_seconds_late(flat_box: Box) -> None:
    flat_box.describe_late(seconds=0.5)
    [new] = launch(flat_box)
    assert shown(flat_box) == {}
    wait_until(lambda: list(shown(flat_box)) == [new])


def test_listings_may_be_empty_or_partial_for_a_while(flat_box: Box) -> None:
    found = launch(flat_box, count=12)
    flat_box.describe_empty(2)
    assert [len(shown(flat_box)) for _ in range(3)] == [0, 0, 12]
    flat_box.describe_partial(share=0.5, calls=1, seed=3)
    assert 0 < len(shown(flat_box)) < 12
    assert list(shown(flat_box)) == found


def test_listings_may_come_in_pages(flat_box: Box) -> None:
    found = [launch(flat_box)[0] for _ in range(5)]
    flat_box.page_size(2)
    first = flat_box.ec2().describe_instances()
    assert len(first["Reservations"]) == 2
    assert first["NextToken"]
    assert list(shown(flat_box)) == found


def test_ended_instances_are_forgotten_after_a_while(flat_box: Box) -> None:
    [ended] = launch(flat_box, ClientToken="gang-1")
    [up] = launch(flat_box)
    flat_box.ec2().terminate_instances(InstanceIds=[ended])
    wait_until(lambda: shown(flat_box)[ended]["State"]["Name"] == "terminated")
    flat_box.forget_after(0)
    assert list(shown(flat_box)) == [up]
    code = code_of(lambda: launch(flat_box, ClientToken="gang-1"))
    assert code == "IdempotentInstanceTerminated"


# ---------------------------------------------------------------------- money


def test_prices_are_told_as_they_held(flat_box: Box) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for hours, usd in ((3, "0.1"), (2, "0.2"), (1, "0.3")):
        flat_box.price(KIND, ZONE, Decimal(usd), now - timedelta(hours=hours))
    rows = _history(flat_box, StartTime=now - timedelta(hours=1.5))
    assert rows == [("0.3", now - timedelta(hours=1)), ("0.2", now - timedelta(hours=2))]
    assert _history(flat_box, StartTime=now) == [("0.3", now - timedelta(hours=1))]


def _history(box: Box, **words: Any) -> list[tuple[str, datetime]]:
    words |= {"InstanceTypes": [KIND], "ProductDescriptions": ["Linux/UNIX"]}
    rows = box.ec2().describe_spot_price_history(AvailabilityZone=ZONE, **words)
    assert {row["AvailabilityZone"] for row in rows["SpotPriceHistory"]} == {ZONE}
    return [(row["SpotPrice"], row["Timestamp"]) for row in rows["SpotPriceHistory"]]


def test_every_zone_has_a_price(flat_box: Box) -> None:
    rows = flat_box.ec2().describe_spot_price_history(InstanceTypes=[KIND])["SpotPriceHistory"]
    assert sorted(row["AvailabilityZone"] for row in rows) == flat_box.zones


def test_the_bill_is_seconds_times_price(flat_box: Box) -> None:
    flat_box.price(KIND, ZONE, Decimal("3.6"), datetime(2026, 1, 1, tzinfo=UTC))
    flat_box.on_demand(KIND, Decimal("7.2"))
    [spot] = launch(flat_box)
    [fixed] = launch(flat_box, spot=False)
    wait_until(lambda: flat_box.bill()[spot] > Decimal("0.001"))
    flat_box.ec2().terminate_instances(InstanceIds=[spot, fixed])
    for identity, usd in ((spot, Decimal("0.001")), (fixed, Decimal("0.002"))):
        one = flat_box.instance(identity)
        assert one.ended_at is not None
        seconds = int((one.ended_at - one.launched_at).total_seconds())
        assert seconds >= 1
        assert abs(flat_box.bill()[identity] - seconds * usd) < Decimal("1e-20")


# ---------------------------------------------------------------------- notices


def ask(
    box: Box, instance: str, path: str, token: str = "", method: str = "GET"
) -> tuple[int, str]:
    headers = {"X-aws-ec2-metadata-token": token} if token else {}
    if method == "PUT":
        headers["X-aws-ec2-metadata-token-ttl-seconds"] = "60"
    request = urllib.request.Request(  # noqa: S310
        f"{box.imds(instance)}/latest/{path}", headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, ""


def test_metadata_wants_a_token_when_told_so(flat_box: Box) -> None:
    [one] = launch(flat_box, MetadataOptions={"HttpTokens": "required"}, UserData="#!/bin/sh\n")
    assert ask(flat_box, one, "meta-data/instance-id")[0] == 401
    status, token = ask(flat_box, one, "api/token", method="PUT")
    assert status == 200
    assert ask(flat_box, one, "meta-data/instance-id", token) == (200, one)
    assert ask(flat_box, one, "meta-data/placement/availability-zone", token) == (200, ZONE)
    assert ask(flat_box, one, "user-data", token) == (200, "#!/bin/sh\n")
    assert ask(flat_box, one, "meta-data/spot/instance-action", token)[0] == 404
    assert ask(flat_box, one, "meta-data/instance-id", "wrong")[0] == 401


def test_a_reclaim_is_heard_by_both_ears(flat_box: Box) -> None:
    [one] = launch(flat_box)
    flat_box.reclaim(one, notice_s=0.6, rebalance_s=0.2)
    path = "meta-data/events/recommendations/rebalance"
    assert "noticeTime" in ask(flat_box, one, path)[1]
    wait_until(lambda: ask(flat_box, one, "meta-data/spot/instance-action")[0] == 200)
    told = json.loads(ask(flat_box, one, "meta-data/spot/instance-action")[1])
    assert told["action"] == "terminate"
    heard: list[Mapping[str, Any]] = []
    sqs = flat_box.service("sqs")

    def both() -> bool:
        answer = sqs.receive_message(QueueUrl=flat_box.queue, MaxNumberOfMessages=10)
        heard.extend(json.loads(message["Body"]) for message in answer.get("Messages", []))
        return len(heard) >= 2

    wait_until(both)
    assert [event["detail-type"] for event in heard] == [
        "EC2 Instance Rebalance Recommendation",
        "EC2 Spot Instance Interruption Warning",
    ]
    assert all(event["detail"]["instance-id"] == one for event in heard)
    wait_until(lambda: flat_box.instance(one).state == "terminated")
    assert flat_box.instance(one).reason == "Server.SpotInstanceTermination"


def test_a_vanished_instance_is_running_until_terminated(flat_box: Box) -> None:
    [lost, vanished] = launch(flat_box, count=2)
    flat_box.lose(lost)
    flat_box.vanish(vanished)
    wait_until(lambda: flat_box.instance(lost).state == "terminated")
    assert flat_box.instance(vanished).state == "running"
    flat_box.ec2().terminate_instances(InstanceIds=[vanished])
    wait_until(lambda: flat_box.instance(vanished).state == "terminated")


def test_user_data_is_kept_as_it_was_sent(flat_box: Box) -> None:
    [one] = launch(flat_box, UserData="é\x00")
    answer = flat_box.ec2().describe_instance_attribute(InstanceId=one, Attribute="userData")
    assert base64.b64decode(answer["UserData"]["Value"]) == "é\x00".encode()
