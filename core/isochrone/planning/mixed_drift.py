"""Whether the sizes of requests have drifted so far from the planned mix that a re-plan pays.

A plan is made for a mix of sizes, the more so one of unlike pools; KAIROS re-plans at once when its
monitor sees another. Here that is a test: the counts of one window against the planned shares, by
Pearson's χ² with classes merged until each expects ``EXPECTED_MIN`` (Cochran, "Some methods for
strengthening the common χ² tests", Biometrics 10, 1954), at a level so small that a window a minute
raises a false alarm once in two years. But with enough requests any difference is significant, so it
must also matter: a share ``DISTANCE_MIN`` of all requests must have changed its class.

Called by the operator, once per report of a service (``reconcile.sizes``). Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist
from typing import Final

from isochrone.demand import SizeShare
from isochrone.units import ONE_PPM

LEVEL: Final = 1e-6
"""Probability that a window of the planned mix is called drifted."""

DISTANCE_MIN: Final = 0.05
"""Total variation below which a drift, however certain, is let be: the 5 % that a plan must save
before it replaces one that holds (`PlannerSettings.switch_saving_ppm`)."""

SHARE_STEP_PPM: Final = 10_000
"""Observed shares are rounded to whole percents, so that a mix that trembles changes nothing."""

SIZES_MAX: Final = 16
"""Sizes of a mix: what an InferenceService may declare."""

REQUESTS_MIN: Final = 200
"""Requests in a window below which it says too little: four classes of fifty."""

EXPECTED_MIN: Final = 5.0
"""Requests that each class must expect, or χ² is no longer its own distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """One window beside the planned mix.

    ``statistic`` is χ² over ``classes`` - 1 degrees of freedom, ``threshold`` what it must exceed at
    ``LEVEL``; ``distance`` the total variation between planned and seen shares, 0 … 1. ``oversized``
    is the share of requests that are larger than any planned size, and ``missable`` the share that
    may miss: who is too large for every instance always does.
    """

    requests: int
    classes: int
    statistic: float
    threshold: float
    distance: float
    oversized: float
    missable: float

    @property
    def drifted(self) -> bool:
        """Whether to plan anew."""
        other_mix = self.statistic > self.threshold and self.distance >= DISTANCE_MIN
        return other_mix or self.oversized > self.missable


def drift(planned: Sequence[SizeShare], seen: Mapping[int, int], *, missable: float) -> Drift:
    """Return how far ``seen``, requests by rows in one window, is from the mix ``planned``.

    Rows between two sizes count for the larger. ``missable`` is the share of requests that may miss,
    0 … 1. ``ValueError`` for a negative count or rows below 1.
    """
    if any(count < 0 or rows < 1 for rows, count in seen.items()):
        raise ValueError("requests are counted from 0 up, by rows from 1 up")
    ordered = sorted(planned, key=lambda it: it.size)
    *inside, beyond = _by_class([it.size for it in ordered], seen)
    whole = sum(it.share_ppm for it in ordered)
    shares = [it.share_ppm / whole for it in ordered]
    total = sum(inside)
    enough = total + beyond >= REQUESTS_MIN
    merged = _merged(shares, inside, total) if total and enough else [(1.0, 1.0)]
    return Drift(
        requests=total + beyond,
        classes=len(merged),
        statistic=sum((got - expected) ** 2 / expected for expected, got in merged),
        threshold=chi_squared_quantile(len(merged) - 1),
        distance=sum(abs(got - expected) for expected, got in merged) / (2 * max(1, total)),
        oversized=beyond / (total + beyond) if enough else 0.0,
        missable=missable,
    )


def observed_sizes(seen: Mapping[int, int]) -> tuple[SizeShare, ...]:
    """Return the mix of ``seen``, ascending, in whole percents: what to plan anew for.

    The largest that was seen is always among them, with a percent at least. Of more than `SIZES_MAX`
    the rarest count for the next larger. ``ValueError`` where nothing was seen.
    """
    total = sum(seen.values())
    if total <= 0:
        raise ValueError("nothing was seen: keep the planned mix")
    counts = dict(sorted((rows, count) for rows, count in seen.items() if count > 0))
    while len(counts) > SIZES_MAX:
        *smaller, _ = counts
        rarest = min(smaller, key=lambda rows: counts[rows])
        larger = next(rows for rows in counts if rows > rarest)
        counts[larger] += counts.pop(rarest)
    sizes = list(counts)
    steps = [round(counts[rows] * ONE_PPM / total / SHARE_STEP_PPM) for rows in sizes]
    steps[-1] = max(1, steps[-1])
    steps[steps.index(max(steps))] += ONE_PPM // SHARE_STEP_PPM - sum(steps)
    return tuple(
        SizeShare(size=rows, share_ppm=step * SHARE_STEP_PPM)
        for rows, step in zip(sizes, steps, strict=True)
        if step > 0
    )


def chi_squared_quantile(degrees: int) -> float:
    """Return what χ² with ``degrees`` of freedom exceeds with probability ``LEVEL``.

    By Wilson and Hilferty's cube ("The distribution of chi-square", PNAS 17, 1931): on the safe side,
    by 15 % at one degree and 1 % at twenty; infinite without any.
    """
    if degrees < 1:
        return inf
    part = 2 / (9 * degrees)
    return degrees * (1 - part + NormalDist().inv_cdf(1 - LEVEL) * sqrt(part)) ** 3


def _by_class(sizes: Sequence[int], seen: Mapping[int, int]) -> list[int]:
    """Return the requests of each size, and last of those that are larger than all."""
    counts = [0] * (len(sizes) + 1)
    for rows, count in seen.items():
        place = next((at for at, size in enumerate(sizes) if rows <= size), len(sizes))
        counts[place] += count
    return counts


def _merged(
    shares: Sequence[float], counts: Sequence[int], total: int
) -> list[tuple[float, float]]:
    """Return (expected, seen) of neighboring classes, merged until each expects enough."""
    merged: list[tuple[float, float]] = []
    expected = got = 0.0
    for share, count in zip(shares, counts, strict=False):
        expected += share * total
        got += count
        if expected >= EXPECTED_MIN:
            merged.append((expected, got))
            expected = got = 0.0
    if expected > 0 or got > 0:
        last_expected, last_got = merged.pop() if merged else (0.0, 0.0)
        merged.append((last_expected + expected, last_got + got))
    return merged
