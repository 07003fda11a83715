"""What a driver wrote last is told to its owner, who alone may read the whole of it."""

import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scsched.db import drivers as driver_rows
from scsched.scheduler.driver_processes import LAST_WORDS, LocalDrivers, Places
from scsched.scheduler.drivers import Drivers
from scsched.scheduler.ticker import utc_now
from tests.scheduler.world import World, wait_until

MakeWorld = Callable[..., World]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes of others")


class Site:
    """Drivers that do what `code` says, under a broker that ticks by hand."""

    def __init__(self, world: World, folder: Path, code: str) -> None:
        (folder / "log").mkdir(exist_ok=True)
        self.world, self.log = world, folder / "log" / "driver-1.log"
        places = Places(folder, folder / "api.sock")
        self.local = LocalDrivers(places, "d", program=(sys.executable, "-c", code))
        self.drivers = Drivers(world.store, self.local, lambda _: 0)

    def start(self, **submitter: object) -> None:
        self.world.submit(**submitter)
        self.drivers.tick(utc_now())

    def lose(self) -> str:
        """Wait for its end; what is told of it."""
        children = self.local._children
        wait_until(lambda: all(child.poll() is not None for child in children.values()))
        self.drivers.tick(utc_now())
        with self.world.store.read() as session:
            return driver_rows.last_loss(session, 1)


@contextmanager
def site(world: World, folder: Path, code: str) -> Iterator[Site]:
    found = Site(world, folder, code)
    try:
        yield found
    finally:
        for child in found.local._children.values():
            child.kill()
            child.wait(20)


def test_its_last_line_is_told_when_it_is_lost(world: World, tmp_path: Path) -> None:
    code = "import sys; print('first', flush=True); sys.exit('no \\x1b[31mScipion\\x00 here\\n\\n')"
    with site(world, tmp_path, code) as found:
        found.start()
        said = found.lose()
    assert said.endswith("is gone; its last words: no  [31mScipion  here")
    (event,) = [one for one in world.events() if one.kind == "driver_lost"]
    assert event.text == f"the driver is lost: {said}"


def test_a_long_line_is_cut(world: World, tmp_path: Path) -> None:
    with site(world, tmp_path, "print('é' * 100_000)") as found:
        found.start()
        words = found.lose().partition("last words: ")[2]
    assert len(words) == LAST_WORDS


def test_words_of_an_earlier_driver_are_not_told(world: World, tmp_path: Path) -> None:
    with site(world, tmp_path, "") as found:
        found.log.write_text("yesterday\n")
        os.utime(found.log, (1, 1))
        found.start()
        assert "last words" not in found.lose()


def test_why_it_could_not_be_started_is_told(world: World) -> None:
    world.programs.refuse = 1
    world.submit()
    world.tick(3)
    with world.store.read() as session:
        assert driver_rows.last_loss(session, 1) == "it did not start: no such program"


def test_a_link_in_the_place_of_its_log_is_not_followed(world: World, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("secret\n")
    with site(world, tmp_path, "print('x')") as found:
        found.log.symlink_to(precious)
        found.start()
        assert "did not start" in found.lose()
        assert not found.local._children
    assert precious.read_text() == "secret\n"


@needs_root
def test_its_log_belongs_to_its_user_alone(world: World, tmp_path: Path) -> None:
    with site(world, tmp_path, "print('hello')") as found:
        found.log.write_text("of an earlier version\n")
        found.start(uid=NOBODY, username=pwd.getpwuid(NOBODY).pw_name)
        found.lose()
    log = found.log.stat()
    assert (log.st_uid, log.st_mode & 0o777) == (NOBODY, 0o600)
    assert found.log.read_text().startswith("of an earlier version\nhello\n")


@needs_root
def test_the_log_of_a_third_user_is_not_used(world: World, tmp_path: Path) -> None:
    with site(world, tmp_path, "print('hello')") as found:
        found.log.touch()
        os.chown(found.log, 1, 1)
        found.start(uid=NOBODY, username=pwd.getpwuid(NOBODY).pw_name)
        assert "is no log of this driver" in found.lose()
