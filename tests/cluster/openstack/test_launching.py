"""What was wrong with dask-cloudprovider's OpenStack classes, and what a cloud may do to a launch.

Each test runs on the stand-in and, as campaign, on a real Keystone and Nova.
"""

import asyncio
import time
from base64 import b64decode
from collections.abc import Sequence

import pytest
from openstack.identity.v3._proxy import Proxy

from scsched.cluster.openstack import clients
from scsched.cluster.openstack.servers import DOUBLE
from scsched.cluster.provider import (
    BadRequest,
    Credentials,
    InProgress,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    ProviderError,
    QuotaExceeded,
    Refused,
    Throttled,
    Unreachable,
)
from tests.cluster.openstack.conftest import Lab, wait_until
from tests.openstack.services import OPEN_GROUP_NAME, UNSAID_GROUP_NAME

SERVERS = "/servers$"


def launched(lab: Lab, *asked: LaunchRequest) -> list[str]:
    answers = lab.provider.launch(asked)
    assert all(isinstance(one, Launched) for one in answers), answers
    return [one.provider_id for one in answers if isinstance(one, Launched)]


def refused(lab: Lab, *asked: LaunchRequest) -> Sequence[ProviderError]:
    answers = lab.provider.launch(asked)
    assert all(isinstance(one, Refused) for one in answers), answers
    return [one.error for one in answers if isinstance(one, Refused)]


def in_nova(lab: Lab) -> list[str]:
    """Ids of our servers that exist, asked for without our provider."""
    compute = lab.provider.client.connection.compute
    ours = (one for one in compute.servers() if lab.deployment in (one.metadata or {}).values())
    return [str(one.id) for one in ours]


def test_a_server_that_cannot_be_built_ends_the_wait(lab: Lab) -> None:
    began = time.monotonic()
    (error,) = refused(lab, lab.ask("g", kind="m1.xlarge"))
    assert type(error) is NoCapacity
    assert "No valid host" in str(error)
    assert time.monotonic() - began < 60.0
    assert not in_nova(lab)
    assert not lab.provider.list()


def test_a_gang_with_room_for_one_leaves_nothing(lab: Lab) -> None:
    launched(lab, lab.ask("a", kind="m1.medium"))
    errors = refused(lab, *(lab.ask("g", index, kind="m1.medium") for index in range(2)))
    assert [type(error) for error in errors] == [NoCapacity, NoCapacity]
    wait_until(lambda: [one.token for one in lab.provider.list()], lambda tokens: tokens == ["a-0"])


def test_a_refused_gang_stays_refused_however_often_it_is_asked_for(lab: Lab) -> None:
    refused(lab, lab.ask("g", kind="m1.xlarge"))
    (error,) = refused(lab, lab.ask("g", kind="m1.xlarge"))
    assert type(error) is NoCapacity
    assert lab.cloud.front.count("POST", SERVERS) == 1


def test_tags_and_script_are_there_from_birth(lab: Lab) -> None:
    launched(lab, lab.ask("g", 0), lab.ask("g", 1))
    posted = [one for one in lab.cloud.front.calls if one.path.endswith("/servers")]
    made = {one.json()["server"]["name"][-3:]: one.json()["server"] for one in posted}
    assert made.keys() == {"g-0", "g-1"}
    assert made["g-1"]["metadata"]["scsched_deployment"] == lab.deployment
    assert made["g-1"]["metadata"]["scsched_gang"] == "g"
    assert made["g-1"]["metadata"]["scsched_node"] == "ng_1"
    script = b64decode(made["g-1"]["user_data"]).decode()
    assert script.startswith("#!/bin/sh")
    assert "ticket-g-1" in script
    assert "ticket-g-0" not in script


def test_a_lost_reply_makes_no_second_server(lab: Lab) -> None:
    lab.cloud.front.lose_replies("POST", SERVERS)
    (error,) = refused(lab, lab.ask("g"))
    assert type(error) is Unreachable
    assert launched(lab, lab.ask("g")) == in_nova(lab)


