"""How much of what could go wrong did: a harness that reaches nothing proves nothing."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from scsched.steps.state import EndReason
from tests.faults.kill.journal import Entry, Kind
from tests.faults.kill.record import Record, executions


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How much of what could go wrong was there to go wrong."""

    kills: int
    """Of brokers and drivers."""
    driver_kills: int
    driver_kills_at_work: int
    driver_kills_waiting: int
    """While a step of it waited for nodes."""
    driver_kills_at_start: int
    """Before it was given anything to do."""
    kills_of_both: int
    """A driver before the next broker was started."""
    broker_kills: int
    kills_at_work: int
    """While a step was executed."""
    kills_in_recovery: int
    """Before the broker's first tick was over."""
    kills_in_first_tick: int
    kills_in_launch: int
    """Between the call of the provider and its answer."""
    busy_starts: int
    acked: int
    steps: int
    runs: int
    cut_submissions: int
    second_attempts: int
    """Steps with more than one."""
    adopted: int
    """Runs that completed and were at work when a broker was killed."""
    reasons: dict[str, int]
    nodes: int
    strangers: int
    """Nodes made that nobody has on record; all of them were ended."""
    launch_answers: dict[str, int]
    launches_repeated: int
    requeues: int
    drivers: int
    driver_deaths: int
    """By its own doing."""
    fenced: int
    kill_s: float
    drain_s: float


def reach(record: Record) -> Reach:
    planted = {entry.token for entry in record.entries(Kind.PLANTED)}
    count = Counter(entry.kind for entry in record.journal)
    kills = record.entries(Kind.KILLED)
    ticks = {(entry.pid, entry.run) for entry in record.entries(Kind.TICK)}
    early = [entry for entry in kills if (entry.pid, 2) not in ticks]
    calls = Counter(entry.token for entry in record.entries(Kind.LAUNCH))
    at_work = _executions_at_kills(record)
    completed = {run.id for run in record.runs if run.end_reason is EndReason.COMPLETED}
    slain = [entry for entry in record.entries(Kind.DIES) if entry.word]
    return Reach(
        kills=len(kills) + len(slain),
        driver_kills=len(slain),
        **_driver_kills(record.journal),
        kills_of_both=sum(entry.word == "both" for entry in slain),
        broker_kills=len(kills),
        kills_at_work=sum(bool(runs) for runs in at_work),
        kills_in_recovery=len(early),
        kills_in_first_tick=sum((entry.pid, 1) in ticks for entry in early),
        kills_in_launch=_kills_in_launch(record.journal),
        busy_starts=count[Kind.BUSY],
        acked=count[Kind.ACKED],
        steps=len(record.steps),
        runs=len(record.runs),
        cut_submissions=count[Kind.CUT],
        second_attempts=sum(step.attempts > 1 for step in record.steps),
        adopted=len(set().union(*at_work) & completed),
        reasons=dict(Counter(str(run.end_reason) for run in record.runs)),
        nodes=len(record.outside),
        strangers=sum(node.token in planted for node in record.outside),
        launch_answers=dict(Counter(entry.word for entry in record.entries(Kind.ANSWER))),
        launches_repeated=sum(times > 1 for times in calls.values()),
        requeues=count[Kind.ASKED_AGAIN],
        drivers=count[Kind.DRIVER],
        driver_deaths=count[Kind.DIES] - len(slain),
        fenced=count[Kind.FENCED],
        kill_s=round(record.outcome.kill_s, 1),
        drain_s=round(record.outcome.drain_s, 1),
    )


def _executions_at_kills(record: Record) -> list[set[int]]:
    return [set(going) for entry, going in executions(record.journal) if entry.kind is Kind.KILLED]


def _kills_in_launch(journal: Iterable[Entry]) -> int:
    calling: set[int] = set()
    hits = 0
    for entry in journal:
        if entry.kind is Kind.LAUNCH:
            calling.add(entry.pid)
        elif entry.kind is Kind.ANSWER:
            calling.discard(entry.pid)
        elif entry.kind is Kind.KILLED:
            hits += entry.pid in calling
    return hits


def _driver_kills(journal: Iterable[Entry]) -> dict[str, int]:
    """What they were at."""
    at: dict[int, dict[int, Kind]] = {}
    found = Counter(driver_kills_at_work=0, driver_kills_waiting=0, driver_kills_at_start=0)
    for entry in journal:
        mine = at.setdefault(entry.pid, {})
        if entry.kind is Kind.DRIVER:
            at[entry.pid] = {}
        elif entry.kind in (Kind.WAITS, Kind.BEGIN, Kind.END):
            mine[entry.run] = entry.kind
        elif entry.kind is Kind.DIES and entry.word:
            found["driver_kills_at_work"] += Kind.BEGIN in mine.values()
            found["driver_kills_waiting"] += Kind.WAITS in mine.values()
            found["driver_kills_at_start"] += not mine
    return dict(found)
