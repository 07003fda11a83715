"""What every provider must do; run on each module of tests/contract/providers."""

import os
import pwd
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import tls
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
from tests.contract import providers
from tests.contract.providers import MakeSubject, Subject

ENDING = (NodeState.STOPPING, NodeState.TERMINATED)
UP = (NodeState.PENDING, NodeState.RUNNING)
Ask = Callable[..., LaunchRequest]


@pytest.fixture(scope="module", params=providers.names())
def make_subject(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeSubject]:
    directory = tmp_path_factory.mktemp(f"contract-{request.param}")
    with providers.implementation(request.param).opened(directory) as make:
        yield make


@pytest.fixture
def deployment(tmp_path: Path) -> str:
    return f"contract-{tmp_path.name}-{os.getpid()}"


@pytest.fixture
def subject(make_subject: MakeSubject, tmp_path: Path, deployment: str) -> Iterator[Subject]:
    with make_subject(tmp_path, deployment) as made:
        yield made


@pytest.fixture
def provider(subject: Subject) -> Provider:
    return subject.provider


@pytest.fixture
def ask(subject: Subject, tmp_path: Path, deployment: str) -> Ask:
    """A request for the node at `index` of gang `number`."""
    tls.make(tmp_path / "tls", now=datetime.now(UTC))
    account = pwd.getpwuid(os.getuid())
    started = time.time_ns()
    join = Join(
        scheduler_address="tls://127.0.0.1:9",
        tls_dir=tmp_path / "tls",
        work_dir=tmp_path / "work",
        desk=subject.desk,
    )
    return lambda number, index=0: LaunchRequest(
        token=f"g{number}x{started}-{index}",
        name=f"n{number}_{index}",
        pool=subject.pool,
        owner=Owner(uid=account.pw_uid, gid=account.pw_gid, username=account.pw_name),
        join=join,
        deployment=deployment,
        candidate=subject.candidate,
        ticket=f"{number:04}{index:04}" if subject.desk else "",
    )


def launch(provider: Provider, *requests: LaunchRequest) -> list[str]:
    answers = provider.launch(requests)
    assert [answer.token for answer in answers] == [request.token for request in requests]
    assert all(isinstance(answer, Launched) for answer in answers), answers
    return [answer.provider_id for answer in answers if isinstance(answer, Launched)]


def refusals(provider: Provider, *requests: LaunchRequest) -> list[type[Exception]]:
    answers = provider.launch(requests)
    assert [answer.token for answer in answers] == [request.token for request in requests]
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert len(refused) == len(requests), answers
    assert all(str(answer.error) for answer in refused)
    return [type(answer.error) for answer in refused]


def seen(provider: Provider, request: LaunchRequest) -> Seen:
    (found,) = [node for node in provider.list() if node.token == request.token]
    return found


def up(provider: Provider) -> set[str]:
    return {node.token for node in provider.list() if node.state in UP}


def until(subject: Subject, request: LaunchRequest, state: NodeState) -> Seen:
    """The node as listed once it is in that state."""
    deadline = time.monotonic() + subject.patience_s
    while (found := seen(subject.provider, request)).state is not state:
        assert time.monotonic() < deadline, f"last seen as {found}"
        time.sleep(0.1)
    return found


def test_a_launched_node_is_listed_under_its_token(subject: Subject, ask: Ask) -> None:
    (provider_id,) = launch(subject.provider, ask(1))
    found = until(subject, ask(1), NodeState.RUNNING)
    assert (found.token, found.provider_id) == (ask(1).token, provider_id)
    assert found.pool in ("", subject.pool.name)
    assert found.ended_at is None


def test_the_same_token_gives_the_same_node(provider: Provider, ask: Ask) -> None:
    assert launch(provider, ask(1)) == launch(provider, ask(1))
    assert len(provider.list()) == 1


def test_another_process_gets_and_sees_the_same_node(subject: Subject, ask: Ask) -> None:
    before = launch(subject.provider, ask(1))
    other = subject.again()
    assert [node.token for node in other.list()] == [ask(1).token]
    assert launch(other, ask(1)) == before
    assert len(other.list()) == 1
    other.terminate([ask(1).token])
    assert seen(subject.provider, ask(1)).state in ENDING


def test_nodes_are_launched_many_at_once(provider: Provider, ask: Ask) -> None:
    assert len(set(launch(provider, ask(1), ask(2)))) == 2


def test_every_node_of_a_gang_has_its_own_token(provider: Provider, ask: Ask) -> None:
    ids = launch(provider, ask(1, 0), ask(1, 1))
    assert len(set(ids)) == 2
    listed = {node.token: node.provider_id for node in provider.list()}
    assert listed == {ask(1, 0).token: ids[0], ask(1, 1).token: ids[1]}