@pytest.mark.parametrize("status", [503, 429])
def test_a_gang_half_launched_is_completed_by_the_same_tokens(lab: Lab, status: int) -> None:
    gang = [lab.ask("g", index) for index in range(2)]
    lab.cloud.front.fail("POST", SERVERS, status)
    assert {type(error) for error in refused(lab, *gang)} == {Unreachable}
    assert len(in_nova(lab)) == 1
    assert sorted(launched(lab, *gang)) == sorted(in_nova(lab))


def test_a_second_server_of_a_token_is_shown_as_nobodys_and_ended_alone(lab: Lab) -> None:
    first = launched(lab, lab.ask("g"))
    lab.cloud.front.hide_servers(times=2)
    launched(lab, lab.ask("g"))
    tokens = [one.token for one in lab.provider.list()]
    assert len(in_nova(lab)) == 2
    (double,) = [token for token in tokens if DOUBLE in token]
    lab.provider.terminate([double])
    lab.until("g-0", NodeState.RUNNING)
    assert launched(lab, lab.ask("g")) == first


def test_a_quota_met_in_the_middle_of_a_gang_leaves_nothing(lab: Lab) -> None:
    said = "Quota exceeded for cores: Requested 4, but already used 20 of 20 cores"
    lab.cloud.front.fail("POST", SERVERS, 403, said)
    errors = refused(lab, lab.ask("g", 0), lab.ask("g", 1))
    assert [type(error) for error in errors] == [QuotaExceeded, QuotaExceeded]
    assert not [one for one in lab.provider.list() if one.state is NodeState.RUNNING]
    assert {type(error) for error in refused(lab, lab.ask("g", 0), lab.ask("g", 1))} == {
        QuotaExceeded
    }


def test_a_gang_that_cannot_be_cleaned_away_is_asked_for_again(lab: Lab) -> None:
    lab.cloud.front.fail("POST", SERVERS, 403, "Quota exceeded for cores")
    lab.cloud.front.fail("DELETE", "/servers/", 500)
    gang = [lab.ask("g", index) for index in range(2)]
    assert {type(error) for error in refused(lab, *gang)} == {Unreachable}
    assert {type(error) for error in refused(lab, *gang)} == {QuotaExceeded}


def test_a_server_without_a_host_yet_is_asked_for_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scsched.cluster.openstack import workers

    monkeypatch.setattr(workers, "BUILT_WITHIN_S", 0.0)
    monkeypatch.setattr(workers, "_POLL_S", 0.01)
    (error,) = refused(lab, lab.ask("g"))
    assert type(error) is InProgress
    (answer,) = wait_until(
        lambda: lab.provider.launch([lab.ask("g")]), lambda found: isinstance(found[0], Launched)
    )
    assert isinstance(answer, Launched)
    assert in_nova(lab) == [answer.provider_id]


@pytest.mark.parametrize("status", [403, 410, 429])
def test_what_the_first_look_says_is_no_word_on_the_server_that_was_made(
    lab: Lab, status: int
) -> None:
    lab.cloud.front.fail("GET", "/servers/[0-9a-f-]+$", status)
    (error,) = refused(lab, lab.ask("g"))
    assert type(error) is Unreachable
    assert launched(lab, lab.ask("g")) == in_nova(lab)


def test_a_throttled_cloud_says_when_to_come_again(lab: Lab) -> None:
    lab.cloud.front.fail("POST", SERVERS, 429, "slow down", Retry_After="17")
    (error,) = refused(lab, lab.ask("g"))
    assert isinstance(error, Throttled)
    assert error.retry_after_s == 17.0
    assert not in_nova(lab)


