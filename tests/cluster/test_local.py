"""Local nodes: found again after any crash, taken back on time, gone with all they started."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scsched.cluster import processes, rundir, tags
from scsched.cluster.local import LocalProvider
from scsched.cluster.processes import Process
from scsched.cluster.provider import (
    BadRequest,
    Launched,
    LaunchRequest,
    NoCapacity,
    NodeState,
    Notice,
    Owner,
    Refused,
    Unreachable,
)
from scsched.steps.errors import ConfigError

Ask = Callable[..., LaunchRequest]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def state_dir(weird_dir: Path) -> Path:
    return weird_dir / "state"


def launched(provider: LocalProvider, request: LaunchRequest) -> Process:
    (answer,) = provider.launch([request])
    assert isinstance(answer, Launched)
    return processes.parse(answer.provider_id)


def states(provider: LocalProvider) -> dict[str, tuple[NodeState, str]]:
    return {seen.token: (seen.state, seen.reason) for seen in provider.list()}


def wait_until(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_node_is_a_session_of_its_own(provider: LocalProvider, request_node: Ask) -> None:
    node = launched(provider, request_node(1))
    assert os.getsid(node.pid) == node.pid


def test_a_node_survives_its_provider_and_is_found_by_the_next(
    provider: LocalProvider, request_node: Ask, state_dir: Path, deployment: str
) -> None:
    node = launched(provider, request_node(1))
    following = LocalProvider(state_dir, deployment)
    assert launched(following, request_node(1)) == node
    assert states(following) == {request_node(1).token: (NodeState.RUNNING, "")}


def test_a_node_is_found_though_we_died_before_writing_it_down(
    provider: LocalProvider, request_node: Ask, state_dir: Path, deployment: str
) -> None:
    node = launched(provider, request_node(1))
    for record in (state_dir / "nodes").glob("*.json"):
        record.unlink()
    following = LocalProvider(state_dir, deployment)
    assert [seen.provider_id for seen in following.list()] == [str(node)]
    assert launched(following, request_node(1)) == node


def test_a_node_whose_environment_cannot_be_read_yet_is_not_gone(
    provider: LocalProvider,
    request_node: Ask,
    state_dir: Path,
    deployment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of a process in the middle of its exec."""
    node = launched(provider, request_node(1))
    monkeypatch.setattr(processes, "_environ", lambda pid: {})
    blind = LocalProvider(state_dir, deployment)
    assert states(blind) == {request_node(1).token: (NodeState.RUNNING, "")}
    assert launched(blind, request_node(1)) == node
    blind.terminate([request_node(1).token])
    assert not processes.alive(node)


def test_a_node_that_dies_is_seen_to_be_gone(provider: LocalProvider, request_node: Ask) -> None:
    node = launched(provider, request_node(1))
    processes.send(node, signal.SIGKILL)
    wait_until(lambda: not processes.alive(node))
    provider.tick(NOW)
    assert states(provider) == {request_node(1).token: (NodeState.TERMINATED, "")}


def test_a_node_takes_what_it_started_with_it(
    provider: LocalProvider, request_node: Ask, deployment: str
) -> None:
    request = request_node(1)
    launched(provider, request)
    tagged = {tags.DEPLOYMENT: deployment, tags.NODE_TOKEN: request.token}
    environ = os.environ | tagged
    os.posix_spawnp("setsid", ["setsid", "sleep", "66"], environ)
    wait_until(lambda: len(processes.find(tagged)) >= 2)
    provider.terminate([request.token])
    assert processes.find(tagged) == []
    os.wait()


def test_a_node_is_announced_and_taken_back_on_time(
    provider: LocalProvider, request_node: Ask, state_dir: Path
) -> None:
    token = request_node(1).token
    node = launched(provider, request_node(1))
    provider.play(token, 120.0, now=NOW)
    assert provider.notices() == (Notice(token, NOW + timedelta(seconds=120)),)
    (notice,) = (state_dir / "notices").iterdir()
    assert "2026-01-01T00:02:00+00:00" in notice.read_text()
    assert provider.tick(NOW + timedelta(seconds=119)) == ()
    assert processes.alive(node)
    assert provider.tick(NOW + timedelta(seconds=120)) == (token,)
    assert not processes.alive(node)
    assert states(provider) == {token: (NodeState.TERMINATED, "spot")}
    assert provider.notices() == ()


def test_a_deadline_survives_a_restart(
    provider: LocalProvider, request_node: Ask, state_dir: Path, deployment: str
) -> None:
    token = request_node(1).token
    node = launched(provider, request_node(1))
    provider.play(token, 30.0, now=NOW)
    following = LocalProvider(state_dir, deployment)
    assert following.tick(NOW + timedelta(seconds=31)) == (token,)
    assert not processes.alive(node)
    third = LocalProvider(state_dir, deployment)
    assert states(third) == {token: (NodeState.TERMINATED, "spot")}


def test_a_node_is_taken_back_without_notice(provider: LocalProvider, request_node: Ask) -> None:
    token = request_node(1).token
    node = launched(provider, request_node(1))
    provider.play(token, None, now=NOW)
    assert not processes.alive(node)
    assert states(provider) == {token: (NodeState.TERMINATED, "spot")}


