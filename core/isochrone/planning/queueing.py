"""How much traffic a worker group can carry and still keep its promise: no percentiles are added.

The model. Requests arrive as a Poisson stream; each brings work to a lane; a newcomer is refused on
arrival when the *virtual wait* (work ahead of it, over the lanes) exceeds its patience: what the
target leaves after overhead, its own execution and a burst. Refused and late requests both break
the promise, so P(refused) + P(late) must stay within 1 - percentile.

The stationary workload of a single-server queue with bounded patience solves, up to a factor, the
same Volterra equation as the ordinary queue, on [0, K]: density(x) = rate·survival(x) +
rate·∫ density(y)·survival(x - y) dy over y < x (level crossings: Baccelli, Boyer and Hébuterne,
"Single-server queues with impatient customers", 1984, §3; Takács, 1974). It is solved once per
dispersion of service time, for all utilizations and all patiences together; everything is in
units of one mean service time.

Approximations, each on the safe side or stated:
  * c lanes are one lane c times as fast: a newcomer waits for 1/c of all work, though in truth for
    the least loaded lane only. Where patience is shorter than one execution this gives away much.
  * Work per request is execution of a *full* batch over its requests. Batches that start before
    they are full cost at most one more execution of wait, which is charged in full.
  * The variance within a batch is that of one execution, not of its requests' independent shares.
  * A group that several services share is modeled as jobs of one size, the longest 99th percentile
    of execution among them; its utilization is rounded up to a level (`UTILIZATION_LEVELS_PPM`).
  * Waiting is in order of arrival; the live scheduler, which orders by slack, does no worse.

Called by ``attainment`` and ``exact``. Pure; caches hold at most the named
number of curves.
"""

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from math import ceil, erfc, exp, inf, log, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isochrone.units import ONE_PPM

FloatArray = NDArray[np.float64]

STEPS_PER_SERVICE: Final = 24
"""Grid of the Volterra equation: the error of the trapezoid rule is then below 0.1 % of a rate."""
PATIENCE_MAX: Final = 64
"""Longest patience looked at, in mean service times; beyond it a lane can be 90 % busy anyway."""
VARIATION_STEP: Final = 0.05
"""Coefficients of variation of service time are rounded up to whole multiples of this."""
NEGLIGIBLE: Final = 1e-12
"""A probability that changes no refusal that a percentile of at most 99.99 can see."""
CURVES_MAX: Final = 4096
WORKLOADS_MAX: Final = 128

UTILIZATIONS: Final[tuple[float, ...]] = (
    *(float(u) for u in np.geomspace(1e-5, 0.1, 60)),
    *(float(u) for u in np.linspace(0.12, 0.96, 43)),
)
"""Utilizations at which curves are computed; between them they are linear."""

UTILIZATION_LEVELS_PPM: Final = (
    1_000, 10_000, 30_000, 60_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000,
    600_000, 700_000, 750_000, 800_000, 850_000, 900_000, 950_000,
)  # fmt: skip
"""Utilizations that a shared group may be planned for."""

PARTS_PER_BILLION: Final = 1_000_000_000
_STANDARD_NORMAL: Final = NormalDist()


@lru_cache(maxsize=CURVES_MAX)
def normal_quantile(level_ppb: int) -> float:
    """Return the standard normal quantile of ``level_ppb`` parts per billion."""
    return _STANDARD_NORMAL.inv_cdf(level_ppb / PARTS_PER_BILLION)


def dispersion_index(squared_variation: float) -> int:
    """Return the bucket, rounded up, of a squared coefficient of variation of service time."""
    return ceil(sqrt(squared_variation) / VARIATION_STEP - 1e-9)


def _survival(dispersion: int) -> tuple[FloatArray, FloatArray]:
    """Return P(S > x) and E[(S - x)+] on the grid, for S of mean 1 and that dispersion.

    S is log-normal; constant where the dispersion is 1.
    """
    count = PATIENCE_MAX * STEPS_PER_SERVICE + 1
    grid = np.arange(count) / STEPS_PER_SERVICE
    if dispersion == 0:
        survival = np.where(grid < 1, 1.0, 0.0)
        survival[STEPS_PER_SERVICE] = 0.5
        return survival, np.maximum(1 - grid, 0.0)
    variance = log(1 + (dispersion * VARIATION_STEP) ** 2)
    deviation = sqrt(variance)
    survival, excess = np.ones(count), np.ones(count)
    for index in range(1, count):
        z = (log(grid[index]) + variance / 2) / deviation
        survival[index] = 0.5 * erfc(z / sqrt(2))
        above = 0.5 * erfc((z - deviation) / sqrt(2))
        excess[index] = max(0.0, above - grid[index] * survival[index])
    return survival, excess