def test_a_cloud_that_says_nothing_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "CALL_S", 0.5)
    hasty = lab.other()
    lab.cloud.front.hang("POST", "/v3/auth/tokens|/servers$", times=1)
    began = time.monotonic()
    (answer,) = hasty.launch([lab.ask("g")])
    assert isinstance(answer, Refused)
    assert type(answer.error) is Unreachable
    assert time.monotonic() - began < 10.0


@pytest.mark.parametrize("group", [OPEN_GROUP_NAME, UNSAID_GROUP_NAME])
def test_nothing_is_launched_into_a_group_open_to_the_world(lab: Lab, group: str) -> None:
    (answer,) = lab.other(security_groups=[group]).launch([lab.ask("g")])
    assert isinstance(answer, Refused)
    assert type(answer.error) is BadRequest
    assert "open to the world" in str(answer.error)
    assert lab.cloud.front.count("POST", SERVERS) == 0


@pytest.mark.parametrize("option", ["image", "networks", "security_groups"])
def test_a_name_that_the_cloud_does_not_know_is_a_bad_request(lab: Lab, option: str) -> None:
    value: object = "nowhere" if option == "image" else ["nowhere"]
    (answer,) = lab.other(**{option: value}).launch([lab.ask("g")])
    assert isinstance(answer, Refused)
    assert type(answer.error) is BadRequest
    assert "nowhere" in str(answer.error)


def test_wrong_credentials_are_told_as_such(lab: Lab) -> None:
    stranger = lab.other(cloud="wrong")
    (answer,) = stranger.launch([lab.ask("g")])
    assert isinstance(answer, Refused)
    assert type(answer.error) is Credentials
    with pytest.raises(Credentials):
        stranger.list()


def test_application_credentials_of_the_environment_will_do(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = lab.provider.client.connection
    user, identity = str(cloud.session.get_user_id()), cloud.identity
    assert isinstance(identity, Proxy)
    made = identity.create_application_credential(user, "scsched")
    for name, value in {
        "AUTH_TYPE": "v3applicationcredential",
        "AUTH_URL": f"{lab.cloud.front.url}/identity",
        "APPLICATION_CREDENTIAL_ID": str(made.id),
        "APPLICATION_CREDENTIAL_SECRET": str(made.secret),
        "REGION_NAME": "box",
    }.items():
        monkeypatch.setenv(f"OS_{name}", value)
    monkeypatch.delenv("OS_CLIENT_CONFIG_FILE")
    here = lab.other(cloud="")
    assert isinstance(here.launch([lab.ask("g")])[0], Launched)
    assert [one.token for one in here.list()] == ["g-0"]
    if lab.cloud.real:
        identity.delete_application_credential(user, made)


def test_the_event_loop_runs_while_a_server_is_made(lab: Lab) -> None:
    from scsched.cluster.openstack import request
    from scsched.cluster.openstack import site as sites
    from scsched.cluster.openstack.workers import NodeWorker

    asked = lab.ask("g")
    site = lab.provider.site
    pool = sites.for_pool(site, asked.pool)
    place = lab.provider._launcher._place(pool, asked)
    arguments = request.arguments(site, pool, place, asked)

    async def turns() -> int:
        worker = NodeWorker(lab.provider.client, asked, arguments, None)
        making, count = asyncio.ensure_future(worker.create_vm()), 0
        while not making.done():
            await asyncio.sleep(0.005)
            count += 1
        making.result()
        return count

    assert asyncio.run(turns()) > 10


def test_a_node_that_powered_itself_off_is_to_be_ended(lab: Lab) -> None:
    (server,) = launched(lab, lab.ask("g"))
    lab.until("g-0", NodeState.RUNNING)
    compute = lab.provider.client.connection.compute
    compute.stop_server(server)
    lab.until("g-0", NodeState.STOPPING)
    lab.provider.terminate(["g-0"])
    assert lab.until("g-0", NodeState.TERMINATED).reason in ("powered off", "")
    wait_until(lambda: in_nova(lab), lambda left: not left)
