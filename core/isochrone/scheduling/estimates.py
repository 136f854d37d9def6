"""How fast a worker is now, and how wrong that estimate tends to be.

One ``SpeedEstimate`` per worker, over all its models: a host that slows down slows them all at
once. Fed by ``lanes`` with each completion; read by admission and dispatch.

The estimate of an execution is profile median × ``factor``; the margin over several executions is
z·σ·√(Σ t² + v·(Σ t)²). The first sum is n·t² for n equal ones, whose errors are their own; the
second is the error of the factor, which they share: without it a long backlog is admitted whenever
the factor happens to be too low, and is late as a whole. z lies between two bounds: as many σ as the
largest error of late. The factor rises after two slow completions of
three, and falls after five fast ones of nine. σ is an upper semi-deviation: only executions slower
than predicted make anybody late.
"""

from collections import deque
from math import exp2, pi, sqrt

from isochrone.scheduling.settings import Settings
from isochrone.units import Instant

SHORT_WINDOW = 3
LONG_WINDOW = 9
FACTOR_VARIANCE = pi / 2 / LONG_WINDOW
"""Variance of the median of so many, over that of one of them (asymptotic, for normal errors)."""
NORMAL_P99 = 2.326
"""The 99 % quantile of the normal distribution, in standard deviations."""


def seed_sigma(p50_ns: int, p99_ns: int) -> float:
    """Return the relative deviation that a profile's median and p99 imply, if errors are normal."""
    return max(0.0, p99_ns / p50_ns - 1) / NORMAL_P99


class SpeedEstimate:
    """Speed factor (observed time over profile median) and its relative error, of one worker."""

    __slots__ = (
        "_margin",
        "_peak",
        "_ratios",
        "_seed_square",
        "_settings",
        "_squares",
        "_squares_sum",
        "factor",
        "idle_since",
        "sigma",
    )

    def __init__(self, settings: Settings, *, sigma: float, now: Instant) -> None:
        """Begin at the profile: factor 1, error ``sigma``."""
        self._settings = settings
        # E[max(r, 0)²] is half the variance of a symmetric r: hence the halves here and in _refresh.
        self._seed_square = sigma * sigma / 2
        self._ratios = [1.0] * SHORT_WINDOW
        """The last ones, at most ``LONG_WINDOW``: so few that a list beats a deque."""
        self._squares: deque[float] = deque([self._seed_square] * settings.residual_seed)
        self._squares_sum = sum(self._squares)
        self._peak = settings.margin_z_min * sigma
        """The largest error of late, fading with each completion."""
        self._margin = self._peak
        self.factor = 1.0
        self.sigma = sigma
        self.idle_since: Instant | None = now
        """Since when the worker has had nothing to run; None while it has."""
        self._refresh()

    def factor_at(self, now: Instant) -> float:
        """Return the speed factor, on its way back to 1 when the worker has been idle."""
        if self.idle_since is None or self.factor == 1.0:
            return self.factor
        return 1.0 + (self.factor - 1.0) * self._remaining(now, self.idle_since)

    def sigma_at(self, now: Instant) -> float:
        """Return the relative error, on its way back to the seed when the worker has been idle."""
        if self.idle_since is None:
            return self.sigma
        seed = sqrt(2 * self._seed_square)
        return seed + (self.sigma - seed) * self._remaining(now, self.idle_since)

    def margin_at(self, now: Instant) -> float:
        """Return z·σ: what one execution may take longer than predicted, relative to that."""
        if self.idle_since is None:
            return self._margin
        settings = self._settings
        seed = min(settings.margin_z, settings.margin_z_min) * sqrt(2 * self._seed_square)
        return seed + (self._margin - seed) * self._remaining(now, self.idle_since)

    def begin_work(self, now: Instant) -> None:
        """Note that the worker has something to run: what idleness has forgotten stays forgotten."""
        if self.idle_since is None:
            return
        remaining = self._remaining(now, self.idle_since)
        self.idle_since = None
        # Too short a pause to matter is not worth the arithmetic.
        if remaining < 1 - 1 / 64:
            for index, ratio in enumerate(self._ratios):
                self._ratios[index] = 1.0 + (ratio - 1.0) * remaining
            seed = self._seed_square
            for index, square in enumerate(self._squares):
                self._squares[index] = seed + (square - seed) * remaining
            self._squares_sum = sum(self._squares)
            seed_peak = self._settings.margin_z_min * sqrt(2 * seed)
            self._peak = seed_peak + (self._peak - seed_peak) * remaining
            self._refresh()

    def end_work(self, now: Instant) -> None:
        """Note that the worker has nothing left to run."""
        self.idle_since = now

    def observe(self, ratio: float, *, predicted: float) -> None:
        """Learn from a completion that took ``ratio`` medians where ``predicted`` was expected."""
        error = min(max(ratio / predicted - 1.0, 0.0), self._settings.residual_max)
        square = error * error
        self._peak = max(error, self._peak * (1 - 1 / self._settings.peak_memory))
        self._ratios.append(ratio)
        if len(self._ratios) > LONG_WINDOW:
            del self._ratios[0]
        self._squares.append(square)
        self._squares_sum += square
        if len(self._squares) > self._settings.residual_window:
            self._squares_sum -= self._squares.popleft()
        self._refresh()

    def _refresh(self) -> None:
        ratios = self._ratios
        ordered = sorted(ratios)
        recent = sorted(ratios[-SHORT_WINDOW:])
        long_median, short_median = ordered[len(ordered) // 2], recent[SHORT_WINDOW // 2]
        self.factor = max(long_median, short_median)
        # Rounding may leave a running sum a hair below zero.
        total = self._squares_sum
        self.sigma = sqrt(2 * total / len(self._squares)) if total > 0 else 0.0
        most = self._settings.margin_z * self.sigma
        least = min(most, self._settings.margin_z_min * self.sigma)
        self._margin = min(most, max(least, self._peak))

    def _remaining(self, now: Instant, since: Instant) -> float:
        return exp2((since - now) / self._settings.half_life_ns)
