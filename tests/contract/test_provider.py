"""What every provider must do; run on the fake and on the local one with real processes."""

import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import processes, tags, tls
from scsched.cluster.fake import FakeProvider
from scsched.cluster.local import LocalProvider
from scsched.cluster.pools import Market, Pool
from scsched.cluster.provider import (
    BadRequest,
    Join,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Owner,
    Provider,
    Refused,
    Seen,
)

POOL = Pool(name="p", provider="x", market=Market.SPOT, max_nodes=2, cores=1, memory_gib=1.0)
Ask = Callable[[int], LaunchRequest]


@pytest.fixture
def deployment(tmp_path: Path) -> str:
    return f"contract-{tmp_path.name}-{os.getpid()}"


@pytest.fixture(params=["fake", "local"])
def provider(request: pytest.FixtureRequest, tmp_path: Path, deployment: str) -> Iterator[Provider]:
    if request.param == "fake":
        yield FakeProvider(deployment)
        return
    local = LocalProvider(tmp_path / "state", deployment)
    yield local
    local.terminate([node.token for node in local.list()])
    assert processes.find({tags.DEPLOYMENT: deployment}) == []


@pytest.fixture
def ask(tmp_path: Path, deployment: str) -> Ask:
    tls.make(tmp_path / "tls", now=datetime.now(UTC))
    account = pwd.getpwuid(os.getuid())
    return lambda number: LaunchRequest(
        token=f"{number}-{os.getpid()}",
        name=f"n{number}",
        pool=POOL,
        owner=Owner(uid=account.pw_uid, gid=account.pw_gid, username=account.pw_name),
        join=Join(
            scheduler_address="tls://127.0.0.1:9",
            tls_dir=tmp_path / "tls",
            work_dir=tmp_path / "work",
        ),
        deployment=deployment,
    )


def launch(provider: Provider, *requests: LaunchRequest) -> list[str]:
    answers = provider.launch(requests)
    assert [answer.token for answer in answers] == [request.token for request in requests]
    assert all(isinstance(answer, Launched) for answer in answers)
    return [answer.provider_id for answer in answers if isinstance(answer, Launched)]


def refusal(provider: Provider, request: LaunchRequest) -> type[Exception]:
    (answer,) = provider.launch([request])
    assert isinstance(answer, Refused)
    assert answer.token == request.token
    assert str(answer.error)
    return type(answer.error)


def seen(provider: Provider, request: LaunchRequest) -> Seen:
    (found,) = [node for node in provider.list() if node.token == request.token]
    return found


def test_a_launched_node_is_listed_under_its_token(provider: Provider, ask: Ask) -> None:
    (provider_id,) = launch(provider, ask(1))
    assert seen(provider, ask(1)) == Seen(ask(1).token, provider_id, NodeState.RUNNING)


def test_the_same_token_gives_the_same_node(provider: Provider, ask: Ask) -> None:
    assert launch(provider, ask(1)) == launch(provider, ask(1))
    assert len(provider.list()) == 1


def test_nodes_are_launched_many_at_once(provider: Provider, ask: Ask) -> None:
    assert len(set(launch(provider, ask(1), ask(2)))) == 2


def test_a_full_pool_has_no_capacity_and_launches_nothing(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1), ask(2))
    assert refusal(provider, ask(3)) is NoCapacity
    assert len(provider.list()) == 2


def test_an_ended_node_gives_its_place_back(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1), ask(2))
    provider.terminate([ask(1).token])
    launch(provider, ask(3))


def test_the_token_of_an_ended_node_is_never_used_again(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1))
    provider.terminate([ask(1).token])
    assert refusal(provider, ask(1)) is BadRequest


def test_a_terminated_node_is_seen_to_be_gone(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1), ask(2))
    provider.terminate([ask(1).token])
    assert seen(provider, ask(1)).state is NodeState.TERMINATED
    assert seen(provider, ask(2)).state is NodeState.RUNNING


def test_terminating_may_be_repeated(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1))
    provider.terminate([ask(1).token, "never-launched"])
    provider.terminate([ask(1).token, "never-launched"])
    assert [node.token for node in provider.list()] == [ask(1).token]


def test_another_deployment_is_refused(provider: Provider, ask: Ask) -> None:
    assert refusal(provider, replace(ask(1), deployment="other")) is BadRequest
    assert not provider.list()


def test_without_an_announcement_there_is_no_notice(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1))
    assert not provider.notices()