def test_taking_back_what_is_gone_does_nothing(provider: LocalProvider, request_node: Ask) -> None:
    launched(provider, request_node(1))
    provider.terminate([request_node(1).token])
    provider.play(request_node(1).token, None, now=NOW)
    provider.play("never-launched", None, now=NOW)
    assert states(provider) == {request_node(1).token: (NodeState.TERMINATED, "")}


def test_ended_nodes_are_forgotten_after_an_hour(
    provider: LocalProvider, request_node: Ask, state_dir: Path
) -> None:
    launched(provider, request_node(1))
    provider.terminate([request_node(1).token])
    provider.tick(datetime.now(UTC) + timedelta(minutes=59))
    assert len(provider.list()) == 1
    provider.tick(datetime.now(UTC) + timedelta(minutes=61))
    assert provider.list() == ()
    assert list((state_dir / "nodes").iterdir()) == []


def test_two_nodes_of_one_core_are_on_two_cores(provider: LocalProvider, request_node: Ask) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core only")
    nodes = [launched(provider, request_node(k)) for k in (1, 2)]
    wait_until(lambda: all(len(os.sched_getaffinity(node.pid)) == 1 for node in nodes))
    first, second = (os.sched_getaffinity(node.pid) for node in nodes)
    assert first != second


def test_secrets_of_the_broker_do_not_reach_a_node(
    provider: LocalProvider, request_node: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    node = launched(provider, request_node(1))
    environ = processes.Table().environs()[node]
    assert "AWS_SECRET_ACCESS_KEY" not in environ
    assert environ[tags.NODE] == "n1"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "n1,evil"},
        {"name": "-x"},
        {"token": "../escape"},
    ],
)
def test_a_name_that_could_be_more_than_a_name_is_refused(
    provider: LocalProvider, request_node: Ask, changes: dict[str, str]
) -> None:
    (answer,) = provider.launch([request_node(1, **changes)])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, BadRequest)


def test_only_root_starts_nodes_for_others(
    provider: LocalProvider, request_node: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    other = Owner(uid=12346, gid=12346, username="other")
    (answer,) = provider.launch([request_node(1, owner=other)])
    assert isinstance(answer, Refused)
    assert "only root" in str(answer.error)


def gang_of_three(request_node: Ask) -> list[LaunchRequest]:
    pool = replace(request_node(1).pool, max_nodes=3)
    return [request_node(k, token=f"g-{place}", pool=pool) for place, k in enumerate((1, 2, 3))]


def test_a_gang_whose_third_cannot_be_started_leaves_nothing(
    provider: LocalProvider, request_node: Ask, state_dir: Path, deployment: str
) -> None:
    gang = gang_of_three(request_node)
    # Longer than a variable of a new process may be: execve(2), MAX_ARG_STRLEN.
    no_process = replace(gang[2], name="n" * 200_000)
    answers = provider.launch([*gang[:2], no_process])
    assert [type(answer.error) for answer in answers if isinstance(answer, Refused)] == [
        NoCapacity
    ] * 3
    assert processes.find({tags.DEPLOYMENT: deployment}) == []
    assert provider.list() == ()
    assert list((state_dir / "nodes").iterdir()) == []
    assert all(isinstance(answer, Launched) for answer in provider.launch(gang))


def test_a_gang_that_could_not_be_written_down_is_found_and_completed(
    provider: LocalProvider, request_node: Ask, state_dir: Path
) -> None:
    gang = gang_of_three(request_node)
    in_the_way = state_dir / "nodes" / f"{gang[2].token}.tmp"
    in_the_way.mkdir()
    answers = provider.launch(gang)
    assert [type(answer.error) for answer in answers if isinstance(answer, Refused)] == [
        Unreachable
    ] * 3
    before = {seen.token: seen.provider_id for seen in provider.list()}
    in_the_way.rmdir()
    after = {
        answer.token: answer.provider_id
        for answer in provider.launch(gang)
        if isinstance(answer, Launched)
    }
    assert set(before) == {"g-0", "g-1"}
    assert before.items() <= after.items()
    assert set(after) == {"g-0", "g-1", "g-2"}


def test_a_missing_python_is_said(weird_dir: Path, deployment: str, request_node: Ask) -> None:
    provider = LocalProvider(weird_dir / "state", deployment, python="/no/such/python")
    (answer,) = provider.launch([request_node(1)])
    assert isinstance(answer, Refused)
    assert isinstance(answer.error, BadRequest)
    assert "/no/such/python" in str(answer.error)
    assert provider.list() == ()


def test_a_broken_record_is_named(state_dir: Path, deployment: str) -> None:
    LocalProvider(state_dir, deployment)
    (state_dir / "nodes" / "x.json").write_text("{")
    with pytest.raises(ConfigError, match=r"x\.json"):
        LocalProvider(state_dir, deployment)


def test_a_run_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o777)
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(ConfigError, match="only uid"):
        rundir.private(tmp_path / "mine")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="only uid"):
        rundir.private(tmp_path / "link")
