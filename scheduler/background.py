"""A remote provider whose calls run in threads, behind the same contract: no call of it blocks.

    launch      each gang is asked for by one thread; until its answer is there: InProgress
    list        the newest listing that the watching thread has taken
    notices     likewise
    prices      likewise, taken every few minutes
    terminate   handed to a thread; the caller repeats it until it sees the nodes gone

Nothing here need survive: tokens make every call safe to repeat by the next broker.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from scsched.cluster.pools import Pool
from scsched.cluster.provider import (
    InProgress,
    Launched,
    LaunchRequest,
    Notice,
    Price,
    Provider,
    ProviderError,
    Refused,
    Seen,
    Traits,
    Unreachable,
    gang_of,
)
from scsched.scheduler.limiter import Caller, Limiter
from scsched.scheduler.watcher import Every, Listing, Watcher

log = logging.getLogger("scsched.background")
Answer = Launched | Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many calls there may be, and how long what is remembered of them."""

    rate_per_s: float = 5.0
    burst: int = 20
    launchers: int = 4
    abandon_s: float = 15.0
    """A launch that nobody has asked for again by then is not begun."""
    forget_s: float = 600.0
    """Nor is an answer kept for longer that nobody asks for."""
    again_s: float = 10.0
    """Pause between two terminations of the same node."""


@dataclass(slots=True)
class _Call:
    """A launch of one gang."""

    requests: Sequence[LaunchRequest]
    asked_at: float
    answers: dict[str, Answer] | None = None