def test_the_same_gang_gives_the_same_nodes(provider: Provider, ask: Ask) -> None:
    gang = (ask(1, 0), ask(1, 1))
    assert launch(provider, *gang) == launch(provider, *gang)
    assert len(provider.list()) == 2


def test_a_gang_is_launched_whole_or_not_at_all(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1))
    subject.run_out()
    gang = (ask(2, 0), ask(2, 1))
    assert set(refusals(subject.provider, *gang)) == {NoCapacity}
    assert up(subject.provider) == {ask(1).token}


def test_a_gang_refused_for_want_of_room_leaves_its_place_to_others(
    subject: Subject, ask: Ask
) -> None:
    launch(subject.provider, ask(1))
    subject.run_out()
    refusals(subject.provider, ask(2, 0), ask(2, 1))
    deadline, number = time.monotonic() + subject.patience_s, 3
    while isinstance(subject.provider.launch([ask(number)])[0], Refused):
        assert time.monotonic() < deadline, "the place was not given back"
        number += 1
        time.sleep(0.1)
    assert up(subject.provider) == {ask(1).token, ask(number).token}


def test_what_is_there_of_a_gang_stays_whatever_becomes_of_the_rest(
    subject: Subject, ask: Ask
) -> None:
    """Some complete it; to others a gang is one call, and a node alone was another one."""
    (first,) = launch(subject.provider, ask(1, 0))
    again, other = subject.provider.launch([ask(1, 0), ask(1, 1)])
    assert isinstance(again, Launched)
    assert again.provider_id == first
    assert isinstance(other, Launched) or isinstance(other.error, BadRequest)
    there = {ask(1, 0).token} | ({ask(1, 1).token} if isinstance(other, Launched) else set())
    assert up(subject.provider) == there


def test_a_gang_that_has_lost_a_node_gets_no_more(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1, 0))
    subject.provider.terminate([ask(1, 0).token])
    until(subject, ask(1, 0), NodeState.TERMINATED)
    assert set(refusals(subject.provider, ask(1, 0), ask(1, 1))) == {BadRequest}
    assert up(subject.provider) == set()


def test_a_full_pool_has_no_capacity_and_launches_nothing(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1), ask(2))
    subject.run_out()
    assert refusals(subject.provider, ask(3)) == [NoCapacity]
    assert len(subject.provider.list()) == 2


def test_an_ended_node_gives_its_place_back(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1), ask(2))
    subject.provider.terminate([ask(1).token])
    until(subject, ask(1), NodeState.TERMINATED)
    launch(subject.provider, ask(3))


def test_the_token_of_an_ended_node_is_never_used_again(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1))
    subject.provider.terminate([ask(1).token])
    until(subject, ask(1), NodeState.TERMINATED)
    assert refusals(subject.provider, ask(1)) == [BadRequest]
    assert len(subject.provider.list()) == 1


def test_a_terminated_node_is_seen_to_be_gone(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1), ask(2))
    subject.provider.terminate([ask(1).token])
    assert seen(subject.provider, ask(1)).state in ENDING
    until(subject, ask(1), NodeState.TERMINATED)
    assert seen(subject.provider, ask(2)).state in UP


def test_one_node_of_a_gang_is_ended_alone(subject: Subject, ask: Ask) -> None:
    launch(subject.provider, ask(1, 0), ask(1, 1))
    subject.provider.terminate([ask(1, 1).token])
    until(subject, ask(1, 1), NodeState.TERMINATED)
    assert seen(subject.provider, ask(1, 0)).state in UP


def test_terminating_may_be_repeated(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1))
    provider.terminate([ask(1).token, "never-launched"])
    provider.terminate([ask(1).token, "never-launched"])
    assert [node.token for node in provider.list()] == [ask(1).token]


def test_times_are_aware_and_near(subject: Subject, ask: Ask) -> None:
    before = datetime.now(UTC) - subject.clock_slack
    launch(subject.provider, ask(1))
    subject.provider.terminate([ask(1).token])
    ended = until(subject, ask(1), NodeState.TERMINATED)
    after = datetime.now(UTC) + subject.clock_slack
    for told in (ended.launched_at, ended.ended_at):
        assert told is None or before <= told <= after


def test_another_deployment_is_refused(provider: Provider, ask: Ask) -> None:
    assert refusals(provider, replace(ask(1), deployment="other")) == [BadRequest]
    assert not provider.list()


def test_without_an_announcement_there_is_no_notice(provider: Provider, ask: Ask) -> None:
    launch(provider, ask(1))
    assert not provider.notices()


def test_prices_are_of_the_candidates_asked_for(subject: Subject) -> None:
    known = subject.pool.candidates()
    for price in subject.provider.prices([subject.pool], datetime.now(UTC)):
        assert price.candidate in known
        assert price.market is subject.pool.market
        assert price.usd_per_hour >= 0
        assert price.since.tzinfo is not None
