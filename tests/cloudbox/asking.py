"""How the box's own tests ask its API."""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.cloudbox.client import Box

ClientError = importlib.import_module("botocore.exceptions").ClientError
ConnectionLost = importlib.import_module("botocore.exceptions").ConnectionClosedError
KIND = "c5.xlarge"
ZONE = "us-east-1a"
WAIT_S = 60.0


def launch(box: Box, **words: Any) -> list[str]:
    """Instance ids in the order of their launch index."""
    found = box.ec2().run_instances(**asked(box, **words))["Instances"]
    return [one["InstanceId"] for one in sorted(found, key=lambda one: one["AmiLaunchIndex"])]


def asked(
    box: Box, *, count: int = 1, kind: str = KIND, zone: str = ZONE, spot: bool = True, **more: Any
) -> dict[str, Any]:
    words: dict[str, Any] = {
        "ImageId": box.image,
        "InstanceType": kind,
        "MinCount": count,
        "MaxCount": count,
        "SubnetId": box.subnets[zone],
        "SecurityGroupIds": [box.security_group],
        "InstanceInitiatedShutdownBehavior": "terminate",
    }
    if spot:
        words["InstanceMarketOptions"] = {"MarketType": "spot"}
    return words | more


def shown(box: Box, **words: Any) -> dict[str, Mapping[str, Any]]:
    """What DescribeInstances shows, by id, all pages."""
    pages = box.ec2().get_paginator("describe_instances").paginate(**words)
    return {
        one["InstanceId"]: one
        for page in pages
        for reservation in page["Reservations"]
        for one in reservation["Instances"]
    }


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