class Background:
    """A `Provider` for the thread that ticks. Threads start with the first call."""

    def __init__(
        self,
        provider: Provider,
        wake: Callable[[], None] = lambda: None,
        *,
        pace: Pace | None = None,
        every: Every | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """:param wake: called when there is news worth a tick."""
        self._provider = provider
        self._wake = wake
        self._pace = pace or Pace()
        self._clock = clock
        self._caller = Caller(Limiter(self._pace.rate_per_s, self._pace.burst, clock))
        self._watcher = Watcher(provider, self._caller, wake, every or Every(), clock)
        self._calls: dict[str, _Call] = {}
        """By gang."""
        self._ending: dict[str, float] = {}
        """Until when a token is not terminated again."""
        self._lock = threading.Lock()
        self._launches: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[list[str] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def traits(self) -> Traits:
        return self._provider.traits

    @property
    def number(self) -> int:
        """Of the newest listing: two censuses with the same number are one listing."""
        return self._watcher.listing.number

    @property
    def news(self) -> int:
        """How often there was news of nodes or notices; each time a tick is woken for it."""
        return self._watcher.listing.news

    @property
    def taken_at(self) -> datetime | None:
        """When the newest listing was taken; None: there is none yet."""
        return self._watcher.listing.taken_at

    def launch(self, requests: Sequence[LaunchRequest]) -> Sequence[Answer]:
        """See `Provider.launch`. An answer is given once; whoever asks again after it, asks the
        provider again."""
        self._start()
        gangs: dict[str, list[LaunchRequest]] = {}
        for request in requests:
            gangs.setdefault(gang_of(request.token), []).append(request)
        found = {
            answer.token: answer
            for gang, members in gangs.items()
            for answer in self._asked(gang, members)
        }
        return [found[request.token] for request in requests]

    def under_way(self, token: str) -> bool:
        """Whether its launch may still happen."""
        call = self._calls.get(gang_of(token))
        return call is not None and call.answers is None

    def listing(self) -> Listing:
        """The newest list and notices, of one moment.

        :raises InProgress: the first one is awaited.
        :raises Unreachable: there is none, or it is too old.
        """
        self._start()
        return self._watcher.fresh_enough()

    def list(self) -> Sequence[Seen]:
        """See `Provider.list`."""
        return self.listing().seen

    def notices(self) -> Sequence[Notice]:
        """See `Provider.notices`."""
        return self.listing().notices

    def prices(self, pools: Sequence[Pool], since: datetime) -> Sequence[Price]:
        """See `Provider.prices`."""
        self._start()
        return self._watcher.prices(pools, since)

    def fresh(self) -> Sequence[Seen]:
        """The provider's list as it is now; blocks.

        :raises ProviderError: nothing can be said about any node.
        """
        return self._caller.call(self._provider.list)

    def end(self, tokens: Sequence[str]) -> None:
        """As `terminate`, but blocks.

        :raises ProviderError: any of them may still run.
        """
        self._caller.call(lambda: self._provider.terminate(tokens))
        self._watcher.poke()

    def terminate(self, tokens: Sequence[str]) -> None:
        """See `Provider.terminate`; an error is logged, and healed by the repetition."""
        self._start()
        with self._lock:
            now = self._clock()
            self._ending = {token: at for token, at in self._ending.items() if at > now}
            new = [token for token in tokens if token not in self._ending]
            self._ending.update(dict.fromkeys(new, float("inf")))
        if new:
            self._ends.put(new)

    def close(self) -> None:
        """Stop the threads, as soon as the calls that are under way have ended."""
        self._caller.closed.set()
        self._watcher.poke()
        for _ in range(self._pace.launchers):
            self._launches.put(None)
        self._ends.put(None)
        for thread in self._threads:
            thread.join(timeout=10.0)

    def _start(self) -> None:
        with self._lock:
            if self._threads or self._caller.closed.is_set():
                return
            work = [self._watcher.run, self._end, *[self._launch] * self._pace.launchers]
            self._threads = [threading.Thread(target=one, daemon=True) for one in work]
        for thread in self._threads:
            thread.start()

    def _asked(self, gang: str, members: Sequence[LaunchRequest]) -> Iterable[Answer]:
        with self._lock:
            self._forget()
            call = self._calls.get(gang)
            if call is not None and call.answers is not None:
                del self._calls[gang]
                given = call.answers
                return [given.get(one.token) or _in_progress(one) for one in members]
            if call is None:
                self._calls[gang] = _Call(tuple(members), self._clock())
                self._launches.put(gang)
            else:
                call.asked_at = self._clock()
        return [_in_progress(one) for one in members]

    def _forget(self) -> None:
        """Answers that nobody has come for: the nodes are in the listings."""
        since = self._clock() - self._pace.forget_s
        for gang, call in list(self._calls.items()):
            if call.answers is not None and call.asked_at < since:
                del self._calls[gang]

    def _launch(self) -> None:
        while (gang := self._launches.get()) is not None:
            self._launch_one(gang)

    def _launch_one(self, gang: str) -> None:
        """One gang, once there is a call to spare; not if nobody waits for it any more."""
        self._caller.wait()
        with self._lock:
            call = self._calls[gang]
            late = self._clock() - call.asked_at > self._pace.abandon_s
            if late or self._caller.closed.is_set():
                del self._calls[gang]
                return
        answers = {answer.token: answer for answer in self._answers(call.requests)}
        with self._lock:
            call.answers = answers
        self._watcher.poke()
        self._wake()

    def _answers(self, requests: Sequence[LaunchRequest]) -> Sequence[Answer]:
        try:
            answers = self._provider.launch(requests)
        except Exception as exc:
            log.exception("launch of %s", requests[0].token)
            error = exc if isinstance(exc, ProviderError) else Unreachable(f"launch: {exc!r}")
            answers = [Refused(request.token, error) for request in requests]
        errors = [answer.error for answer in answers if isinstance(answer, Refused)]
        self._caller.heard(errors[0] if errors else None)
        return answers

    def _end(self) -> None:
        while (tokens := self._ends.get()) is not None:
            self._end_these(tokens)

    def _end_these(self, tokens: Sequence[str]) -> None:
        until = self._clock()
        try:
            self._caller.call(lambda: self._provider.terminate(tokens))
            until = self._clock() + self._pace.again_s
        except ProviderError as exc:
            log.warning("terminate %s: %s; to be repeated", ", ".join(tokens), exc)
        with self._lock:
            self._ending.update(dict.fromkeys(tokens, until))
        self._watcher.poke()


def _in_progress(request: LaunchRequest) -> Refused:
    return Refused(request.token, InProgress(f"{request.token}: its launch is under way"))
