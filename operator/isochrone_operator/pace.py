"""How fast and how often: a bucket of tokens for writes, and growing waits after failures.

Called by ``apply`` and the agent. Time is the caller's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from isochrone.units import SECOND, Nanoseconds

BACKOFF_FIRST_NS: Final = SECOND
BACKOFF_MAX_NS: Final = 60 * SECOND
K = TypeVar("K", bound=Hashable)


@dataclass(slots=True, kw_only=True)
class Bucket:
    """Lets ``rate`` through per second, and ``burst`` at once after a rest."""

    rate: float
    burst: float
    clock: Callable[[], Nanoseconds]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _tokens: float = 0.0
    _at_ns: Nanoseconds | None = None

    async def take(self) -> None:
        """Wait for one token. Those who wait get theirs in the order in which they came."""
        now_ns = self.clock()
        if self._at_ns is None:
            self._tokens = self.burst
        else:
            grown = (now_ns - self._at_ns) / SECOND * self.rate
            self._tokens = min(self.burst, self._tokens + grown)
        self._at_ns = now_ns
        # A token may be taken before it is there; whoever took it waits until it would be.
        self._tokens -= 1.0
        if self._tokens < 0:
            await self.sleep(-self._tokens / self.rate)


@dataclass(frozen=True, slots=True)
class _Failure:
    count: int
    not_before_ns: Nanoseconds


@dataclass(slots=True, kw_only=True)
class Backoffs(Generic[K]):
    """For each key that failed, when it may be tried again: 1 s, 2 s, 4 s, … at most a minute.

    Holds as many keys as fail; ``keep`` drops those that are no longer wanted.
    """

    clock: Callable[[], Nanoseconds]
    _failures: dict[K, _Failure] = field(default_factory=dict)

    def ready(self, key: K) -> bool:
        """Return whether ``key`` may be tried now."""
        failure = self._failures.get(key)
        return failure is None or failure.not_before_ns <= self.clock()

    def failed(self, key: K, *, at_least_s: float = 0.0) -> int:
        """Note a failure of ``key``; return how many there were in a row."""
        count = 1 if key not in self._failures else self._failures[key].count + 1
        wait_ns = min(BACKOFF_FIRST_NS << min(count - 1, 10), BACKOFF_MAX_NS)
        wait_ns = max(wait_ns, min(int(at_least_s * SECOND), BACKOFF_MAX_NS))
        self._failures[key] = _Failure(count, self.clock() + wait_ns)
        return count

    def succeeded(self, key: K) -> None:
        """Forget the failures of ``key``."""
        self._failures.pop(key, None)

    def keep(self, wanted: set[K]) -> None:
        """Forget every key that is not ``wanted``."""
        self._failures = {key: it for key, it in self._failures.items() if key in wanted}

    def __len__(self) -> int:
        return len(self._failures)

    @property
    def next_ns(self) -> Nanoseconds | None:
        """When the first of the failed keys may be tried again."""
        return min((it.not_before_ns for it in self._failures.values()), default=None)
