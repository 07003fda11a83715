"""A broker with one of its guards taken out is caught by what these tests look at in the end.

One that believes every list: scheduler/test_reaper_campaign.py.
"""

import secrets
from collections.abc import Collection, Mapping

import pytest

from scsched.cluster.ec2 import workers
from scsched.cluster.ec2.request import Launch, arguments
from scsched.cluster.provider import Seen
from scsched.scheduler import fencing, reaper
from scsched.steps.state import StepState
from tests.faults.cloud_world import CloudWorld, cloud, flat_box, make_cloud, urls
from tests.scheduler.world import SPOT, step

__all__ = ["cloud", "flat_box", "make_cloud", "urls"]
RUNNING = StepState.RUNNING
HIDDEN = 1_000_000


def test_a_broker_without_tokens_is_caught(
    cloud: CloudWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost reply then makes a second set of nodes."""

    def without_token(launch: Launch) -> Mapping[str, object]:
        return {**arguments(launch), "ClientToken": secrets.token_hex(8)}

    monkeypatch.setattr(workers, "arguments", without_token)
    cloud.box.describe_empty(HIDDEN)
    cloud.box.fault(lost_reply=True)
    cloud.submit(step("1", width=2), market=SPOT)
    cloud.until(lambda: all(one.launched_at for one in cloud.nodes()) and len(cloud.nodes()) == 2)
    cloud.box.describe_empty(0)
    cloud.until(lambda: cloud.finish_all() and not cloud.nodes())
    assert any("launched 2 machines" in one for one in cloud.problems())


def test_a_broker_without_fencing_is_caught(
    cloud: CloudWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step begins again while the node that was cut off may still write for it."""
    monkeypatch.setattr(fencing, "is_proven", lambda node: True)
    cloud.submit(step("1"), market=SPOT)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    number = cloud.box.fault("InternalError", action="TerminateInstances", times=None)
    (machine,) = cloud.box.up()
    cloud.silent.add(machine.instance_id)
    cloud.until(lambda: cloud.at() is RUNNING and len(cloud.runs()) == 2)
    assert machine.instance_id in {one.instance_id for one in cloud.box.up()}
    cloud.box.unfault(number)
    cloud.settle()


@pytest.mark.parametrize("by_address", [False, True])
def test_a_broker_that_reaps_by_address_is_caught(
    cloud: CloudWorld, monkeypatch: pytest.MonkeyPatch, by_address: bool
) -> None:
    """A cloud leaves addresses out for a while; then its healthy nodes are nobody's."""
    cloud.submit(step("1", width=2), market=SPOT)
    cloud.until(lambda: cloud.at() is RUNNING and all(one.launched_at for one in cloud.nodes()))
    on_record = {one.address for one in cloud.box.up()}
    told: dict[str, str] = {}

    def is_strange(seen: Seen, known: Collection[str]) -> bool:
        return told.get(seen.provider_id, "") not in on_record

    if by_address:
        monkeypatch.setattr(reaper, "_is_strange", is_strange)
    cloud.skip(310.0, step_s=62.0)
    cloud.skip(10.0, step_s=5.0)
    healthy = cloud.ends() == [] and len(cloud.box.up()) == 2
    assert healthy is not by_address
