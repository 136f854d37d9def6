"""How long executions take, by variant, pool and batch size: what profiles are held against.

Kept by ``observed``; the operator compares the medians with the profiles and has a variant measured again
that has drifted from its own. Two histograms for each, of which one is filled: the window is between one
and two of them long. The number of keys is bounded; what comes beyond it is not counted.
"""

from typing import Final, TypedDict

from isochrone.units import SECOND, Instant, Nanoseconds
from isochrone_gateway.histogram import bucket_of, quantile

HALF_NS: Final[Nanoseconds] = 150 * SECOND
KEYS_MAX: Final = 512
"""Variants × pools × batch sizes: some 60 KiB of a report."""
EXECUTIONS_MIN: Final = 100
"""Fewer are not told: their median is the median of one moment."""

Key = tuple[str, str, int]
"""Variant, pool, batch size."""


class ExecutionView(TypedDict):
    """What is told of one variant at one batch size on one pool."""

    variant: str
    pool: str
    batch_size: int
    executions: int
    p50_ns: Nanoseconds


class ExecutionTimes:
    """The windows of all keys."""

    __slots__ = ("_current", "_former", "_number")

    def __init__(self) -> None:
        self._number = -1
        self._current: dict[Key, dict[int, int]] = {}
        self._former: dict[Key, dict[int, int]] = {}

    def executed(self, key: Key, duration_ns: Nanoseconds, at: Instant) -> None:
        """Count one execution, which ended at ``at``."""
        self._turn(at)
        counts = self._current.get(key)
        if counts is None:
            if len(self._current) >= KEYS_MAX:
                return
            counts = self._current[key] = {}
        bucket = bucket_of(duration_ns)
        counts[bucket] = counts.get(bucket, 0) + 1

    def views(self, now: Instant) -> list[ExecutionView]:
        """Return the median of each key that has enough executions, by key."""
        self._turn(now)
        found: list[ExecutionView] = []
        for key in sorted({*self._current, *self._former}):
            counts = dict(self._former.get(key, {}))
            for bucket, count in self._current.get(key, {}).items():
                counts[bucket] = counts.get(bucket, 0) + count
            executions = sum(counts.values())
            median = quantile(counts, 500_000)
            if executions >= EXECUTIONS_MIN and median is not None:
                variant, pool, batch_size = key
                found.append(
                    {
                        "variant": variant,
                        "pool": pool,
                        "batch_size": batch_size,
                        "executions": executions,
                        "p50_ns": median,
                    }
                )
        return found

    def _turn(self, at: Instant) -> None:
        number = at // HALF_NS
        if number > self._number:
            self._former = self._current if number == self._number + 1 else {}
            self._current, self._number = {}, number
