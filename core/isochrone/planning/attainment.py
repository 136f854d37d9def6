"""What one (variant, pool, batch) gives one service: predicted latency, capacity, lane work.

Turns a measured profile and a declared load into the dimensionless figures of ``queueing``. Called
by ``options``, ``assembly``, ``greedy``, ``explain`` and ``judge``. Pure.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, inf, log, pi, sqrt
from typing import Final

from isochrone.catalog import BatchProfile
from isochrone.demand import Load
from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import (
    PARTS_PER_BILLION,
    dispersion_index,
    normal_quantile,
    patiences_needed,
    squared_variation,
)
from isochrone.units import ONE_PPM, SECOND, Nanoseconds, PartsPerMillion

LATE_PARTS: Final = (100_000, 500_000, 900_000)
"""How 1 - percentile may be split: the part for lateness; the rest is for refusals. The best of
them is taken: little lateness suits long patience, much of it a target close to the execution."""
FILLINGS_MAX: Final = 4096
"""Loads, batch sizes and percentiles of which is kept what they come to: it is asked for once per row."""
CAPACITY_STEPS: Final = 40
"""Halvings of a rate: to a part in 10^12."""
_SCORE_P99: Final = normal_quantile(990_000_000)
_SCORE_P999: Final = normal_quantile(999_000_000)
BURST_EVERY_S: Final = 10
"""A declared burst is expected on top of the peak rate at most so often."""
BURST_PARTS_PPB: Final = (
    500_000_000, 200_000_000, 100_000_000, 50_000_000, 20_000_000, 10_000_000,
    5_000_000, 2_000_000, 1_000_000,
)  # fmt: skip
"""Shares of bursts that may be refused, rounded down to one of these: at most every other."""
COMMON_VARIANCE: Final = pi / 2 / 9
"""Variance of the error that all executions ahead have in common, over that of one of them: the
scheduler estimates a worker's speed by a median of nine (``scheduling.estimates``)."""
MEAN_SCALE: Final = 2.326
"""Profile p99 over median, less 1, in standard deviations: as the scheduler reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How one service's requests execute at one batch size on one pool.

    ``work_ns`` is the mean lane time per request when batches are full, ``partial_ns`` the extra
    wait for a batch that started before it was full (0 where one request fills it), ``dispersion``
    the bucket of ``queueing``, ``burst_ns`` the lane time of the declared burst. ``sigma`` is the
    relative error of one execution. ``splits`` holds, for each way to split 1 - percentile, the
    execution charged to a request itself (nanoseconds), and the shares of all requests, and of those
    that come with a burst, that may then be refused (parts per billion).
    """

    batch: BatchProfile
    work_ns: float
    partial_ns: Nanoseconds
    dispersion: int
    burst_ns: float
    sigma: float
    splits: tuple[tuple[Nanoseconds, int, int], ...]


