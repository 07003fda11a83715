"""Nodes that the cloud takes back, or that its people break."""

import openstack
import pytest

from scsched.cluster.pools import Market
from scsched.cluster.provider import Launched, NodeState
from tests.cluster.openstack.conftest import Lab
from tests.openstack.cloud import ADMIN


@pytest.mark.parametrize(
    ("market", "reason"), [(Market.ON_DEMAND, "deleted"), (Market.SPOT, "spot")]
)
def test_a_server_that_somebody_deleted_says_so(lab: Lab, market: Market, reason: str) -> None:
    (answer,) = lab.provider.launch([lab.ask("g", market=market)])
    assert isinstance(answer, Launched)
    openstack.connect(cloud=ADMIN).compute.delete_server(answer.provider_id)
    found = lab.until("g-0", NodeState.TERMINATED)
    assert found.reason == reason
    assert found.ended_at is not None


@pytest.mark.parametrize("market", list(Market))
def test_a_server_that_we_ended_has_no_other_reason(lab: Lab, market: Market) -> None:
    lab.provider.launch([lab.ask("g", market=market)])
    lab.provider.terminate(["g-0"])
    assert lab.until("g-0", NodeState.TERMINATED).reason == ""


def test_a_server_in_error_after_it_ran_is_to_be_ended(lab: Lab) -> None:
    (answer,) = lab.provider.launch([lab.ask("g")])
    assert isinstance(answer, Launched)
    lab.until("g-0", NodeState.RUNNING)
    openstack.connect(cloud=ADMIN).compute.reset_server_state(answer.provider_id, "error")
    lab.until("g-0", NodeState.STOPPING)
    lab.provider.terminate(["g-0"])
    assert lab.until("g-0", NodeState.TERMINATED).reason == "error"


def test_terminating_what_went_meanwhile_is_done(lab: Lab) -> None:
    lab.provider.launch([lab.ask("g")])
    lab.cloud.front.fail("DELETE", "/servers/", 404, "Instance could not be found.")
    lab.provider.terminate(["g-0"])


def test_a_cloud_gives_no_notice_and_knows_no_price(lab: Lab) -> None:
    lab.provider.launch([lab.ask("g")])
    assert lab.provider.notices() == ()
