"""The ticking thread: it outlives failures, and stops when another broker may have its place."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from scsched.scheduler.ticker import Ticker
from scsched.steps.errors import StoreLost
from tests.scheduler.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def lost() -> None:
    raise StoreLost("database: the server went away")


def test_row_14_a_broker_whose_lock_is_gone_ticks_no_more(make_world: Callable[..., World]) -> None:
    deposed = threading.Event()
    world = make_world()
    ticker = Ticker(world.services, 0.01, lambda: NOW, check_leader=lost, on_deposed=deposed.set)
    ticker.start()
    assert deposed.wait(20.0)
    ticker.stop()
    assert ticker.deposed
    assert ticker.ticks == 0
