"""Shared groups: what their members bring and ask, and whether a number of workers keeps all promises.

The figures are of ``attainment``, in whole numbers that any solver adds up alike. Called by
``options``, ``company``, ``exact_program``, ``assembly`` and ``judge``. Pure.
"""

from dataclasses import dataclass
from math import ceil, floor
from typing import Final

from isochrone.demand import Load, Objectives
from isochrone.planning.attainment import (
    Execution,
    ends_ns,
    execution_quantile_ns,
    refused_of_bursts_ppb,
    wait_left_ns,
)
from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import (
    PARTS_PER_BILLION,
    UTILIZATION_LEVELS_PPM,
    VARIATION_STEP,
    level_of,
    level_patience_milli,
)
from isochrone.units import MICROSECOND, ONE_PPM, SECOND, Nanoseconds

SHARED_LATE_PART: Final = 100_000
"""The one split of shared groups, whose solver constraint would else need one copy a split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One service's part in a shared group, in whole numbers that any solver adds up alike.

    ``work_ppm``: lane-millionths at the peak rate, rounded up. ``unit_us``: the size of its
    requests as others feel them, mean lane time with its variation (E[S²]/E[S]). ``partial_us``: a
    batch of its own that is not full. ``surge_us``: that, and its burst. ``patience_us``: what the
    target leaves for waiting. ``refused_ppb``, ``of_bursts_ppb``: the shares of all requests, and of
    those in a burst, that may be refused. ``own_ns``: the execution charged to a request itself.
    """

    work_ppm: int
    unit_us: int
    partial_us: int
    surge_us: int
    patience_us: int
    refused_ppb: int
    of_bursts_ppb: int
    own_ns: Nanoseconds


def member(
    figures: Execution, *, load: Load, objectives: Objectives, settings: PlannerSettings
) -> Member:
    """Return what this service brings to a shared group, and what it asks of it."""
    missed_ppb = (ONE_PPM - objectives.percentile_ppm) * 1000
    late_ppb = missed_ppb * SHARED_LATE_PART // ONE_PPM
    own_ns = execution_quantile_ns(figures.batch, PARTS_PER_BILLION - late_ppb)
    left_ns = wait_left_ns(figures, own_ns, objectives.latency_ns - settings.overhead_ns, settings)
    spread = 1 + (figures.dispersion * VARIATION_STEP) ** 2
    return Member(
        work_ppm=ceil(load.peak_rate_rps * figures.work_ns * ONE_PPM / SECOND - 1e-6),
        unit_us=ceil(figures.work_ns * spread / MICROSECOND),
        partial_us=ceil(figures.partial_ns / MICROSECOND),
        surge_us=ceil((figures.partial_ns + figures.burst_ns) / MICROSECOND),
        patience_us=floor(left_ns / MICROSECOND),
        refused_ppb=missed_ppb - late_ppb,
        of_bursts_ppb=refused_of_bursts_ppb(load, missed_ppb - late_ppb),
        own_ns=own_ns,
    )


def shared_level(
    members: tuple[Member, ...], replicas: int, settings: PlannerSettings
) -> int | None:
    """Return the level at which ``replicas`` workers carry all ``members``; None if above all."""
    level = level_of(sum(one.work_ppm for one in members), replicas)
    if level is None or UTILIZATION_LEVELS_PPM[level] > settings.utilization_max_ppm:
        return None
    return level


def _wait_milli_us(largest: tuple[int, int, int], one: Member, level: int) -> int | None:
    """Return what ``one`` may have before it at that level, in thousandths of lane-microseconds.

    The larger of what all its requests need and what those in a burst need, where the ``largest`` job,
    batch that is not full and burst are ahead. None where no patience is enough.
    """
    needed = level_patience_milli(level, one.refused_ppb)
    of_bursts = level_patience_milli(level, one.of_bursts_ppb)
    if needed is None or of_bursts is None:
        return None
    unit_us, partial_us, surge_us = largest
    return max(needed * unit_us + 1000 * partial_us, of_bursts * unit_us + 1000 * surge_us)


def _largest(members: tuple[Member, ...]) -> tuple[int, int, int]:
    """Return the largest size of requests, batch that is not full, and that with a burst, of any."""
    return (
        max(one.unit_us for one in members),
        max(one.partial_us for one in members),
        max(one.surge_us for one in members),
    )


def shared_holds(members: tuple[Member, ...], replicas: int, level: int) -> bool:
    """Return whether every member's patience is enough at that level of utilization."""
    largest = _largest(members)
    for one in members:
        wait = _wait_milli_us(largest, one, level)
        if wait is None or wait > 1000 * one.patience_us * replicas:
            return False
    return True


def shared_room_ppm(members: tuple[Member, ...], replicas: int, settings: PlannerSettings) -> int:
    """Return the lane-millionths that ``replicas`` workers may carry with all promises kept; 0 for none."""
    for level in reversed(range(len(UTILIZATION_LEVELS_PPM))):
        ppm = UTILIZATION_LEVELS_PPM[level]
        if ppm <= settings.utilization_max_ppm and shared_holds(members, replicas, level):
            return ppm * replicas
    return 0


def shared_predicted_ns(
    members: tuple[Member, ...],
    one: Member,
    figures: Execution,
    *,
    replicas: int,
    level: int,
    settings: PlannerSettings,
) -> Nanoseconds | None:
    """Return the percentile of latency of ``one``, which executes as ``figures``, among ``members``.

    None where none holds.
    """
    wait = _wait_milli_us(_largest(members), one, level)
    if wait is None:
        return None
    wait_ns = -(-wait // replicas)
    return settings.overhead_ns + ceil(ends_ns(figures, one.own_ns, wait_ns, settings))


def shared_capacity_rps(
    members: tuple[Member, ...], one: Member, *, rate_rps: float, room_ppm: int
) -> float:
    """Return the largest rate of ``one`` at which all ``members`` hold, the others at their peaks.

    ``room_ppm`` is theirs, of ``shared_room_ppm``. At least ``rate_rps`` where the group holds as planned.
    """
    others_ppm = sum(other.work_ppm for other in members) - one.work_ppm
    if one.work_ppm == 0:
        return rate_rps
    return max(0.0, rate_rps * (room_ppm - others_ppm) / one.work_ppm)
