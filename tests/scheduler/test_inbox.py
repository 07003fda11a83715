"""Beats go from the API's threads to the ticking one."""

import threading
import time

from scsched.scheduler.inbox import Inbox
from scsched.scheduler.protocol import Beat, EndReport, Hint, Phase, RunReport


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


def report(*, end: EndReport | None = None, **values: object) -> Beat:
    phase = Phase.RUNNING if end is None else Phase.ENDED
    runs = (RunReport(run=1, epoch=1, phase=phase, end=end),)
    return beat("a").model_copy(update={"runs": runs, **values})


def test_every_tick_sees_the_latest_beat() -> None:
    inbox = Inbox()
    inbox.put(1, beat("a"), timeout_s=0.0)
    inbox.take()
    assert inbox.take() == {1: beat("a")}


def test_a_beat_that_says_nothing_new_is_answered_without_a_tick() -> None:
    inbox = Inbox()
    inbox.put(1, report(), timeout_s=0.0)
    inbox.take()
    inbox.ticked()
    began = time.monotonic()
    inbox.put(1, report(), timeout_s=60.0)
    inbox.wait(0.0)
    assert time.monotonic() - began < 30.0
    assert not wants_a_tick(inbox)


def test_an_end_is_urgent_until_the_broker_has_closed_the_run() -> None:
    ended = report(end=EndReport(hint=Hint.COMPLETED))
    inbox = Inbox()
    inbox.put(1, ended, timeout_s=0.0)
    inbox.take()
    inbox.ticked()
    inbox.put(1, ended, timeout_s=0.0)
    assert wants_a_tick(inbox)


def test_a_new_driver_is_heard_though_it_says_the_same() -> None:
    inbox = Inbox()
    inbox.put(1, report(), timeout_s=0.0)
    inbox.take()
    inbox.put(1, report(token="another"), timeout_s=0.0)
    assert wants_a_tick(inbox)


def test_a_beat_that_replaced_a_forgotten_one_stays() -> None:
    inbox = Inbox()
    inbox.put(1, beat("given up"), timeout_s=0.0)
    inbox.put(2, beat("given up"), timeout_s=0.0)
    taken = inbox.take()
    inbox.put(2, beat("new"), timeout_s=0.0)
    inbox.forget(taken)
    assert inbox.take() == {2: beat("new")}


def wants_a_tick(inbox: Inbox) -> bool:
    return inbox._wanted
