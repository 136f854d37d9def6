"""What was asked for and could not be had: unmet demand for lane time, by variant, in order.

One ``Demand`` per group whose variants do not all fit into its workers. Told by ``arrival`` of each
refusal that another copy in memory would have helped; asked by ``residency`` what to load next.

A figure is lane time (profile nanoseconds) that was refused, halved every ``half_life_ns``. All
figures shrink alike, so their order changes only when one of them grows: each is kept as what it
would have been worth at one common epoch, and a heap of those never has to be touched by the
passing of time. Nothing here looks at the variants that nobody asks for.
"""

from heapq import heapify, heappop, heappush
from math import exp2

from isochrone.ids import VariantId
from isochrone.units import MICROSECOND, Instant, Nanoseconds

REBASE_HALF_LIVES = 512
"""After so many the epoch is moved: a double ends at 2 to the 1023."""
STALE_MAX = 64
"""Outdated entries that the heap may hold beside as many as there are figures."""
FORGET_BELOW_NS: Nanoseconds = 1 * MICROSECOND
"""A figure that has shrunk to less is no demand any more."""


class Demand:
    """Unmet demand of one group. Telling it, and asking for the greatest, take O(log n)."""

    __slots__ = ("_epoch", "_half_life_ns", "_heap", "_scores")

    def __init__(self, half_life_ns: Nanoseconds) -> None:
        self._half_life_ns = half_life_ns
        self._epoch: Instant = 0
        self._scores: dict[VariantId, float] = {}
        """Figures as of the epoch; only variants that have one."""
        self._heap: list[tuple[float, VariantId]] = []
        """(-score, variant); an entry whose score is not the variant's is outdated."""

    def note(self, variant: VariantId, lane_ns: Nanoseconds, now: Instant) -> None:
        """Count ``lane_ns`` of ``variant`` that was refused at ``now``."""
        self._keep_epoch(now)
        score = self._scores.get(variant, 0.0) + lane_ns / self._remaining(now)
        self._scores[variant] = score
        heappush(self._heap, (-score, variant))
        self._tidy()

    def forget(self, variant: VariantId) -> None:
        """Take the demand for ``variant`` as met: it is being loaded."""
        self._scores.pop(variant, None)
        self._tidy()

    def clear(self) -> None:
        """Forget everything: the plan is another one."""
        self._scores.clear()
        self._heap.clear()

    def figure_ns(self, variant: VariantId, now: Instant) -> float:
        """Return the unmet demand for ``variant`` at ``now``."""
        return self._scores.get(variant, 0.0) * self._remaining(now)

    def greatest(self, count: int, now: Instant) -> list[VariantId]:
        """Return up to ``count`` variants, the most wanted first, equals by id."""
        self._keep_epoch(now)
        taken: list[tuple[float, VariantId]] = []
        floor = FORGET_BELOW_NS / self._remaining(now)
        heap = self._heap
        while heap and len(taken) < count:
            if -heap[0][0] < floor:
                # All that follow are smaller still.
                if not taken:
                    self.clear()
                break
            entry = heappop(heap)
            # Of two equal entries (forgotten, and asked for again) one is enough.
            if self._scores.get(entry[1]) == -entry[0] and entry not in taken:
                taken.append(entry)
        for entry in taken:
            heappush(heap, entry)
        return [variant for _, variant in taken]

    def check(self) -> None:
        """Assert that every figure is positive and stands in the heap."""
        entries = set(self._heap)
        for variant, score in self._scores.items():
            assert score > 0, variant
            assert (-score, variant) in entries, variant
        assert len(self._heap) <= 2 * len(self._scores) + STALE_MAX

    def __len__(self) -> int:
        """How many variants have a figure."""
        return len(self._scores)

    def _remaining(self, now: Instant) -> float:
        return exp2((self._epoch - now) / self._half_life_ns)

    def _keep_epoch(self, now: Instant) -> None:
        """Move the epoch to ``now`` when it is so old that figures leave the range of a double."""
        if now - self._epoch <= REBASE_HALF_LIVES * self._half_life_ns:
            return
        remaining = self._remaining(now)
        self._epoch = now
        rebased = {variant: score * remaining for variant, score in self._scores.items()}
        self._scores = {
            variant: score for variant, score in rebased.items() if score >= FORGET_BELOW_NS
        }
        self._reorder()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._scores) + STALE_MAX:
            self._reorder()

    def _reorder(self) -> None:
        self._heap = [(-score, variant) for variant, score in self._scores.items()]
        heapify(self._heap)