def execution(batch: BatchProfile, load: Load, percentile_ppm: PartsPerMillion) -> Execution:
    """Return how ``load`` executes at ``batch``, whose size is at least ``load.rows_max``."""
    filled = _filling(load, batch.size, percentile_ppm)
    in_batch = filled.requests * squared_variation(max(1, batch.p50_ns), batch.p99_ns)
    dispersion = (1 + in_batch) * filled.square / filled.mean_rows**2 - 1
    work_ns = batch.mean_ns * filled.mean_rows / filled.packed
    own_ns = _quantiles_ns(batch, filled.scores)
    return Execution(
        batch=batch,
        work_ns=work_ns,
        partial_ns=batch.mean_ns if filled.joinable else 0,
        dispersion=dispersion_index(max(0.0, dispersion)),
        burst_ns=load.burst * work_ns,
        sigma=max(0.0, batch.p99_ns / max(1, batch.p50_ns) - 1) / MEAN_SCALE,
        splits=tuple([(own, *shares) for own, shares in zip(own_ns, filled.refused, strict=True)]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filling:
    """What a load makes of a batch size, whatever the variant.

    ``requests``: in a full batch, of ``packed`` rows; ``mean_rows`` of one, and the mean of their
    ``square``; ``joinable``: whether a second one fits. Per way to split 1 - percentile: ``scores``, the
    normal score of a request's own execution, and ``refused``, the shares of all requests and of those in
    a burst that may be refused.
    """

    requests: float
    packed: float
    mean_rows: float
    square: float
    joinable: bool
    scores: tuple[float, ...]
    refused: tuple[tuple[int, int], ...]


@lru_cache(maxsize=FILLINGS_MAX)
def _filling(load: Load, size: int, percentile_ppm: PartsPerMillion) -> _Filling:
    """Return how requests of ``load`` fill a batch of ``size`` rows.

    A batch ends where the next request does not fit. Where all requests are of one size, it holds
    all that whole requests can fill; else the one that did not fit is large with the probability of
    its size (renewal theory), and all but one of its rows are taken to stay free. Half of them do,
    in the mean; the rest is for what a backlog that is cut in order of deadline cannot pack.
    """
    rows_max = load.rows_max
    sizes = {share.size for share in load.sizes if share.share_ppm > 0}
    mean_rows = load.rows_mean
    total = sum(share.share_ppm for share in load.sizes)
    square = sum(share.size**2 * share.share_ppm for share in load.sizes) / total
    alike = size // rows_max * rows_max
    packed = alike if len(sizes) == 1 else size - (square / mean_rows - 1)
    splits = _splits(load, percentile_ppm)
    return _Filling(
        requests=max(1.0, packed / mean_rows),
        packed=packed,
        mean_rows=mean_rows,
        square=square,
        joinable=size // min(sizes) > 1,
        scores=tuple(normal_quantile(level_ppb) for level_ppb, _, _ in splits),
        refused=tuple((refused_ppb, of_bursts_ppb) for _, refused_ppb, of_bursts_ppb in splits),
    )


def refused_of_bursts_ppb(load: Load, refused_ppb: int) -> int:
    """Return the share of what comes with a burst that may be refused, so that in all it is little.

    Bursts, and what comes while their work lasts (at most as much again), may take up a half of
    ``refused_ppb``. At most every other may be refused: what was declared is there to be served.
    """
    if load.burst == 0:
        return refused_ppb
    share = load.burst / (load.burst + BURST_EVERY_S * load.peak_rate_rps)
    allowed = refused_ppb / (4 * share)
    return max((part for part in BURST_PARTS_PPB if part <= allowed), default=refused_ppb)


def execution_quantile_ns(batch: BatchProfile, level_ppb: int) -> Nanoseconds:
    """Return that quantile of execution time, log-linear in normal scores between p50, p99, p999.

    Beyond p999 it goes on along the steeper of the two segments.
    """
    return _quantiles_ns(batch, (normal_quantile(level_ppb),))[0]


def _quantiles_ns(batch: BatchProfile, scores: tuple[float, ...]) -> list[Nanoseconds]:
    """Return the quantiles of execution time at these normal scores."""
    p50 = float(max(1, batch.p50_ns))
    p99 = max(p50, float(batch.p99_ns))
    p999 = max(p99, float(batch.p999_ns))
    body = log(p99 / p50) / _SCORE_P99
    tail = log(p999 / p99) / (_SCORE_P999 - _SCORE_P99)
    found: list[Nanoseconds] = []
    for score in scores:
        if score <= _SCORE_P99:
            found.append(ceil(p50 * exp(body * score) - 1e-6))
        elif score <= _SCORE_P999:
            found.append(ceil(p99 * exp(tail * (score - _SCORE_P99)) - 1e-6))
        else:
            found.append(ceil(p999 * exp(max(body, tail) * (score - _SCORE_P999)) - 1e-6))
    return found


def _splits(load: Load, percentile_ppm: PartsPerMillion) -> tuple[tuple[int, int, int], ...]:
    """Return (level of own execution, refusals allowed: of all, of bursts), in parts per billion."""
    missed_ppb = (ONE_PPM - percentile_ppm) * 1000
    refused = [missed_ppb - missed_ppb * part // ONE_PPM for part in LATE_PARTS]
    return tuple(
        (
            PARTS_PER_BILLION - missed_ppb * part // ONE_PPM,
            refused_ppb,
            refused_of_bursts_ppb(load, refused_ppb),
        )
        for part, refused_ppb in zip(LATE_PARTS, refused, strict=True)
    )


def ends_ns(
    figures: Execution, own_ns: Nanoseconds, wait_ns: float, settings: PlannerSettings
) -> float:
    """Return by when a request that waits ``wait_ns`` is sure enough to end, for admission to agree.

    Admission adds a margin that grows with all that is ahead (``scheduling.estimates``): z standard
    deviations of the executions' own errors and of the one that they share. A slow spell passes for
    the worker's speed a little more often than it should, by `PlannerSettings.speed_bias` deviations.
    """
    slower = 1 + settings.speed_bias * figures.sigma
    one_ns = figures.batch.p50_ns * slower
    all_ns = wait_ns * slower + one_ns
    margin_ns = sqrt(all_ns * one_ns + COMMON_VARIANCE * all_ns * all_ns)
    return max(
        all_ns + settings.margin_z * figures.sigma * margin_ns,
        wait_ns + own_ns,
    )


def wait_left_ns(
    figures: Execution, own_ns: Nanoseconds, time_ns: float, settings: PlannerSettings
) -> float:
    """Return the longest wait after which a request still ends within ``time_ns``; may be negative.

    The inverse of ``ends_ns``: the smaller root of (time - all)² = z²σ²(all·one + v·all²).
    """
    slower = 1 + settings.speed_bias * figures.sigma
    one_ns = figures.batch.p50_ns * slower
    spread = (settings.margin_z * figures.sigma) ** 2
    if time_ns <= 0:
        return time_ns - one_ns
    linear = 2 * time_ns + spread * one_ns
    rest = linear * linear - 4 * (1 - spread * COMMON_VARIANCE) * time_ns * time_ns
    all_ns = 2 * time_ns * time_ns / (linear + sqrt(max(0.0, rest)))
    return min((all_ns - one_ns) / slower, time_ns - own_ns)


def unloaded_ns(figures: Execution, settings: PlannerSettings) -> Nanoseconds:
    """Return the percentile of latency with no wait but for a batch in service."""
    own_ns = min(own_ns for own_ns, _, _ in figures.splits)
    return settings.overhead_ns + ceil(ends_ns(figures, own_ns, figures.partial_ns, settings))


def predicted_ns(
    figures: Execution,
    *,
    rate_rps: float,
    replicas: int,
    settings: PlannerSettings,
) -> Nanoseconds | None:
    """Return the percentile of latency at ``rate_rps`` on ``replicas`` workers of its own.

    It is the least target that attainment under refusal on arrival would still meet. None where
    the lanes would be busier than the settings allow.
    """
    utilization = rate_rps * figures.work_ns / (SECOND * replicas)
    if utilization * ONE_PPM > settings.utilization_max_ppm:
        return None
    unit_ns = figures.work_ns / replicas
    splits = figures.splits
    refused = [it[1] for it in splits]
    if figures.burst_ns:
        refused += [it[2] for it in splits]
    needed = patiences_needed(utilization, figures.dispersion, refused)
    best = inf
    for place, (own_ns, _, _) in enumerate(splits):
        wait_ns = needed[place] * unit_ns
        if figures.burst_ns:
            of_bursts = needed[len(splits) + place]
            wait_ns = max(wait_ns, of_bursts * unit_ns + figures.burst_ns / replicas)
        wait_ns += figures.partial_ns
        if wait_ns + own_ns < best:  # else it ends no sooner
            best = min(best, ends_ns(figures, own_ns, wait_ns, settings))
    return None if best == inf else ceil(settings.overhead_ns + best - 1e-6)


def capacity_rps(
    figures: Execution, *, latency_ns: Nanoseconds, replicas: int, settings: PlannerSettings
) -> float:
    """Return the largest rate at which ``predicted_ns`` is still within ``latency_ns``, or 0."""
    low = 0.0
    high = settings.utilization_max_ppm / ONE_PPM * SECOND * replicas / figures.work_ns
    for _ in range(CAPACITY_STEPS):
        middle = (low + high) / 2
        found_ns = predicted_ns(figures, rate_rps=middle, replicas=replicas, settings=settings)
        low, high = (
            (middle, high) if found_ns is not None and found_ns <= latency_ns else (low, middle)
        )
    return low


def least_replicas(
    batch: BatchProfile, load: Load, percentile_ppm: PartsPerMillion, settings: PlannerSettings
) -> int:
    """Return the workers whose lanes carry the peak rate at ``batch``, however long requests wait."""
    filled = _filling(load, batch.size, percentile_ppm)
    return _busiest(batch.mean_ns * filled.mean_rows / filled.packed, load.peak_rate_rps, settings)


def _busiest(work_ns: float, rate_rps: float, settings: PlannerSettings) -> int:
    """Return the fewest lanes that are no busier than the settings allow."""
    busiest = settings.utilization_max_ppm / ONE_PPM
    return max(1, ceil(rate_rps * work_ns / (SECOND * busiest) - 1e-9))


def fewest(
    figures: Execution,
    *,
    latency_ns: Nanoseconds,
    rate_rps: float,
    settings: PlannerSettings,
    most: int | None = None,
) -> tuple[int, Nanoseconds] | None:
    """Return the fewest workers of its own that meet the target, and ``predicted_ns`` on so many.

    None where it takes more than ``most``, or than the settings allow.
    """
    low = _busiest(figures.work_ns, rate_rps, settings)
    high = settings.replicas_max if most is None else min(most, settings.replicas_max)
    if low > high or unloaded_ns(figures, settings) > latency_ns:
        return None

    def predicted(replicas: int) -> Nanoseconds | None:
        found_ns = predicted_ns(figures, rate_rps=rate_rps, replicas=replicas, settings=settings)
        return None if found_ns is None or found_ns > latency_ns else found_ns

    found_ns = predicted(low)
    if found_ns is not None:
        return low, found_ns
    found_ns = predicted(high) if high > low else None
    if found_ns is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        middle_ns = predicted(middle)
        if middle_ns is None:
            low = middle
        else:
            high, found_ns = middle, middle_ns
    return high, found_ns
