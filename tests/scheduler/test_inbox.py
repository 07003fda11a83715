"""Beats go from the API's threads to the ticking one."""

import threading

from scsched.scheduler.inbox import Inbox
from scsched.scheduler.protocol import Beat


def beat(address: str) -> Beat:
    return Beat(token="t", pid=1, start_ticks=1, address=address, tls_dir="/t")


def test_a_beat_is_answered_after_a_whole_tick_has_seen_it() -> None:
    inbox = Inbox()
    answered = threading.Event()

    def put() -> None:
        inbox.put(1, beat("a"), timeout_s=20.0)
        answered.set()

    thread = threading.Thread(target=put)
    thread.start()
    inbox.wait(20.0)
    assert inbox.take() == {1: beat("a")}
    assert not answered.is_set()
    inbox.ticked()
    thread.join(20.0)
    assert answered.is_set()


def test_a_beat_that_comes_during_a_tick_waits_for_the_next() -> None:
    inbox = Inbox()
    inbox.take()
    inbox.put(1, beat("late"), timeout_s=0.0)
    inbox.ticked()
    assert inbox.take() == {1: beat("late")}


def test_the_newest_beat_of_a_workflow_stands_for_it() -> None:
    inbox = Inbox()
    inbox.put(1, beat("old"), timeout_s=0.0)
    inbox.put(1, beat("new"), timeout_s=0.0)
    assert inbox.take() == {1: beat("new")}