@lru_cache(maxsize=WORKLOADS_MAX)
def _refusals(dispersion: int) -> FloatArray:
    """Return P(refused), of shape (utilizations, patiences), for that dispersion."""
    survival, excess = _survival(dispersion)
    rates = np.array(UTILIZATIONS)
    step = 1 / STEPS_PER_SERVICE
    count = len(survival)
    reach = int(np.count_nonzero(survival > NEGLIGIBLE)) + 1
    density = np.zeros((count, len(rates)))
    density[0] = rates
    for index in range(1, count):
        first = max(1, index - reach)
        earlier = survival[index - first : 0 : -1] @ density[first:index]
        first_cell = 0.5 * density[0] * survival[index]
        known = rates * survival[index] + rates * step * (first_cell + earlier)
        density[index] = known / (1 - 0.5 * rates * step)
    below = np.zeros_like(density)
    below[1:] = np.cumsum(0.5 * step * (density[1:] + density[:-1]), axis=0)
    above = np.empty_like(density)
    for row, rate in enumerate(rates):
        weighted = density[:, row] * step
        weighted[0] *= 0.5
        crossed = np.convolve(weighted, excess)[:count] - 0.5 * density[:, row] * step * excess[0]
        above[:, row] = rate * (excess + crossed)
    above[0] = rates * excess[0]
    return np.asarray((above / (1 + below + above)).T, dtype=np.float64)


@lru_cache(maxsize=CURVES_MAX)
def patience_curve(dispersion: int, refused_ppb: int) -> tuple[float, ...]:
    """Return, per utilization, the least patience at which P(refused) ≤ ``refused_ppb``.

    In mean service times; infinite where `PATIENCE_MAX` does not do. Never decreasing.
    """
    allowed = refused_ppb / PARTS_PER_BILLION
    least: list[float] = []
    for row in _refusals(dispersion):
        within = np.flatnonzero(row <= allowed)
        if not len(within):
            least.append(inf)
            continue
        index = int(within[0])
        patience = index / STEPS_PER_SERVICE
        if index > 0 and row[index] > 0:
            span = log(row[index - 1] / row[index])
            back = 0.0 if span <= 0 else log(allowed / row[index]) / span
            patience -= min(1.0, back) / STEPS_PER_SERVICE
        least.append(max(patience, least[-1] if least else 0.0))
    return tuple(least)


def patience_needed(utilization: float, dispersion: int, refused_ppb: int) -> float:
    """Return the least patience, in mean service times, at ``utilization``; infinite if none is."""
    return patiences_needed(utilization, dispersion, (refused_ppb,))[0]


def patiences_needed(
    utilization: float, dispersion: int, refused_ppb: Iterable[int]
) -> tuple[float, ...]:
    """Return the same for each of some shares that may be refused: the planner asks for all at once."""
    above = bisect_right(UTILIZATIONS, utilization)
    if above == len(UTILIZATIONS):
        at_end = utilization == UTILIZATIONS[-1]
        return tuple(
            patience_curve(dispersion, ppb)[-1] if at_end and ppb > 0 else inf
            for ppb in refused_ppb
        )
    part = 0.0
    if above == 0:
        above = 1
    else:
        low = UTILIZATIONS[above - 1]
        part = (utilization - low) / (UTILIZATIONS[above] - low)
    found: list[float] = []
    for ppb in refused_ppb:
        if ppb <= 0:
            found.append(inf)
            continue
        curve = patience_curve(dispersion, ppb)
        before, after = curve[above - 1], curve[above]
        if after == inf:
            found.append(inf if part > 0 else before)
        else:
            found.append(before + part * (after - before))
    return tuple(found)


def utilization_allowed(patience: float, dispersion: int, refused_ppb: int) -> float:
    """Return the largest utilization that ``patience`` (mean service times) allows, or 0."""
    if patience < 0 or refused_ppb <= 0:
        return 0.0
    curve = patience_curve(dispersion, refused_ppb)
    above = bisect_right(curve, patience)
    if above == 0:
        return 0.0
    if above == len(curve) or curve[above] == inf:
        return UTILIZATIONS[above - 1]
    part = (patience - curve[above - 1]) / (curve[above] - curve[above - 1])
    return UTILIZATIONS[above - 1] + part * (UTILIZATIONS[above] - UTILIZATIONS[above - 1])


def refused_of_classes(patiences: FloatArray, weights: FloatArray, dispersion: int) -> FloatArray:
    """Return the share refused at each of ``UTILIZATIONS`` of requests of unlike patience.

    ``patiences`` per class, in mean service times, negative where a class is always refused (rounded
    down to the grid); ``weights`` are the classes' shares of requests, and sum to 1.
    """
    places = np.floor(np.clip(patiences, 0.0, PATIENCE_MAX) * STEPS_PER_SERVICE).astype(int)
    refused = np.where(patiences < 0, 1.0, _refusals(dispersion)[:, places])
    return np.asarray(refused @ weights)


def squared_variation(median: float, p99: float) -> float:
    """Return the squared coefficient of variation of a log-normal with that median and p99."""
    deviation = log(max(1.0, p99 / median)) / normal_quantile(990_000_000)
    return exp(deviation**2) - 1


def level_of(work_ppm: int, replicas: int) -> int | None:
    """Return the least level (index) that holds ``work_ppm`` lane-millionths; None above all."""
    return next(
        (i for i, ppm in enumerate(UTILIZATION_LEVELS_PPM) if work_ppm <= ppm * replicas), None
    )


@lru_cache(maxsize=CURVES_MAX)
def level_patience_milli(level: int, refused_ppb: int) -> int | None:
    """Return the patience that a shared group needs at a level, in thousandths of its longest job.

    None where no patience in view is enough.
    """
    needed = patience_needed(UTILIZATION_LEVELS_PPM[level] / ONE_PPM, 0, refused_ppb)
    return None if needed == inf else ceil(needed * 1000)
