"""When a median has been measured often enough, and how much noise there was. Pure.

Called by ``profile_worker``, which measures in turns, and by ``profile``. Runs that follow one another
are not independent (a host is fast for seconds, then slow), so that an interval over single runs would be
far too narrow. The medians of *turns* are nearly so: the interval of their median by order statistics
(David & Nagaraja, "Order Statistics", 3rd ed., section 7.1) needs no assumption about how times are
distributed. Its ends are the r-th smallest and the r-th largest of n turns, with the largest r for which
2·P(B < r) ≤ 5 %, B binomial (n, ½): of six turns the smallest and the largest.
"""

from collections.abc import Sequence
from math import comb
from typing import Final

from isochrone.units import ONE_PPM, Nanoseconds, PartsPerMillion

TURNS_MIN: Final = 6
"""The fewest for which a 95 % interval of a median exists: 2 · (½)⁶ = 3.1 %, and (½)⁴ is 6.3 %."""
CONFIDENCE_MISS: Final = 0.05


def spread_ppm(turn_medians: Sequence[Nanoseconds]) -> PartsPerMillion | None:
    """Return the width of the 95 % interval of the median, relative to it; None of too few turns."""
    count = len(turn_medians)
    if count < TURNS_MIN:
        return None
    ascending = sorted(turn_medians)
    rank = _rank(count)
    low, high = ascending[rank - 1], ascending[count - rank]
    return round((high - low) / ascending[count // 2] * ONE_PPM)


def _rank(count: int) -> int:
    """Return the largest r with 2·P(B < r) ≤ 5 %, B binomial (``count``, ½)."""
    rank, missed = 0, 0.0
    while True:
        missed += 2 * comb(count, rank) / 2**count
        if missed > CONFIDENCE_MISS:
            return rank
        rank += 1
