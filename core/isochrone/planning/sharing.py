"""Shared groups: what their members bring and ask, and how many workers that takes.

The figures are of ``attainment``, in whole numbers that any solver adds up alike. Called by
``options``, ``exact``, ``board``, ``variation``, ``assembly`` and ``judge``. Pure.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, inf
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


def _wait_milli_us(members: tuple[Member, ...], one: Member, level: int) -> int | None:
    """Return what ``one`` may have before it at that level, in thousandths of lane-microseconds.

    The larger of what all its requests need and what those in a burst need: the jobs ahead are of
    one size, the largest of any member, and beside them is the largest batch that is not full, and
    the largest burst. None where no patience is enough.
    """
    needed = level_patience_milli(level, one.refused_ppb)
    of_bursts = level_patience_milli(level, one.of_bursts_ppb)
    if needed is None or of_bursts is None:
        return None
    unit_us = max(other.unit_us for other in members)
    return max(
        needed * unit_us + 1000 * max(other.partial_us for other in members),
        of_bursts * unit_us + 1000 * max(other.surge_us for other in members),
    )


def shared_holds(members: tuple[Member, ...], replicas: int, level: int) -> bool:
    """Return whether every member's patience is enough at that level of utilization."""
    for one in members:
        wait = _wait_milli_us(members, one, level)
        if wait is None or wait > 1000 * one.patience_us * replicas:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """What the members of a shared group bring and ask together: all that its size depends on.

    ``patience_us``: (share that may be refused, whether of bursts, the least patience), per class.
    """

    work_ppm: int
    unit_us: int
    partial_us: int
    surge_us: int
    patience_us: tuple[tuple[int, bool, int], ...]

    def joined(self, *members: Member) -> "Company":
        """Return the company with ``members`` more."""
        work_ppm, unit_us = self.work_ppm, self.unit_us
        partial_us, surge_us = self.partial_us, self.surge_us
        asked = {(ppb, burst): least for ppb, burst, least in self.patience_us}
        # Asked some hundred thousand times for one plan: plain comparisons.
        for one in members:
            work_ppm += one.work_ppm
            unit_us = max(unit_us, one.unit_us)
            partial_us = max(partial_us, one.partial_us)
            surge_us = max(surge_us, one.surge_us)
            patience_us = one.patience_us
            for key in ((one.refused_ppb, False), (one.of_bursts_ppb, True)):
                least = asked.get(key)
                if least is None or patience_us < least:
                    asked[key] = patience_us
        return Company(
            work_ppm=work_ppm,
            unit_us=unit_us,
            partial_us=partial_us,
            surge_us=surge_us,
            patience_us=tuple((*key, least) for key, least in asked.items()),
        )


NO_COMPANY: Final = Company(work_ppm=0, unit_us=0, partial_us=0, surge_us=0, patience_us=())


def company_of(members: Iterable[Member]) -> Company:
    """Return what ``members`` bring and ask together."""
    return NO_COMPANY.joined(*members)


def company_replicas(
    company: Company, limit: int, settings: PlannerSettings
) -> tuple[int, float] | None:
    """Return the fewest workers, up to ``limit``, on which every member's promise holds.

    And the same before it is made whole, for whoever asks how near the next worker is. At each level
    the work asks for a least number, which falls with the level, and patience for one that grows: the
    least of the larger of the two lies where they cross, at one of two levels. Where it is met with
    room to spare the true level is lower, and asks for no more.
    """
    low, high = 0, _levels(settings)
    while low < high:
        middle = (low + high) // 2
        asked = _asked(company, middle)
        if asked is None or asked[1] * UTILIZATION_LEVELS_PPM[middle] >= company.work_ppm:
            high = middle
        else:
            low = middle + 1
    fewest, lanes = limit + 1, inf
    for level in (low - 1, low):
        if 0 <= level < _levels(settings):
            asked = _asked(company, level)
            if asked is not None:
                ppm = UTILIZATION_LEVELS_PPM[level]
                fewest = min(fewest, max(1, -(-company.work_ppm // ppm), asked[0]))
                lanes = min(lanes, max(company.work_ppm / ppm, asked[1]))
    return None if fewest > limit else (fewest, lanes)


def _levels(settings: PlannerSettings) -> int:
    """Return how many levels of utilization the settings allow."""
    return bisect_right(UTILIZATION_LEVELS_PPM, settings.utilization_max_ppm)


def _asked(company: Company, level: int) -> tuple[int, float] | None:
    """Return the workers that patience asks for at ``level``, whole and not; None where none do."""
    replicas, lanes = 0, 0.0
    for refused_ppb, burst, least_us in company.patience_us:
        needed = level_patience_milli(level, refused_ppb)
        if needed is None:
            return None
        wait = needed * company.unit_us
        wait += 1000 * (company.surge_us if burst else company.partial_us)
        if wait > 0:
            if least_us <= 0:
                return None
            replicas = max(replicas, -(-wait // (1000 * least_us)))
            lanes = max(lanes, wait / (1000 * least_us))
    return replicas, lanes


def shared_replicas_needed(
    members: tuple[Member, ...], limit: int, settings: PlannerSettings
) -> int | None:
    """Return the fewest workers, up to ``limit``, on which every member's promise holds."""
    found = company_replicas(company_of(members), limit, settings)
    return None if found is None else found[0]


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
    wait = _wait_milli_us(members, one, level)
    if wait is None:
        return None
    wait_ns = -(-wait // replicas)
    return settings.overhead_ns + ceil(ends_ns(figures, one.own_ns, wait_ns, settings))


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
