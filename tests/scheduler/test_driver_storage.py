"""The driver's view of storage: whose fault, since when, who fills it, and what the queue says."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scsched.cluster.storage_look import TOKEN, Found, Word
from scsched.cluster.storage_watch import State
from scsched.scheduler.driver import storage as driver_storage
from scsched.scheduler.driver import storage_gate
from scsched.scheduler.driver.storage import ProjectStorage, Wanted
from scsched.scheduler.driver.storage_rules import Stalls, judge, problem_of
from scsched.scheduler.driver.usage import EVERY_S, LONGEST_S, SOONEST_S, Usage
from scsched.scheduler.protocol import Hint, StorageReport
from scsched.scheduler.storage_hold import FRESH, StorageHold, Told, holds, shares
from scsched.steps.state import PendingReason
from tests.scheduler.played_run import Scene

NOW = datetime(2026, 1, 1, 12, 3, 20, tzinfo=UTC)
GIB = 2**30

# ---- whose fault ------------------------------------------------------------------------------


def found(node: str, word: Word) -> Found:
    return Found(node=node, word=word, problem="" if word is Word.OK else f"node {node}: {word}")


def test_a_node_alone_in_its_trouble_is_sent_away() -> None:
    for word in (Word.UNMOUNTED, Word.FOREIGN, Word.STALE, Word.STALLED, Word.READ_ONLY, Word.SLOW):
        verdict = judge([found("n1", Word.OK), found("n2", word)], own=Word.OK)
        assert verdict.bad == {"n2": f"node n2: {word}"}
        assert not verdict.held
        assert not verdict.ok


def test_what_the_driver_sees_too_is_the_storages_fault() -> None:
    for word in (Word.STALLED, Word.READ_ONLY, Word.BROKEN):
        verdict = judge([found("n1", word)], own=word)
        assert (verdict.bad, verdict.held) == ({}, f"node n1: {word}")


def test_a_full_storage_is_never_a_nodes_fault() -> None:
    verdict = judge([found("n1", Word.FULL), found("n2", Word.SLOW)], own=Word.OK)
    assert (verdict.bad, verdict.held) == ({}, "node n1: full")
    assert judge([found("n1", Word.OK)], own=Word.OK).ok


# ---- why no new work --------------------------------------------------------------------------


def state(word: Word = Word.OK, detail: str = "", free_gib: float | None = 50.0) -> State:
    free = None if free_gib is None else int(free_gib * GIB)
    return State(word=word, since=NOW, for_s=3.0, detail=detail, free=free)


def test_new_work_may_start_on_a_storage_that_is_well() -> None:
    assert problem_of(state(), 10.0) == ""
    assert problem_of(state(free_gib=None), 10.0) == "", "nothing is known yet"
    assert problem_of(state(free_gib=0.0), 0.0) == "", "nothing is asked"


def test_each_reason_against_new_work_begins_with_its_word() -> None:
    assert problem_of(state(free_gib=3.125), 10.0) == "full: 3.1 GiB free, 10 wanted"
    full = problem_of(state(Word.FULL, "/s: No space left on device"), 0.0)
    assert full == (
        "full: /s: No space left on device; remove what is no longer needed, or enlarge it"
    )
    stalled = problem_of(state(Word.STALLED), 10.0)
    assert stalled.startswith("stalled since 12:03:20Z: it does not answer; look at")
    assert problem_of(state(Word.READ_ONLY, "/s"), 10.0).startswith("read-only: /s; mount it")


# ---- stalls -----------------------------------------------------------------------------------


def test_stalled_time_is_counted_once_whoever_saw_it() -> None:
    stalls = Stalls()
    stalls.tell("", stalled=True, for_s=10.0, now=110.0)  # from 100
    stalls.tell("", stalled=True, for_s=20.0, now=120.0)
    stalls.tell("n1", stalled=True, for_s=5.0, now=120.0)  # from 115
    stalls.tell("", stalled=False, for_s=0.0, now=130.0)
    stalls.tell("n1", stalled=False, for_s=2.0, now=142.0)  # until 140
    stalls.tell("n2", stalled=True, for_s=0.0, now=150.0)  # goes on
    assert stalls.seconds(0.0, 200.0, ["", "n1"]) == 40.0
    assert stalls.seconds(0.0, 200.0, [""]) == 30.0
    assert stalls.seconds(105.0, 120.0, ["", "n1"]) == 15.0
    assert stalls.seconds(141.0, 149.0, ["", "n1", "n2"]) == 0.0
    assert stalls.seconds(0.0, 200.0, ["", "n1", "n2"]) == 90.0
    assert stalls.seconds(0.0, 200.0, ["n9"]) == 0.0


def test_a_storage_that_was_well_all_along_has_no_stall() -> None:
    stalls = Stalls()
    for now in (1.0, 2.0, 3.0):
        stalls.tell("", stalled=False, for_s=now, now=now)
    assert stalls.seconds(0.0, 3.0, [""]) == 0.0


# ---- what a project takes ---------------------------------------------------------------------


class Clock:
    def __init__(self, step_s: float = 0.0) -> None:
        self.now = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


def filled(folder: Path, files: int = 3) -> Path:
    (folder / "sub").mkdir(parents=True)
    for number in range(files):
        (folder / "sub" / f"f{number}").write_bytes(bytes(8192))
    (folder / "link").hardlink_to(folder / "sub" / "f0")
    (folder / "soft").symlink_to("/")
    return folder


def test_a_file_with_two_names_is_counted_once(tmp_path: Path) -> None:
    usage = Usage((filled(tmp_path / "p"), tmp_path / "missing"))
    assert usage.bytes is None
    usage.advance(10.0)
    assert usage.bytes == 3 * 8192


def test_it_is_counted_again_after_a_while_or_when_asked_for(tmp_path: Path) -> None:
    clock = Clock()
    usage = Usage((filled(tmp_path / "p"),), clock=clock)
    usage.advance(10.0)
    (tmp_path / "p" / "more").write_bytes(bytes(4096))

    clock.now = EVERY_S - 1
    usage.advance(10.0)
    assert usage.bytes == 3 * 8192
    clock.now = EVERY_S + 1
    usage.advance(10.0)
    assert usage.bytes == 3 * 8192 + 4096

    (tmp_path / "p" / "more").unlink()
    usage.want()
    clock.now += SOONEST_S - 1
    usage.advance(10.0)
    assert usage.bytes == 3 * 8192 + 4096
    clock.now += 2
    usage.advance(10.0)
    assert usage.bytes == 3 * 8192


def test_it_is_counted_in_slices_and_not_for_ever(tmp_path: Path) -> None:
    clock = Clock(step_s=1.0)
    usage = Usage((filled(tmp_path / "p", 20),), clock=clock)
    slices = 0
    while usage.bytes is None:
        usage.advance(2.0)
        slices += 1
    assert slices > 3
    assert usage.bytes == 20 * 8192
    clock.now += EVERY_S
    clock.step_s = LONGEST_S  # now each entry takes that long
    usage.advance(1e9)
    assert usage.bytes == 20 * 8192, "a count that was given up does not make it smaller"


# ---- the service ------------------------------------------------------------------------------


class SameHost:
    """Nodes of which each is this process."""

    def __init__(self, *names: str) -> None:
        self.up = {name: f"tls://{name}" for name in names}
        self.called: list[tuple[str, str]] = []

    def nodes_up(self) -> dict[str, str]:
        return dict(self.up)

    async def run_on(
        self,
        nodes: Sequence[str],
        function: Callable[..., object],
        *args: object,
        timeout_s: float = 30.0,
    ) -> dict[str, object]:
        answers: dict[str, object] = {}
        for node in nodes:
            self.called.append((node, function.__name__))
            made = function(*args)
            assert isinstance(made, Awaitable)
            answer = await made
            answers[node] = {**answer, "node": node} if isinstance(answer, dict) else answer
        return answers

    def checked(self) -> list[str]:
        return [node for node, name in self.called if name == "check"]


@contextmanager
def storage_of(
    project: Path, nodes: SameHost, wanted: Wanted | None = None
) -> Iterator[ProjectStorage]:
    folder = project.with_name(f"{project.name}.scsched")
    made = ProjectStorage(project, folder, wanted or Wanted(), nodes, period_s=0.05, stall_s=0.4)
    try:
        yield made
    finally:
        made.close()


async def until(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.02)


def test_each_node_is_checked_before_its_first_work_and_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1", "n2")
        with storage_of(tmp_path / "p", nodes) as storage:
            assert (await storage.check(["n1", "n2", "n9"])).ok
            assert nodes.checked() == ["n1", "n2"]
            assert ("n1", "watch") in nodes.called
            assert (await storage.check(["n1", "n2"])).ok
            assert nodes.checked() == ["n1", "n2"]
            nodes.up["n1"] = "tls://n1-again"
            assert (await storage.check(["n1", "n2"])).ok
            assert nodes.checked() == ["n1", "n2", "n1"]
            await _unwatch(storage)

    asyncio.run(scenario())


def test_a_node_with_another_file_system_is_bad_and_asked_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1")
        with storage_of(tmp_path / "p", nodes) as storage:
            assert await storage.start() == ""
            token = (storage.folder / TOKEN).read_text()
            (storage.folder / TOKEN).write_text("another\n")
            verdict = await storage.check(["n1"])
            assert "another token" in verdict.bad["n1"]
            (storage.folder / TOKEN).write_text(token)
            assert (await storage.check(["n1"])).ok
            await _unwatch(storage)

    asyncio.run(scenario())


def test_a_storage_that_is_gone_is_to_blame_for_what_failed_on_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1", "n2")
        with storage_of(tmp_path / "p", nodes) as storage:
            assert (await storage.blame(["n1"])).ok, "nobody has worked there yet"
            assert (await storage.check(["n1", "n2"])).ok
            assert (await storage.blame(["n1", "n2", "n9"])).ok, "the program has failed by itself"
            (storage.folder / TOKEN).write_text("another\n")
            assert "another token" in (await storage.blame(["n2"])).bad["n2"]
            assert nodes.checked() == ["n1", "n2", "n1", "n2", "n2"]
            await _unwatch(storage)

    asyncio.run(scenario())


def test_a_storage_that_is_gone_for_all_is_no_nodes_fault(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1")
        with storage_of(tmp_path / "p", nodes) as storage:
            assert (await storage.check(["n1"])).ok
            storage.folder.rename(tmp_path / "gone")
            await until(lambda: storage.report().problem)
            verdict = await storage.blame(["n1"])
            assert not verdict.bad
            assert "No such file or directory" in verdict.held
            assert nodes.checked() == ["n1"]
            await _unwatch(storage)

    asyncio.run(scenario())


def test_a_slow_or_full_storage_is_no_excuse_for_a_program(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1")
        for wanted in (Wanted(floor_mib_per_s=1e9), Wanted(min_free_gib=1e9)):
            with storage_of(tmp_path / "p", nodes, wanted) as storage:
                await storage.start()
                assert not (await storage.check(["n1"])).ok
                assert (await storage.blame(["n1"])).ok
                await _unwatch(storage)

    asyncio.run(scenario())


def test_a_token_is_written_once_for_all_drivers_of_a_project(tmp_path: Path) -> None:
    async def scenario() -> None:
        with storage_of(tmp_path / "p", SameHost()) as first:
            assert first.folder == tmp_path / "p.scsched"
            assert await first.start() == ""
            token = (first.folder / TOKEN).read_text()
            left = first.folder / ".watch-n3"
            left.touch()
            os.utime(left, (0, 0))
        with storage_of(tmp_path / "p", SameHost()) as second:
            assert await second.start() == ""
            assert (second.folder / TOKEN).read_text() == token
            assert len(token.strip()) == 32
            assert not left.exists(), "what a dead node has left is swept"

    asyncio.run(scenario())


def test_a_full_storage_holds_new_work_and_asks_no_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1")
        with storage_of(tmp_path / "p", nodes, Wanted(min_free_gib=1e9)) as storage:
            await storage.start()
            await until(lambda: storage.report().problem)
            verdict = await storage.check(["n1"])
            assert "full: " in verdict.held
            assert nodes.called == []
            report = storage.report()
            assert "GiB free, 1e+09 wanted" in report.problem
            assert report.free
            assert report.free % (100 * 2**20) == 0

    asyncio.run(scenario())


def test_nodes_do_not_wait_for_a_storage_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_gate, "HELD_S", 0.3)
    monkeypatch.setattr(storage_gate, "POLL_S", 0.01)

    async def scenario() -> None:
        nodes = SameHost("n1")
        with storage_of(tmp_path / "p", nodes, Wanted(min_free_gib=1e9)) as storage:
            await storage.start()
            await until(lambda: storage.report().problem)
            scene = Scene(tmp_path, storage=storage)
            end = await scene.end()
            assert end.hint is Hint.NODE_LOST
            assert end.detail.startswith(f"waited 0 min: storage {storage.folder}: full: ")
            assert storage.report().problem.startswith("full: "), "which holds its step back"

    asyncio.run(scenario())


def test_a_stall_is_reported_counted_and_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        nodes = SameHost("n1")
        begin = time.monotonic()
        part = tmp_path / "p.scsched" / ".watch-driver.part"
        part.parent.mkdir()
        os.mkfifo(part)
        with storage_of(tmp_path / "p", nodes) as storage:
            await storage.start()
            await until(lambda: storage.report().problem.startswith("stalled since "))
            said = storage.report()
            assert storage.report() is said, "a beat that says the same is no news"
            stalled_s = storage.stalled_s(begin, ["n1"])
            assert 0.3 < stalled_s <= time.monotonic() - begin
            reader = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
            part.unlink()
            await until(lambda: storage.report().problem == "")
            os.close(reader)
            over = storage.stalled_s(begin, ["n1"])
            assert over >= stalled_s
            assert storage.stalled_s(time.monotonic(), ["n1"]) == 0.0
            assert storage.stalled_s(begin, ["n1"]) == over

    asyncio.run(scenario())


def test_what_nodes_announce_is_counted_for_their_runs_alone(tmp_path: Path) -> None:
    with storage_of(tmp_path / "p", SameHost("n1")) as storage:
        begin = time.monotonic() - 100.0
        storage.hear({"node": "n1", "word": "stalled", "for_s": 30.0, "detail": ""})
        storage.hear({"node": "n1", "word": "ok", "for_s": 0.0, "detail": ""})
        assert storage.stalled_s(begin, ["n1", "n2"]) == pytest.approx(30.0, abs=0.5)
        assert storage.stalled_s(begin, ["n2"]) == 0.0
        storage.hear({"node": "n2"})


def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "p.scsched").write_text("a file is in the way")
        with storage_of(tmp_path / "p", SameHost("n1")) as storage:
            verdict = await storage.check(["n1"])
            assert verdict.held.startswith(f"storage {storage.folder}: broken: ")
            await until(lambda: storage.report().problem.startswith("broken: "))

    asyncio.run(scenario())


def test_sizes_are_told_anew_only_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        filled(tmp_path / "p")
        with storage_of(tmp_path / "p", SameHost()) as storage:
            await storage.start()
            first = storage.report()
            assert storage.report() is first
            monkeypatch.setattr(driver_storage, "_NEWS_S", 0.0)
            await until(lambda: storage.report().free is not None)
            assert storage.report().total
            await until(lambda: storage.report().used_by_project is not None)

    asyncio.run(scenario())


async def _unwatch(storage: ProjectStorage) -> None:
    from scsched.cluster import storage_watch

    await storage_watch.unwatch(str(storage.folder))


# ---- the broker's part ------------------------------------------------------------------------


def told(workflow: int, user: str, used_gib: float | None, problem: str = "", **more: str) -> Told:
    used = None if used_gib is None else int(used_gib * GIB)
    report = StorageReport(
        path=more.get("path", "/shared"), problem=problem, used_by_project=used, free=3 * GIB
    )
    return Told(workflow_id=workflow, username=user, report=report, at=NOW)


def test_a_full_storage_is_told_with_who_uses_it() -> None:
    full = "full: 3.1 GiB free, 10 wanted"
    all_ = [
        told(44, "ann", 40.0, full),
        told(42, "ann", 21.0, full),
        told(17, "bob", 20.0, full),
        told(5, "eve", 900.0, path="/other"),
        told(6, "dan", None),
    ]
    found = holds(all_, NOW)
    assert sorted(found) == [17, 42, 44]
    assert found[42] == (
        "storage /shared: 3.1 GiB free, 10 wanted; by user: ann 61 GiB (42, 44), bob 20 GiB (17)"
    )
    assert [share.username for share in shares(all_, "/shared")] == ["ann", "bob"]


def test_a_stall_holds_and_says_since_when() -> None:
    stalled = "stalled since 12:03:20Z: it does not answer; look at the file server"
    found = holds([told(1, "ann", 2.0, stalled), told(2, "bob", 1.0)], NOW)
    assert found == {1: f"storage /shared: {stalled}"}


def test_an_old_report_holds_nothing_but_its_space_still_counts() -> None:
    full = "full: 3.1 GiB free, 10 wanted"
    late = NOW + FRESH + timedelta(seconds=1)
    assert holds([told(1, "ann", 2.0, full)], late) == {}
    assert shares([told(1, "ann", 2.0, full)], "/shared")[0].used == 2 * GIB


def test_the_broker_keeps_the_last_report_of_living_workflows() -> None:
    hold = StorageHold()
    full = told(1, "ann", 2.0, "full: 3.1 GiB free, 10 wanted").report
    hold.hear(1, "ann", full, NOW)
    hold.hear(2, "bob", full, NOW)
    hold.hear(2, "bob", None, NOW)
    unplaced = hold.unplaced(NOW)
    assert unplaced[1].reason is PendingReason.STORAGE
    assert "ann 2 GiB (1), bob 2 GiB (2)" in unplaced[1].detail
    hold.hear(1, "ann", full.model_copy(update={"problem": ""}), NOW)
    assert list(hold.unplaced(NOW)) == [2]
    hold.keep([2])
    assert "by user: bob 2 GiB (2)" in hold.unplaced(NOW)[2].detail
