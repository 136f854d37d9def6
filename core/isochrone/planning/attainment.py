"""What one (variant, pool, batch) gives one service: predicted latency, capacity, lane work.

Turns a measured profile and a declared load into the dimensionless figures of ``queueing``. Called
by ``options``, ``assembly``, ``greedy``, ``explain`` and ``judge``. Pure.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, floor, inf, log
from typing import Final

from isochrone.catalog import BatchProfile
from isochrone.demand import Load, Objectives
from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import (
    PARTS_PER_BILLION,
    UTILIZATION_LEVELS_PPM,
    dispersion_index,
    level_of,
    level_patience_milli,
    normal_quantile,
    patience_needed,
    squared_variation,
    utilization_allowed,
)
from isochrone.units import MICROSECOND, ONE_PPM, SECOND, Nanoseconds, PartsPerMillion

LATE_PARTS: Final = (100_000, 500_000, 900_000)
"""How 1 - percentile may be split: the part for lateness; the rest is for refusals. The best of
them is taken: little lateness suits long patience, much of it a target close to the execution."""
PERCENTILES_MAX: Final = 1024
"""Percentiles whose splits are kept: services name a handful."""
_SCORE_P99: Final = normal_quantile(990_000_000)
_SCORE_P999: Final = normal_quantile(999_000_000)
SHARED_LATE_PART: Final = 500_000
"""The one split of shared groups, whose solver constraint would else need one copy a split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How one service's requests execute at one batch size on one pool.

    ``work_ns`` is the mean lane time per request when batches are full, ``partial_ns`` the extra
    wait for a batch that started before it was full (0 where one request fills it), ``dispersion``
    the bucket of ``queueing``, ``burst_ns`` the lane time of the declared burst. ``splits`` holds,
    for each way to split 1 - percentile, the execution charged to a request itself (nanoseconds)
    and the share of requests that may then be refused (parts per billion).
    """

    batch: BatchProfile
    work_ns: float
    partial_ns: Nanoseconds
    dispersion: int
    burst_ns: float
    splits: tuple[tuple[Nanoseconds, int], ...]


def execution(batch: BatchProfile, load: Load, percentile_ppm: PartsPerMillion) -> Execution:
    """Return how ``load`` executes at ``batch``, whose size is at least ``load.rows_max``.

    A batch ends where the next request does not fit: at least size - rows_max + 1 of its rows are
    used, and where all requests are of one size, all that whole requests can fill.
    """
    rows_max = load.rows_max
    sizes = {share.size for share in load.sizes if share.share_ppm > 0}
    alike = batch.size // rows_max * rows_max
    packed = alike if len(sizes) == 1 else batch.size - rows_max + 1
    mean_rows = load.rows_mean
    total = sum(share.share_ppm for share in load.sizes)
    square = sum(share.size**2 * share.share_ppm for share in load.sizes) / total
    requests = max(1.0, packed / mean_rows)
    in_batch = requests * squared_variation(max(1, batch.p50_ns), batch.p99_ns)
    dispersion = (1 + in_batch) * square / mean_rows**2 - 1
    work_ns = batch.mean_ns * mean_rows / packed
    joinable = batch.size // min(sizes) > 1
    return Execution(
        batch=batch,
        work_ns=work_ns,
        partial_ns=batch.mean_ns if joinable else 0,
        dispersion=dispersion_index(max(0.0, dispersion)),
        burst_ns=load.burst * work_ns,
        splits=tuple(
            (execution_quantile_ns(batch, level_ppb), refused_ppb)
            for level_ppb, refused_ppb in _splits(percentile_ppm)
        ),
    )


def execution_quantile_ns(batch: BatchProfile, level_ppb: int) -> Nanoseconds:
    """Return that quantile of execution time, log-linear in normal scores between p50, p99, p999.

    Beyond p999 it goes on along the steeper of the two segments.
    """
    p50 = float(max(1, batch.p50_ns))
    p99 = max(p50, float(batch.p99_ns))
    p999 = max(p99, float(batch.p999_ns))
    score = normal_quantile(level_ppb)
    body = log(p99 / p50) / _SCORE_P99
    if score <= _SCORE_P99:
        return ceil(p50 * exp(body * score) - 1e-6)
    tail = log(p999 / p99) / (_SCORE_P999 - _SCORE_P99)
    if score <= _SCORE_P999:
        return ceil(p99 * exp(tail * (score - _SCORE_P99)) - 1e-6)
    return ceil(p999 * exp(max(body, tail) * (score - _SCORE_P999)) - 1e-6)


@lru_cache(maxsize=PERCENTILES_MAX)
def _splits(percentile_ppm: PartsPerMillion) -> tuple[tuple[int, int], ...]:
    """Return (level of own execution, allowed refusals), both in parts per billion, per split."""
    missed_ppb = (ONE_PPM - percentile_ppm) * 1000
    return tuple(
        (
            PARTS_PER_BILLION - missed_ppb * part // ONE_PPM,
            missed_ppb - missed_ppb * part // ONE_PPM,
        )
        for part in LATE_PARTS
    )


def unloaded_ns(figures: Execution, settings: PlannerSettings) -> Nanoseconds:
    """Return the percentile of latency with no wait but for a batch in service."""
    own_ns = min(own_ns for own_ns, _ in figures.splits)
    return settings.overhead_ns + figures.partial_ns + own_ns


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
    best = inf
    for own_ns, refused_ppb in figures.splits:
        needed = patience_needed(utilization, figures.dispersion, refused_ppb)
        best = min(best, own_ns + needed * unit_ns)
    if best == inf:
        return None
    fixed_ns = settings.overhead_ns + figures.partial_ns + figures.burst_ns / replicas
    return ceil(fixed_ns + best - 1e-6)


def capacity_rps(
    figures: Execution, *, latency_ns: Nanoseconds, replicas: int, settings: PlannerSettings
) -> float:
    """Return the largest rate at which ``predicted_ns`` is still within ``latency_ns``, or 0."""
    unit_ns = figures.work_ns / replicas
    fixed_ns = settings.overhead_ns + figures.partial_ns + figures.burst_ns / replicas
    best = 0.0
    for own_ns, refused_ppb in figures.splits:
        patience_ns = latency_ns - fixed_ns - own_ns
        best = max(
            best, utilization_allowed(patience_ns / unit_ns, figures.dispersion, refused_ppb)
        )
    best = min(best, settings.utilization_max_ppm / ONE_PPM)
    return best * SECOND / unit_ns


def replicas_needed(
    figures: Execution, *, latency_ns: Nanoseconds, rate_rps: float, settings: PlannerSettings
) -> int | None:
    """Return the fewest workers of its own that meet the target, up to the settings' maximum."""
    if unloaded_ns(figures, settings) > latency_ns:
        return None

    def enough(replicas: int) -> bool:
        found_ns = predicted_ns(figures, rate_rps=rate_rps, replicas=replicas, settings=settings)
        return found_ns is not None and found_ns <= latency_ns

    busiest = settings.utilization_max_ppm / ONE_PPM
    low = max(1, ceil(rate_rps * figures.work_ns / (SECOND * busiest) - 1e-9))
    high = settings.replicas_max
    if low > high:
        return None
    if enough(low):
        return low
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One service's part in a shared group, in whole numbers that any solver adds up alike.

    ``work_ppm``: lane-millionths at the peak rate, rounded up. ``longest_us``: the 99th percentile
    of one execution. ``disturbance_us``: lane time that it may put in front of others at once (its
    burst, and a batch of its own that is not full). ``patience_us``: what the target leaves for
    waiting. ``refused_ppb``: the share of requests that may be refused.
    """

    work_ppm: int
    longest_us: int
    disturbance_us: int
    patience_us: int
    refused_ppb: int
    fixed_us: int


def member(
    figures: Execution, *, objectives: Objectives, rate_rps: float, settings: PlannerSettings
) -> Member:
    """Return what this service brings to a shared group, and what it asks of it."""
    missed_ppb = (ONE_PPM - objectives.percentile_ppm) * 1000
    late_ppb = missed_ppb * SHARED_LATE_PART // ONE_PPM
    own_ns = execution_quantile_ns(figures.batch, PARTS_PER_BILLION - late_ppb)
    fixed_us = ceil((settings.overhead_ns + figures.partial_ns + own_ns) / MICROSECOND)
    return Member(
        work_ppm=ceil(rate_rps * figures.work_ns * ONE_PPM / SECOND - 1e-6),
        longest_us=ceil(execution_quantile_ns(figures.batch, 990_000_000) / MICROSECOND),
        disturbance_us=ceil((figures.burst_ns + figures.partial_ns) / MICROSECOND),
        patience_us=floor(objectives.latency_ns / MICROSECOND) - fixed_us,
        refused_ppb=missed_ppb - late_ppb,
        fixed_us=fixed_us,
    )


def shared_level(
    members: tuple[Member, ...], replicas: int, settings: PlannerSettings
) -> int | None:
    """Return the level at which ``replicas`` workers carry all ``members``; None if above all."""
    level = level_of(sum(one.work_ppm for one in members), replicas)
    if level is None or UTILIZATION_LEVELS_PPM[level] > settings.utilization_max_ppm:
        return None
    return level


def shared_holds(members: tuple[Member, ...], replicas: int, level: int) -> bool:
    """Return whether every member's patience is enough at that level of utilization."""
    longest_us = max(one.longest_us for one in members)
    disturbance_us = sum(one.disturbance_us for one in members)
    for one in members:
        needed = level_patience_milli(level, one.refused_ppb)
        if needed is None:
            return False
        if needed * longest_us + 1000 * disturbance_us > 1000 * one.patience_us * replicas:
            return False
    return True


