"""What the journal has told so far: the moments that the killer waits for are read off it."""

from dataclasses import dataclass, field
from pathlib import Path

from scsched.cluster import processes
from scsched.cluster.processes import Process
from tests.faults.kill.journal import Entry, Kind, Tail


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver, as it was when it began."""

    process: Process
    workflow: int


@dataclass(slots=True)
class Watch:
    """Up to the last `look`."""

    path: Path
    ticking: set[int] = field(default_factory=set)
    """Brokers that have begun to tick, by pid, as all here."""
    ticked: set[int] = field(default_factory=set)
    """Those whose first tick is over."""
    busy: set[int] = field(default_factory=set)
    """Those that found the lock held."""
    launches: dict[int, int] = field(default_factory=dict)
    """How often each has called the provider."""
    at_work: dict[int, int] = field(default_factory=dict)
    """The driver of each run that is executed."""
    waiting: dict[int, int] = field(default_factory=dict)
    """The driver of each run whose nodes are not all there."""
    drivers: dict[int, Driver] = field(default_factory=dict)
    """Those that have begun, and have not died before our eyes."""
    begun: int = 0
    """How many drivers there were."""
    _tail: Tail = field(init=False)

    def __post_init__(self) -> None:
        self._tail = Tail(self.path)

    def look(self) -> None:
        for entry in self._tail:
            self._hear(entry)

    def newest(self) -> list[int]:
        """The drivers, the last that has begun first."""
        return list(reversed(self.drivers))

    def _hear(self, entry: Entry) -> None:
        match entry.kind:
            case Kind.TICK:
                (self.ticking if entry.run == 1 else self.ticked).add(entry.pid)
            case Kind.LAUNCH:
                self.launches[entry.pid] = self.launches.get(entry.pid, 0) + 1
            case Kind.BUSY:
                self.busy.add(entry.pid)
            case Kind.DRIVER:
                self._has_begun(entry)
            case Kind.WAITS:
                self.waiting[entry.run] = entry.pid
            case Kind.BEGIN:
                self.waiting.pop(entry.run, None)
                self.at_work[entry.run] = entry.pid
            case Kind.END:
                self.waiting.pop(entry.run, None)
                self.at_work.pop(entry.run, None)
            case Kind.DIES:
                self._is_dead(entry.pid)

    def _has_begun(self, entry: Entry) -> None:
        self.begun += 1
        process = processes.identify(entry.pid)
        if process is not None:
            self.drivers.pop(entry.pid, None)
            self.drivers[entry.pid] = Driver(process, entry.workflow)

    def _is_dead(self, pid: int) -> None:
        self.drivers.pop(pid, None)
        self.at_work = {run: of for run, of in self.at_work.items() if of != pid}
        self.waiting = {run: of for run, of in self.waiting.items() if of != pid}
