"""How often a provider is called: one budget for all threads, and pauses when it wants them.

A cloud answers "too many requests" to an account, not to a thread, so all calls share one token
bucket and one pause. https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from scsched.cluster.provider import ProviderError, Throttled, Unreachable

log = logging.getLogger("scsched.limiter")
T = TypeVar("T")

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 60.0


def pause_s(failures: int, *, at_least_s: float = 0.0, jitter: float = 1.0) -> float:
    """After so many failures in a row: doubled with each, up to a minute.

    :param jitter: 0 to 1; takes away up to half of it, so that not all come back at once.
    """
    grown = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 16), MAX_PAUSE_S)
    return max(at_least_s, grown * (0.5 + jitter / 2))


class Limiter:
    """A token bucket with a pause after failures. Threads may share it."""

    def __init__(
        self,
        rate_per_s: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._filled_at = clock()
        self._paused_until = clock()
        self._failures = 0
        self._lock = threading.Lock()

    def take(self) -> float:
        """0: call now, one call is taken. Else nothing is taken: ask again after so many
        seconds."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until:
                return self._paused_until - now
            filled = self._left + (now - self._filled_at) * self._rate_per_s
            self._left, self._filled_at = min(float(self._burst), filled), now
            if self._left < 1.0:
                return (1.0 - self._left) / self._rate_per_s
            self._left -= 1.0
            return 0.0

    def heard(self, error: ProviderError | None) -> None:
        """How a call ended: after "too many" and after silence all calls pause."""
        with self._lock:
            if not isinstance(error, Throttled | Unreachable):
                self._failures = 0
                return
            self._failures += 1
            at_least_s = error.retry_after_s if isinstance(error, Throttled) else 0.0
            jitter = random.random()  # noqa: S311 - spreads calls, keeps no secret
            wanted_s = pause_s(self._failures, at_least_s=at_least_s, jitter=jitter)
            self._paused_until = max(self._paused_until, self._clock() + wanted_s)


class Caller:
    """Calls a provider from any thread, as often as the limiter lets it."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self.closed = threading.Event()
        """Nobody waits for his turn any more."""

    def call(self, function: Callable[[], T]) -> T:
        """:raises ProviderError: as the call; Unreachable whatever else went wrong in it."""
        self.wait()
        try:
            answer = function()
        except ProviderError as exc:
            self.heard(exc)
            raise
        except Exception as exc:
            log.exception("a call of the provider")
            error = Unreachable(f"the provider failed: {exc!r}")
            self.heard(error)
            raise error from exc
        self.heard(None)
        return answer

    def wait(self) -> None:
        """Until there is a call to spare, or we are closed."""
        while (seconds := self._limiter.take()) > 0 and not self.closed.wait(seconds):
            pass

    def heard(self, error: ProviderError | None) -> None:
        self._limiter.heard(error)
