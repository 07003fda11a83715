"""Keys are given once, to who shows the ticket, by who has the fingerprint."""

import asyncio
import secrets
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scsched.cluster import enrol, provider, tls, wire
from scsched.cluster.enrol import Desk, EnrolError

TICKET = secrets.token_hex(32)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    tls.make(tmp_path / "tls", now=datetime.now(UTC))
    return tmp_path / "tls"


def at_desk(keys: Path, scenario: Callable[[Desk], Awaitable[None]]) -> list[str]:
    """Who was refused."""
    refused: list[str] = []

    async def main() -> None:
        note = lambda name, peer: refused.append(f"{name} {peer}")  # noqa: E731
        async with Desk(keys, on_refused=note) as desk:
            await scenario(desk)

    asyncio.run(asyncio.wait_for(main(), 90))
    return refused


async def fetch(desk: Desk, into: Path, ticket: str = TICKET, **changes: str) -> None:
    place = provider.Desk(desk.address, changes.get("fingerprint", desk.fingerprint))
    name = changes.get("name", "n1")
    await asyncio.to_thread(enrol.fetch, place, name, ticket, into, timeout_s=2.0)


def test_a_node_gets_what_a_worker_needs_and_no_more(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        await fetch(desk, tmp_path / "mine")

    assert at_desk(keys, scenario) == []
    mine = tmp_path / "mine"
    assert sorted(file.name for file in mine.iterdir()) == sorted(tls.NODE_FILES)
    assert mine.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in mine.iterdir()} == {0o600}
    assert (mine / "worker-key.pem").read_bytes() == (keys / "worker-key.pem").read_bytes()
    security = tls.security(mine)
    worker = security.get_tls_config_for_role("worker")  # type: ignore[no-untyped-call]
    assert worker["key"] == str(mine / "worker-key.pem")
    client = security.get_tls_config_for_role("client")  # type: ignore[no-untyped-call]
    assert client["key"] is None


def test_a_ticket_is_worth_one_fetch(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        await fetch(desk, tmp_path / "thief")
        desk.expect({"n1": TICKET})
        with pytest.raises(EnrolError, match="refuses it: its ticket was used before"):
            await fetch(desk, tmp_path / "mine")

    assert at_desk(keys, scenario) == ["n1 127.0.0.1"]
    assert not (tmp_path / "mine").exists()


def test_two_at_once_do_not_both_get_the_keys(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        tries = [fetch(desk, tmp_path / f"k{k}") for k in range(8)]
        ends = await asyncio.gather(*tries, return_exceptions=True)
        assert len([end for end in ends if end is None]) == 1

    assert len(at_desk(keys, scenario)) == 7


def test_a_wrong_ticket_is_refused_at_once(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        with pytest.raises(EnrolError, match="its ticket is wrong"):
            await fetch(desk, tmp_path / "mine", secrets.token_hex(32))

    assert len(at_desk(keys, scenario)) == 1


def test_a_node_that_is_not_to_come_any_more_gets_nothing(keys: Path, tmp_path: Path) -> None:
    """Nor does who has read its ticket; and it may be expected again."""

    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        desk.expect({})
        with pytest.raises(EnrolError, match="does not expect this node"):
            await fetch(desk, tmp_path / "mine")
        desk.expect({"n1": TICKET})
        await fetch(desk, tmp_path / "mine")
        desk.expect({})
        with pytest.raises(EnrolError, match="used before"):
            await fetch(desk, tmp_path / "thief")

    assert len(at_desk(keys, scenario)) == 1


def test_a_node_waits_for_its_order_to_arrive(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        with pytest.raises(EnrolError, match="does not expect this node"):
            await fetch(desk, tmp_path / "early")
        asyncio.get_running_loop().call_later(0.5, desk.expect, {"n1": TICKET})
        await fetch(desk, tmp_path / "mine")

    assert at_desk(keys, scenario) == []
    assert (tmp_path / "mine" / "ca.pem").is_file()


def test_another_desk_hears_no_ticket(keys: Path, tmp_path: Path) -> None:
    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        with pytest.raises(EnrolError, match="is not its desk"):
            await fetch(desk, tmp_path / "mine", fingerprint="00" * 32)
        await fetch(desk, tmp_path / "mine")  # it was not used

    assert at_desk(keys, scenario) == []


def test_a_desk_that_is_not_there_is_asked_until_the_time_is_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EnrolError, match="no keys from the desk"):
        enrol.fetch(
            provider.Desk(f"127.0.0.1:{port}", "00" * 32), "n1", TICKET, tmp_path, timeout_s=1.2
        )


def test_noise_at_the_desk_does_not_keep_it_from_serving(keys: Path, tmp_path: Path) -> None:
    def noise(address: str, data: bytes) -> bytes:
        with suppress(OSError):  # it need not hear us out
            return said(address, data)
        return b""

    def said(address: str, data: bytes) -> bytes:
        host, _, port = address.rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection((host, int(port)), 5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(data)
            return connection.recv(1000)

    async def scenario(desk: Desk) -> None:
        desk.expect({"n1": TICKET})
        assert await asyncio.to_thread(noise, desk.address, b"x" * 100_000 + b"\n") == b""
        assert await asyncio.to_thread(noise, desk.address, b"[" * 4000 + b"\n") == b""
        assert await asyncio.to_thread(noise, desk.address, b"[1]\n") == b""
        assert await asyncio.to_thread(noise, desk.address, b'{"name": 3}\n') != b""
        threading.Thread(target=noise, args=(desk.address, b""), daemon=True).start()
        await fetch(desk, tmp_path / "mine")

    assert at_desk(keys, scenario) == []


def test_the_keys_pass_the_strictest_check(keys: Path) -> None:
    """Python 3.13 checks like this by default, and Dask takes the default."""
    server, client = wire.context(keys, server=True), wire.context(keys, server=False)
    for context in (server, client):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(
            target=lambda: server.wrap_socket(theirs, server_side=True).close(), daemon=True
        )
        thread.start()
        with client.wrap_socket(ours) as connection:
            assert connection.version() == "TLSv1.3"
        thread.join(5)
