"""Who may start a daemon on a node of another machine, and what becomes of it."""

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import agent, far_agent, leftovers, processes, rundir, tags, tls, wire
from scsched.cluster import gang as gangs
from scsched.cluster.daemon import daemon_argv
from scsched.cluster.far_agent import FarAgent
from scsched.cluster.gang import Gang, Member, make_key
from scsched.cluster.wire import Kind
from tests.cluster.hosts import wait_until

KEY = make_key()
OTHER = "other"


@pytest.fixture
def place(deployment: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The deployment, where this process is node n1, and `orted` is a script that sleeps."""
    monkeypatch.setenv(tags.DEPLOYMENT, deployment)
    monkeypatch.setenv(tags.NODE, "n1")
    monkeypatch.setenv(tags.MPI, "mpi1")
    for node in ("n1", "n2"):
        leftovers.make(deployment, node)
    yield deployment
    for node in ("n1", "n2"):
        rundir.remove(os.geteuid(), deployment, node)


@pytest.fixture
def serving(place: str) -> Iterator[FarAgent]:
    keys = rundir.keys_dir(os.geteuid(), place, "n1")
    tls.make(keys, now=datetime.now(UTC))
    identity = {tags.DEPLOYMENT: place, tags.NODE: "n2", tags.NODE_TOKEN: f"{place}-2"}
    directory = rundir.node_dir(os.geteuid(), place, "n2")
    made = FarAgent(directory, identity, host="127.0.0.1", keys=keys, scratch="/var/tmp/x")
    made.start()
    yield made
    made.close()
    far_agent._mine.clear()


def orted(folder: Path, text: str) -> str:
    """A program of that name."""
    script = folder / "orted"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o700)
    return str(script)


def client(
    serving: FarAgent, folder: Path, *command: str, key: str = KEY
) -> "subprocess.Popen[str]":
    path = folder / "gang.json"
    gangs.write(Gang((Member("n1", 1), Member("n2", 1, serving.address)), key), path)
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "scsched.cluster.agent", "n2", *command],
        env={**os.environ, tags.GANG: str(path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def heard(started: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = started.communicate(timeout=20)
    return started.returncode, out, err


def test_a_daemon_speaks_and_ends_through_its_client(serving: FarAgent, tmp_path: Path) -> None:
    assert agent.admit("r1", KEY)
    program = orted(tmp_path, 'echo "$1 on $SCSCHED_NODE"; echo no >&2; exit 7')
    code, out, err = heard(client(serving, tmp_path, program, "'two words'"))
    assert (code, out, err) == (7, "two words on n2\n", "no\n")
    assert agent.where() == {"name": "n1", "address": serving.address, "scratch": "/var/tmp/x"}


def test_the_leads_gpus_are_not_the_other_nodes(
    serving: FarAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    agent.admit("r1", KEY)
    program = orted(tmp_path, 'echo "${CUDA_VISIBLE_DEVICES-its own}"')
    assert heard(client(serving, tmp_path, program))[1] == "its own\n"


def test_much_output_arrives_whole(serving: FarAgent, tmp_path: Path) -> None:
    agent.admit("r1", KEY)
    program = orted(tmp_path, "seq 1 200000; exec 1>&-; sleep 0.2")
    code, out, _ = heard(client(serving, tmp_path, program))
    assert code == 0
    assert out.splitlines()[-1] == "200000"


def test_without_the_key_of_its_gang_nothing_starts(serving: FarAgent, tmp_path: Path) -> None:
    program = orted(tmp_path, f"touch {tmp_path}/started")
    code, _, err = heard(client(serving, tmp_path, program))
    assert (code, "of no gang" in err) == (agent.UNREACHABLE, True)
    agent.admit("r1", KEY)
    code, _, err = heard(client(serving, tmp_path, program, key=make_key()))
    assert (code, "of no gang" in err) == (agent.UNREACHABLE, True)
    code, _, err = heard(client(serving, tmp_path, program, key=""))
    assert code == agent.UNREACHABLE
    assert agent.forget("r1")
    assert not agent.forget("r1")
    code, _, err = heard(client(serving, tmp_path, program))
    assert (code, "of no gang" in err) == (agent.UNREACHABLE, True)
    assert not (tmp_path / "started").exists()


def test_an_empty_key_is_no_key(serving: FarAgent) -> None:
    with pytest.raises(ValueError, match="has 0 letters"):
        agent.admit("r1", "")


def test_the_key_of_another_workflow_opens_no_connection(
    serving: FarAgent, tmp_path: Path, place: str
) -> None:
    agent.admit("r1", KEY)
    tls.make(tmp_path / OTHER, now=datetime.now(UTC))
    with pytest.raises(OSError):
        far_agent.start_daemon(serving.address, tmp_path / OTHER, KEY, ["orted"])
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(OSError):
        ask_as(anybody, serving.address)


def ask_as(context: ssl.SSLContext, address: str) -> None:
    with wire.dial(address, context, timeout_s=5) as connection:
        wire.send_json(connection, Kind.REQUEST, {"key": KEY, "command": ["orted"]})
        wire.receive(connection)


def test_only_orted_is_started(serving: FarAgent, tmp_path: Path) -> None:
    agent.admit("r1", KEY)
    code, _, err = heard(client(serving, tmp_path, "/bin/sh", "-c", "true"))
    assert (code, "starts orted only" in err) == (agent.UNREACHABLE, True)


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (["orted", '-x "1 2"'], ["orted", "-x", "1 2"]),
        (["( test ! -r ./.profile || . ./.profile;", "orted -x 1 )"], ["orted", "-x", "1"]),
    ],
)
def test_the_line_for_a_remote_shell_is_understood(line: list[str], argv: list[str]) -> None:
    """The second is what mpirun says for a user whose shell is sh."""
    assert daemon_argv(line) == argv


@pytest.mark.parametrize("line", [[], ["sh -c orted"], ["( test x; rm -r / )"], ["(", "test"]])
def test_another_line_is_refused(line: list[str]) -> None:
    with pytest.raises(ValueError, match="starts orted only"):
        daemon_argv(line)


@pytest.mark.parametrize("how", ["kill the client", "forget the key"])
def test_a_daemon_and_its_children_end_with_their_asker(
    serving: FarAgent, tmp_path: Path, place: str, how: str
) -> None:
    agent.admit("r1", KEY)
    program = orted(tmp_path, "setsid sleep 600 & sleep 600")
    asker = client(serving, tmp_path, program)
    mine = {tags.NODE_TOKEN: f"{place}-2"}
    wait_until(lambda: len(processes.find(mine)) == 3)
    if how == "forget the key":
        agent.forget("r1")
    else:
        asker.send_signal(signal.SIGKILL)
    start = time.monotonic()
    wait_until(lambda: not processes.find(mine))
    assert time.monotonic() - start < 30
    heard(asker)
    wait_until(lambda: not serving.children)


def test_noise_and_idlers_do_not_keep_the_agent_from_serving(
    serving: FarAgent, tmp_path: Path
) -> None:
    agent.admit("r1", KEY)
    host, _, port = serving.address.rpartition(":")
    with socket.create_connection((host, int(port))) as idle:
        with socket.create_connection((host, int(port))) as noisy:
            noisy.sendall(b"GET / HTTP/1.0\r\n\r\n" * 100)
        code, out, _ = heard(client(serving, tmp_path, orted(tmp_path, "echo here")))
        assert (code, out) == (0, "here\n")
        idle.close()


def test_a_member_without_an_answer_is_named(serving: FarAgent, tmp_path: Path) -> None:
    serving.close()
    code, _, err = heard(client(serving, tmp_path, "orted"))
    assert code == agent.UNREACHABLE
    assert f"node n2: its agent does not answer at {serving.address}" in err


def test_the_file_with_the_key_is_its_owners_alone(tmp_path: Path) -> None:
    os.umask(0o022)
    path = tmp_path / "gang.json"
    gang = Gang((Member("n1", 2, "10.0.0.1:5"), Member("n2", 1, "10.0.0.2:5")), KEY)
    gangs.write(gang, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert gangs.read(path) == gang
    assert KEY not in repr(gang)
    assert json.loads(path.read_text())["key"] == KEY
