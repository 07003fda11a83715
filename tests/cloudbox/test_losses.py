"""How hosts of the box end and fail: with a word, without one, for a while, in one direction."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloudbox.asking import wait_until
from tests.cloudbox.client import Box
from tests.cloudbox.fixtures import box
from tests.cloudbox.hosted import SILENCE_S, boot, listening

__all__ = ["box"]


@pytest.mark.parametrize("words", ["poweroff", "shutdown -h now", "/sbin/shutdown -P now"])
def test_a_shutdown_inside_ends_the_instance(box: Box, words: str) -> None:
    [one] = boot(box, f"#!/bin/sh\n{words}\nsleep 60\n")
    wait_until(lambda: box.instance(one).state == "terminated")
    assert box.instance(one).reason == "Client.InstanceInitiatedShutdown"


def test_a_reclaim_ends_the_host(box: Box) -> None:
    [one] = boot(box)
    pid = box.instance(one).pid
    box.reclaim(one, notice_s=0.5)
    wait_until(lambda: box.instance(one).state == "terminated")
    assert box.instance(one).reason == "Server.SpotInstanceTermination"
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("verb", ["lose", "vanish"])
def test_a_silent_loss_sends_no_packet(box: Box, verb: str) -> None:
    [one] = boot(box)
    with listening(box, one) as port, _peer(box, one, port) as peer:
        pid = box.instance(one).pid
        getattr(box, verb)(one)
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(TimeoutError):
            peer.recv(1)
    state = "terminated" if verb == "lose" else "running"
    wait_until(lambda: box.instance(one).state == state)


def test_a_terminated_host_closes_its_connections(box: Box) -> None:
    [one] = boot(box)
    with listening(box, one) as port, _peer(box, one, port) as peer:
        box.ec2().terminate_instances(InstanceIds=[one])
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""


@contextlib.contextmanager
def _peer(box: Box, instance: str, port: int) -> Iterator[socket.socket]:
    address = (box.instance(instance).address, port)
    with socket.create_connection(address, timeout=SILENCE_S) as peer:
        assert peer.recv(5) == b"hello"
        yield peer


def _echoes(peer: socket.socket) -> bool:
    try:
        peer.sendall(b"x")
        return peer.recv(1) == b"x"
    except TimeoutError:
        return False


def test_a_frozen_host_stands_still_until_thawed(box: Box) -> None:
    [one] = boot(box)
    with listening(box, one) as port, _peer(box, one, port) as peer:
        assert _echoes(peer)
        box.freeze(one)
        assert not _echoes(peer)
        box.thaw(one)
        assert peer.recv(1) == b"x"
    box.freeze(one)
    box.ec2().terminate_instances(InstanceIds=[one])
    wait_until(lambda: box.instance(one).state == "terminated")


def test_a_cut_link_heals(box: Box) -> None:
    [one] = boot(box)
    with listening(box, one) as port, _peer(box, one, port) as peer:
        box.cut(one)
        assert not _echoes(peer)
        assert box.execute(one, "true").returncode == 0
        box.heal(one)
        peer.settimeout(10)
        assert peer.recv(1) == b"x"


@pytest.mark.parametrize("incoming", [True, False])
def test_a_blackhole_is_one_way(box: Box, incoming: bool) -> None:
    [one] = boot(box)
    with listening(box, one) as port, _peer(box, one, port) as peer:
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with heard:
            heard.bind((box.gateway, 0))
            heard.settimeout(SILENCE_S)
            box.blackhole(one, incoming=incoming)
            assert not _echoes(peer)
            say = f"echo hi > /dev/udp/{box.gateway}/{heard.getsockname()[1]}"
            box.execute(one, "bash", "-c", say)
            with contextlib.nullcontext() if incoming else pytest.raises(TimeoutError):
                assert heard.recv(9) == b"hi\n"
        box.heal(one)
        peer.settimeout(10)
        assert peer.recv(1) == b"x"