def shared_replicas_needed(
    members: tuple[Member, ...], limit: int, settings: PlannerSettings
) -> int | None:
    """Return the fewest workers, up to ``limit``, on which every member's promise holds."""
    for replicas in range(1, limit + 1):
        level = shared_level(members, replicas, settings)
        if level is not None and shared_holds(members, replicas, level):
            return replicas
    return None


def shared_predicted_ns(
    members: tuple[Member, ...], one: Member, replicas: int, level: int
) -> Nanoseconds | None:
    """Return the percentile of latency of ``one`` among ``members``; None where none holds."""
    needed = level_patience_milli(level, one.refused_ppb)
    if needed is None:
        return None
    longest_us = max(other.longest_us for other in members)
    wait_milli_us = needed * longest_us + 1000 * sum(other.disturbance_us for other in members)
    return one.fixed_us * MICROSECOND + -(-wait_milli_us // replicas)


def shared_capacity_rps(
    members: tuple[Member, ...],
    one: Member,
    *,
    rate_rps: float,
    replicas: int,
    settings: PlannerSettings,
) -> float:
    """Return the largest rate of ``one`` at which all ``members`` hold, the others at their peaks.

    At least ``rate_rps`` where the group holds as planned.
    """
    others_ppm = sum(other.work_ppm for other in members) - one.work_ppm
    room_ppm = 0
    for level, ppm in enumerate(UTILIZATION_LEVELS_PPM):
        if ppm <= settings.utilization_max_ppm and shared_holds(members, replicas, level):
            room_ppm = ppm * replicas - others_ppm
    if one.work_ppm == 0:
        return rate_rps
    return max(0.0, rate_rps * room_ppm / one.work_ppm)
