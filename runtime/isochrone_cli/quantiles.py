"""Percentiles and bounds by the definitions that every printed figure follows.

Called by ``report`` and by ``bench``. Percentiles are exact over all samples, and absent where there
are too few of them; rates of rare events come with an upper 95 % bound.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, sqrt
from statistics import median
from typing import Final

SAMPLES_BEYOND: Final = 10
"""A percentile p needs this many samples beyond it: at least 10/(1−p) in all."""

_Z_95_ONE_SIDED: Final = 1.6448536269514722


def samples_needed(percentile: str) -> int:
    """Return how many samples ``percentile`` (such as "99.9") needs: 10/(1−p)."""
    return ceil(SAMPLES_BEYOND / (1 - Fraction(percentile) / 100))


def exact_percentile(ascending: Sequence[int], percentile: str) -> int | None:
    """Return the nearest-rank ``percentile`` (such as "99.9") of ``ascending`` samples.

    None where there are fewer than 10/(1−p) samples.
    """
    if len(ascending) < samples_needed(percentile):
        return None
    return ascending[ceil(Fraction(percentile) / 100 * len(ascending)) - 1]


def percentiles(
    samples: Iterable[int], which: Sequence[str] = ("50", "99", "99.9")
) -> dict[str, int | None]:
    """Return the percentiles ``which`` of ``samples``, under the names "p50", "p99", …."""
    ascending = sorted(samples)
    return {f"p{name}": exact_percentile(ascending, name) for name in which}


def upper_bound(events: int, samples: int) -> float | None:
    """Return the one-sided upper 95 % bound of the rate of ``events`` among ``samples``.

    Wilson's score interval (Journal of the American Statistical Association 22, 1927), which holds
    for zero events, too. None without samples.
    """
    if samples == 0:
        return None
    z2 = _Z_95_ONE_SIDED**2
    rate = events / samples
    center = rate + z2 / (2 * samples)
    spread = _Z_95_ONE_SIDED * sqrt(rate * (1 - rate) / samples + z2 / (4 * samples**2))
    return min(1.0, (center + spread) / (1 + z2 / samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure over interleaved runs: the median and the range, and of how many runs."""

    median: float
    least: float
    most: float
    runs: int


def figure(values: Iterable[float | None]) -> Figure | None:
    """Return the figure of ``values``, leaving out runs that have none; None when no run has one."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Figure(median=median(known), least=min(known), most=max(known), runs=len(known))
