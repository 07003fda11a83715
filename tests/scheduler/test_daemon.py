"""The broker as a process, and a database that will not write."""

import logging
import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from scsched.db.session import open_store
from scsched.scheduler import daemon
from scsched.steps.state import StepState
from tests.db import rows
from tests.scheduler.served import DOCUMENT, Api, Daemon, daemons, serving
from tests.scheduler.world import World, wait_until

NO_TICKS = '[times]\ntick_s = 0.05\n[scipion]\npython = "/opt/scipion/bin/python"\n'


@pytest.fixture
def broker() -> Iterator[Daemon]:
    with daemons(NO_TICKS) as found:
        yield found


@pytest.fixture
def document(broker: Daemon) -> str:
    path = broker.state_dir / "w.json"
    path.write_text(DOCUMENT)
    return str(path)


def test_row_13_a_second_broker_is_refused_with_the_pid_of_the_first(broker: Daemon) -> None:
    broker.start()
    assert broker.process is not None
    second = broker.scsched("serve")
    assert second.returncode == 75
    assert f"pid {broker.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert broker.scsched("queue").returncode == 0


def test_what_was_submitted_outlives_a_stop_and_a_kill(broker: Daemon, document: str) -> None:
    broker.start()
    assert broker.scsched("submit", document, "--hold", "--name", "first").stdout == "1\n"
    before = broker.json("queue")["items"][0]["submitted_at"]
    assert broker.stop(signal.SIGTERM) == 0
    assert broker.scsched("queue").returncode == 75

    broker.start()
    assert broker.scsched("submit", document, "--hold", "--name", "second").stdout == "2\n"
    assert broker.stop(signal.SIGKILL) == -signal.SIGKILL
    assert broker.socket.is_socket()

    broker.start()
    items = broker.json("queue")["items"]
    assert sorted(item["name"] for item in items) == ["first", "second"]
    assert items[-1]["submitted_at"] == before
    assert broker.stop(signal.SIGINT) == 0
    assert "Traceback" not in broker.log()


def test_without_scipion_nothing_is_taken_in() -> None:
    with daemons() as bare:
        file = bare.state_dir / "w.json"
        file.write_text(DOCUMENT)
        bare.start()
        for verb in ("submit", "run"):
            refused = bare.scsched(verb, str(file))
            assert refused.returncode == 3
            assert "scipion.python is not set" in refused.stderr
            assert "scsched setup scipion" in refused.stderr
            assert bare.scsched(verb, str(file), "--dry-run").returncode == 0
        assert bare.json("queue", "--all")["items"] == []


def test_a_file_where_the_socket_should_be_is_left_alone(broker: Daemon) -> None:
    broker.socket.write_text("precious")
    refused = broker.scsched("serve")
    assert refused.returncode == 3
    assert "is no socket" in refused.stderr
    assert broker.socket.read_text() == "precious"


def test_the_socket_of_another_broker_is_not_taken_away(broker: Daemon) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(broker.socket))
        other.listen()
        refused = broker.scsched("serve")
    assert refused.returncode == 75
    assert "another broker answers" in refused.stderr


def test_a_wrong_configuration_is_refused_before_anything_is_made(broker: Daemon) -> None:
    (broker.state_dir / "config.toml").write_text("[times]\ntick_s = -1\n")
    refused = broker.scsched("serve")
    assert refused.returncode == 3
    assert "times.tick_s" in refused.stderr
    assert "config.toml" in refused.stderr
    assert not (broker.state_dir / "scsched.db").exists()


def test_what_the_broker_keeps_is_not_for_others_to_read(broker: Daemon) -> None:
    broker.start()
    for name in ("scsched.db", "broker.lock"):
        assert (broker.state_dir / name).stat().st_mode & 0o022 == 0
    assert (broker.state_dir / "scsched.db").stat().st_mode & 0o077 == 0
    wanted = 0o711 if os.geteuid() == 0 else 0o700
    assert broker.state_dir.stat().st_mode & 0o777 == wanted


def test_logs_can_be_reached_and_each_is_its_owner_s_alone(tmp_path: Path) -> None:
    old = tmp_path / "log" / "driver-7.log"
    old.parent.mkdir()
    old.write_text("of an earlier version")
    old.chmod(0o644)
    daemon._make_dirs(tmp_path)
    wanted = 0o711 if os.geteuid() == 0 else 0o700
    assert old.parent.stat().st_mode & 0o777 == wanted
    assert old.stat().st_mode & 0o777 == 0o640
    before = logging.getLogger().handlers[:]
    try:
        daemon._logging(tmp_path)
    finally:
        for handler in set(logging.getLogger().handlers) - set(before):
            handler.close()
        logging.getLogger().handlers[:] = before
    assert (old.parent / "broker.log").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Api]:
    """A store on a file of its own that waits for nobody, served."""
    with rows.sqlite_urls(tmp_path) as url:
        store = open_store(url(), busy_timeout_s=0.2)
        with serving(World(store)) as api:
            api.ticker.start()
            yield api
            api.ticker.stop()
        store.close()


def test_a_database_locked_by_somebody_else_is_refused_and_the_broker_goes_on(
    impatient: Api,
) -> None:
    impatient.submit(hold=True)
    path = impatient.world.store.url.database
    assert path is not None
    with sqlite3.connect(path, isolation_level=None) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        body = {"document": DOCUMENT, "name": "second"}
        assert impatient.refused("POST", "/v1/workflows", body) == (503, "store_busy", 75)
        cancel = {"action": "cancel", "selector": "1"}
        assert impatient.refused("POST", "/v1/actions", cancel) == (503, "store_busy", 75)
        assert impatient.get("/v1/workflows/1")["state"] == "HELD"
        intruder.execute("ROLLBACK")
    intruder.close()
    assert impatient.submit(name="second", hold=True)["id"] == 2
    assert impatient.world.store.faults() == ()


def test_a_full_database_is_refused_and_the_state_is_intact(impatient: Api) -> None:
    impatient.submit()
    wait_until(lambda: impatient.world.at("2") is StepState.CONFIGURING)
    _limit_pages(impatient.world, None)
    tags = {f"note{i}": "x" * 200 for i in range(1000)}
    big = {"document": DOCUMENT, "name": "second", "tags": tags}
    assert impatient.refused("POST", "/v1/workflows", big) == (507, "store_full", 3)
    assert len(impatient.get("/v1/workflows")["items"]) == 1
    assert impatient.get("/v1/steps/1.2")["attempts"] == 1
    ticks = impatient.ticker.ticks
    wait_until(lambda: impatient.ticker.ticks > ticks)
    _limit_pages(impatient.world, 1_000_000)
    assert impatient.submit(name="second")["id"] == 2
    assert impatient.world.store.faults() == ()


def _limit_pages(world: World, pages: int | None) -> None:
    """Of the one connection that writes; None: as many as there are."""
    with world.store.write() as session:
        most = pages or session.exec_driver_sql("PRAGMA page_count").scalar()
        session.exec_driver_sql(f"PRAGMA max_page_count = {most}")
