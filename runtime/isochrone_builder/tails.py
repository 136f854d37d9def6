"""Turns samples of execution time into the quantiles of a profile, borrowing tails. Pure.

Called by ``profile``. A quantile p is exact over its own samples where there are at least
10/(1 − p) of them. Cells that ran less often take median × the pool's tail ratio: the same quantile
of (time ÷ its own cell's median) over all samples of all variants on the pool. The tail of a CPU is
the host's (interrupts, neighbors, changes of speed) more than the model's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.catalog import BatchProfile
from isochrone.units import ONE_PPM, Nanoseconds, PartsPerMillion

P50: Final = 500_000
P99: Final = 990_000
P999: Final = 999_000
SAMPLES_PER_TAIL: Final = 10
"""Samples that must lie beyond a quantile before it is taken from its own cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRatios:
    """p99 and p99.9 of execution time over the cell's median, and the samples behind them.

    With fewer than ``samples_needed`` samples the largest ratio seen stands in for the quantile.
    """

    p99: float
    p999: float
    samples: int


def samples_needed(quantile_ppm: PartsPerMillion) -> int:
    """Return how many samples the quantile needs: 10/(1 − p), rounded up."""
    return -(-SAMPLES_PER_TAIL * ONE_PPM // (ONE_PPM - quantile_ppm))


def quantile(ascending: Sequence[float], quantile_ppm: PartsPerMillion) -> float:
    """Return the smallest sample that at least the share ``quantile_ppm`` does not exceed."""
    rank = -(-len(ascending) * quantile_ppm // ONE_PPM)
    return ascending[max(0, rank - 1)]


def pool_tails(cells: Sequence[Sequence[Nanoseconds]]) -> TailRatios:
    """Return the tail ratios over ``cells``, each the samples of one variant at one batch size."""
    ratios: list[float] = []
    for cell in cells:
        median = quantile(sorted(cell), P50)
        ratios.extend(sample / median for sample in cell)
    ratios.sort()
    return TailRatios(p99=_tail(ratios, P99), p999=_tail(ratios, P999), samples=len(ratios))


def batch_profile(size: int, samples: Sequence[Nanoseconds], tails: TailRatios) -> BatchProfile:
    """Return the profile of one cell; its quantiles never descend."""
    ascending = sorted(samples)
    median = round(quantile(ascending, P50))
    found = {}
    for level, ratio in ((P99, tails.p99), (P999, tails.p999)):
        own = len(ascending) >= samples_needed(level)
        found[level] = round(quantile(ascending, level)) if own else math.ceil(median * ratio)
    p99 = max(median, found[P99])
    return BatchProfile(
        size=size,
        mean_ns=round(sum(ascending) / len(ascending)),
        p50_ns=median,
        p99_ns=p99,
        p999_ns=max(p99, found[P999]),
        samples=len(ascending),
        tail_pooled=len(ascending) < samples_needed(P999),
    )


def _tail(ascending: Sequence[float], quantile_ppm: PartsPerMillion) -> float:
    if len(ascending) < samples_needed(quantile_ppm):
        return ascending[-1]
    return quantile(ascending, quantile_ppm)
