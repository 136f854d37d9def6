"""A shared group in the making: what its members ask for together, and the fewest workers that do.

The rules are those of ``sharing``, arranged for a search that asks some hundred thousand times: what
members bring is summed up in a value, two of which are joined in one step, and the size of a group is
looked for from where it was before. Called by ``board`` and ``variation``, and by ``options`` for a
group of one. Pure.
"""

from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from math import ceil, inf
from typing import Final, NamedTuple

from isochrone.planning.problem import PlannerSettings
from isochrone.planning.queueing import CURVES_MAX, UTILIZATION_LEVELS_PPM, level_patience_milli
from isochrone.planning.sharing import Member

MILLI: Final = 1000
_Needs = tuple[float, ...]


class Ask(NamedTuple):
    """The least patience (nanoseconds) that there is for ``refused_ppb``, and what that share needs.

    ``burst``: whether the largest burst, too, is ahead. ``needs``: patience at each level, in thousandths
    of the longest job, infinite where none does.
    """

    least_ns: int
    refused_ppb: int
    burst: bool
    needs: _Needs


class Company(NamedTuple):
    """What members of a shared group bring and ask together: all that its size depends on.

    A tuple, and no dataclass: one is made for each way to serve that a search looks at.
    """

    work_ppm: int
    unit_us: int
    partial_us: int
    surge_us: int
    asks: tuple[Ask, ...]


class Size(NamedTuple):
    """Workers of a group, the same in parts of workers, and the level at which they are the fewest."""

    replicas: int
    lanes: float
    level: int


NO_COMPANY: Final = Company(0, 0, 0, 0, ())


@lru_cache(maxsize=CURVES_MAX)
def _needs(refused_ppb: int) -> _Needs:
    found = (level_patience_milli(it, refused_ppb) for it in range(len(UTILIZATION_LEVELS_PPM)))
    return tuple(inf if it is None else it for it in found)


def alone(one: Member) -> Company:
    """Return the company of a single member."""
    least_ns = MILLI * one.patience_us
    return Company(
        one.work_ppm,
        one.unit_us,
        one.partial_us,
        one.surge_us,
        (
            Ask(least_ns, one.refused_ppb, False, _needs(one.refused_ppb)),  # noqa: FBT003
            Ask(least_ns, one.of_bursts_ppb, True, _needs(one.of_bursts_ppb)),  # noqa: FBT003
        ),
    )


def joined(one: Company, other: Company) -> Company:
    """Return both companies as one."""
    work_ppm, unit_us, partial_us, surge_us, asks = one
    unit_us = max(unit_us, other.unit_us)
    partial_us = max(partial_us, other.partial_us)
    surge_us = max(surge_us, other.surge_us)
    work_ppm += other.work_ppm
    return Company(work_ppm, unit_us, partial_us, surge_us, asks + other.asks)


def pruned(company: Company) -> Company:
    """Return ``company`` without what is asked for by others anyway.

    Whoever has no more patience, may be refused no more, and comes behind a burst if the other does,
    asks for as much at every level.
    """
    kept: list[Ask] = []
    for ask in sorted(company.asks, key=_eagerness):  # none is outdone by one that comes later
        _, refused_ppb, burst, _ = ask
        if not any(it.refused_ppb <= refused_ppb and it.burst >= burst for it in kept):
            kept.append(ask)
    return company._replace(asks=tuple(kept))


def _eagerness(ask: Ask) -> tuple[int, int, bool]:
    return ask.least_ns, ask.refused_ppb, not ask.burst


def company_of(parts: Iterable[Company]) -> Company:
    """Return all ``parts`` as one company, pruned."""
    work_ppm = unit_us = partial_us = surge_us = 0
    asks: dict[tuple[int, bool], Ask] = {}
    for work, unit, partial, surge, asked in parts:
        work_ppm += work
        unit_us = max(unit_us, unit)
        partial_us = max(partial_us, partial)
        surge_us = max(surge_us, surge)
        for ask in asked:
            key = ask.refused_ppb, ask.burst
            known = asks.get(key)
            if known is None or ask.least_ns < known.least_ns:
                asks[key] = ask
    return pruned(Company(work_ppm, unit_us, partial_us, surge_us, tuple(asks.values())))


def less(company: Company, gone: Company) -> Company | None:
    """Return ``company``, which is pruned, without ``gone``; None where that takes a look at all.

    It does where ``gone`` may be what made the company ask for as much as it does.
    """
    for most, its in zip(company[1:4], gone[1:4], strict=True):
        if its and its == most:
            return None
    if any(ask in company.asks for ask in gone.asks):
        return None
    return company._replace(work_ppm=company.work_ppm - gone.work_ppm)


def levels_of(settings: PlannerSettings) -> int:
    """Return how many levels of utilization the settings allow."""
    return bisect_right(UTILIZATION_LEVELS_PPM, settings.utilization_max_ppm)


def size_of(company: Company, limit: int, levels: int, near: int = 0) -> Size | None:
    """Return the fewest workers, up to ``limit``, on which every member's promise holds.

    At each of the ``levels`` the work asks for a least number, which falls with the level, and patience
    for one that grows: the least of the larger of the two lies where they cross, at one of two levels.
    They are looked for from ``near``, which changes nothing but the time that it takes. Where the number
    is met with room to spare the true level is lower, and asks for no more.
    """
    if not levels:
        return None
    work_ppm, ppm = company.work_ppm, UTILIZATION_LEVELS_PPM
    level = near
    here, other = _asked(company, level), inf  # ``other``: what is asked a level below the crossing
    if here * ppm[level] >= work_ppm:
        while level > 0:
            other = _asked(company, level - 1)
            if other * ppm[level - 1] < work_ppm:
                break
            level, here, other = level - 1, other, inf
    else:
        while here * ppm[level] < work_ppm:
            level, other = level + 1, here
            if level == levels:
                here = inf
                break
            here = _asked(company, level)
    lanes = max(work_ppm / ppm[level], here) if here < inf else inf
    if other < inf:
        lanes = min(lanes, max(work_ppm / ppm[level - 1], other))
    if lanes > limit or limit < 1:
        return None
    return Size(max(1, ceil(lanes)), lanes, min(level, levels - 1))


def _asked(company: Company, level: int) -> float:
    """Return the workers that patience asks for at ``level``, in parts of them; infinite where none do."""
    _, unit_us, partial_us, surge_us, asks = company
    most = 0.0
    for least_ns, _, burst, needs in asks:
        wait_ns = needs[level] * unit_us + MILLI * (surge_us if burst else partial_us)
        if wait_ns > 0:
            if least_ns <= 0:
                return inf
            lanes = wait_ns / least_ns
            most = max(most, lanes)
    return most


def shared_replicas_needed(
    members: tuple[Member, ...], limit: int, settings: PlannerSettings
) -> int | None:
    """Return the fewest workers, up to ``limit``, on which every member's promise holds."""
    found = size_of(company_of(alone(it) for it in members), limit, levels_of(settings))
    return None if found is None else found.replicas
