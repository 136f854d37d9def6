"""How much traffic a service is sized for: what it declares, or more where more keeps coming.

The rule, the same for declared loads and assumed ones: a service is sized for the larger of its own
load and what was learned. Learned upwards, in seconds, when the busiest second of the window lies more
than ``UP_PPM`` beyond that and the burst; downwards, never below its own load, when it lies under
``DOWN_PPM`` of it for ``shrink_after_ns``. Who has just turned does not turn again for ``TURN_NS``, or for
that where it is less: what is beyond the declared load is no promise, and to start and stop workers all
the time helps nobody. What is learned leaves ``HEADROOM`` and is rounded up to two digits, so that traffic
that trembles changes nothing. The planner makes workers of it, within budgets and pools. Called by
``intake``.
"""

from dataclasses import dataclass, replace
from math import ceil, floor, log10
from typing import Final

from isochrone.demand import Load
from isochrone.units import MINUTE, ONE_PPM, SECOND, Instant, Nanoseconds, PartsPerMillion
from isochrone_operator.reconcile.memory import Learned
from isochrone_operator.snapshot import ObservedService

UP_PPM: Final[PartsPerMillion] = 1_100_000
UP_AFTER_NS: Final[Nanoseconds] = 5 * SECOND
"""So that two reports say so, not one."""
DOWN_PPM: Final[PartsPerMillion] = 500_000
SHRINK_AFTER_NS: Final[Nanoseconds] = 15 * MINUTE
"""As long as the operator's setting where nobody changes it."""
TURN_NS: Final[Nanoseconds] = 10 * MINUTE
"""The least between two changes of direction, unless sizes are to be given up sooner than that."""
HEADROOM: Final = 1.25
ARRIVALS_MIN: Final = 50
"""Arrivals in the window below which its rates say too little."""
NOTHING_LEARNED: Final = Learned()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A load to plan for, what is to be remembered, and when to look again at the latest."""

    load: Load
    learned: Learned
    wake_at: Instant | None


def sized(
    own: Load,
    known: Learned,
    seen: ObservedService | None,
    now: Instant,
    shrink_after_ns: Nanoseconds = SHRINK_AFTER_NS,
) -> Sized:
    """Return what a service with the load ``own`` is sized for, after ``seen`` (None: no news).

    What was learned is given up when for ``shrink_after_ns`` less than half of it was needed.
    """
    rule = _Rule(own=own, shrink_after_ns=shrink_after_ns, now=now)
    learned = known if seen is None else rule.learn(known, seen)
    wakes = [
        max(since + after, rule.turns_at(learned, rising=rising))
        for since, after, rising in (
            (learned.above_since, UP_AFTER_NS, True),
            (learned.below_since, shrink_after_ns, False),
        )
        if since is not None
    ]
    return Sized(load=with_learned(own, learned), learned=learned, wake_at=min(wakes, default=None))


def with_learned(own: Load, learned: Learned) -> Load:
    """Return ``own``, or as much more as was learned, in the mix of sizes that was learned."""
    if learned.mix:
        own = replace(own, sizes=learned.mix)
    if learned.peak <= own.peak_rate_rps:
        return own
    return replace(
        own,
        peak_rate_rps=learned.peak,
        expected_rate_rps=min(learned.peak, max(own.expected_rate_rps, learned.expected)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """The rule for one service with the load ``own``, at one time."""

    own: Load
    shrink_after_ns: Nanoseconds
    now: Instant

    def learn(self, known: Learned, seen: ObservedService) -> Learned:
        size_rps = max(self.own.peak_rate_rps, known.peak)
        peak_rps = max(seen.peak_rate_rps, seen.rate_rps)
        enough = seen.arrivals >= ARRIVALS_MIN
        if enough and peak_rps * ONE_PPM > size_rps * UP_PPM + self.own.burst * ONE_PPM:
            since = self.now if known.above_since is None else known.above_since
            if self.now - since < UP_AFTER_NS or self._turns(known, rising=True):
                return replace(known, above_since=since, below_since=None)
            return _moved(seen, peak_rps, self.now, rising=True)
        if known.peak <= self.own.peak_rate_rps:
            return self._calm(known)
        if peak_rps * HEADROOM * ONE_PPM >= size_rps * DOWN_PPM:
            return replace(known, above_since=None, below_since=None)
        return self._shrunk(known, seen, peak_rps=peak_rps)

    def turns_at(self, known: Learned, *, rising: bool) -> Instant:
        """Return from when on ``known`` may move in this direction; 0 where it may at any time."""
        if known.moved_at is None or known.rising == rising:
            return 0
        return known.moved_at + self._turn_ns

    @property
    def _turn_ns(self) -> Nanoseconds:
        return min(TURN_NS, self.shrink_after_ns)

    def _shrunk(self, known: Learned, seen: ObservedService, *, peak_rps: float) -> Learned:
        since = self.now if known.below_since is None else known.below_since
        if self.now - since < self.shrink_after_ns or self._turns(known, rising=False):
            return replace(known, above_since=None, below_since=since)
        if _rounded(peak_rps * HEADROOM) <= self.own.peak_rate_rps:
            return Learned(moved_at=self.now)
        return _moved(seen, peak_rps, self.now, rising=False)

    def _turns(self, known: Learned, *, rising: bool) -> bool:
        """Whether to move now would be to turn too soon after the last move."""
        return self.now < self.turns_at(known, rising=rising)

    def _calm(self, known: Learned) -> Learned:
        """Return what is left to remember of a service that its own load suffices for."""
        if known.moved_at is None or self.now - known.moved_at >= self._turn_ns:
            return NOTHING_LEARNED
        return Learned(moved_at=known.moved_at, rising=known.rising)


def _moved(seen: ObservedService, peak_rps: float, now: Instant, *, rising: bool) -> Learned:
    return Learned(
        expected=_rounded(seen.rate_rps * HEADROOM),
        peak=_rounded(peak_rps * HEADROOM),
        moved_at=now,
        rising=rising,
    )


def _rounded(rate_rps: float) -> float:
    """Return ``rate_rps`` rounded up to two digits; less than one request a minute is none."""
    if rate_rps < 1 / 60:
        return 0.0
    step = 10.0 ** (floor(log10(rate_rps)) - 1)
    return round(ceil(rate_rps / step - 1e-9) * step, 9)
