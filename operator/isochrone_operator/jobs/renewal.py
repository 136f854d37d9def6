"""Whether a profile is still to be believed: noise when it was made, and what live requests say of it.

Called by ``profiling``. Pure: what is remembered stands in the profile's own status (``round``, ``drift``).
A profile in doubt stays in use, for there is no better one; it is measured again, and every further time
only after twice as long.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.common import billionths
from isochrone.api.modelvariant import PoolProfile, ProfileDrift
from isochrone.ids import split_qualified
from isochrone.units import HOUR, MINUTE, Instant, Nanoseconds, parse_duration, parse_rate
from isochrone_operator.jobs.conditions import instant_of, written
from isochrone_operator.snapshot import REPORT_FRESH_NS, ObservedExecutions, Report

STALE: Final = "Stale"
NOISY: Final = "Noisy"

DRIFTED: Final = (0.8, 1.25)
"""A live median outside of this band contradicts the profile: 1.25 is INFaaS's threshold for an accelerator
that somebody interferes with, 0.8 its inverse."""
AGREES: Final = (0.87, 1.15)
"""… and one inside of this band takes it back: what trembles at an edge does not come and go."""
DRIFT_NS: Final[Nanoseconds] = 10 * MINUTE
"""For so long, two windows of what gateways tell: a slow spell of a host is the scheduler's affair."""
WAIT_NS: Final[Nanoseconds] = HOUR // 2
DOUBLINGS_MAX: Final = 5
"""A profile is measured again half an hour after it was made at the earliest, and at last 16 hours."""
GRID_NS: Final[Nanoseconds] = 10 * MINUTE
"""Variants that were measured together come due together, so that one Job measures them again."""

Evidence = Mapping[tuple[str, str], Sequence[ObservedExecutions]]
"""By variant's name and pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """Why a profile is not believed, ``STALE`` or ``NOISY``, and when it should be measured again."""

    reason: str
    message: str
    due_at: Instant


def evidence(namespace: str, reports: Iterable[Report], now: Instant) -> Evidence:
    """Return what leading gateways of ``namespace`` told lately of executions."""
    found: dict[tuple[str, str], list[ObservedExecutions]] = {}
    for report in reports:
        fresh = now - report.at <= REPORT_FRESH_NS
        if report.namespace != namespace or not fresh or not report.observed.leading:
            continue
        for it in report.observed.executions:
            found.setdefault((split_qualified(it.variant)[1], it.pool), []).append(it)
    return found


def drift_of(
    profile: PoolProfile, seen: Sequence[ObservedExecutions], now: Instant
) -> ProfileDrift | None:
    """Return how far live medians are from those of ``profile``, and since when; None if near.

    Batch sizes count by their executions; those that were not measured do not count.
    """
    medians = {it.size: parse_duration(it.p50) for it in profile.batches}
    known = [it for it in seen if medians.get(it.batch_size)]
    executions = sum(it.executions for it in known)
    if not executions:
        return None
    slower = sum(it.executions * it.p50_ns / medians[it.batch_size] for it in known)
    ratio = slower / executions
    low, high = DRIFTED if profile.drift is None else AGREES
    if low <= ratio <= high:
        return None
    if profile.drift is not None and (parse_rate(profile.drift.ratio) > 1) == (ratio > 1):
        return profile.drift
    return ProfileDrift(ratio=billionths(round(ratio, 2)), since=written(now))


def doubt(profile: PoolProfile, drift: ProfileDrift | None, now: Instant) -> Doubt | None:
    """Return why ``profile`` should be measured again, if it should."""
    measured = instant_of(profile.measured_at)
    made_at = 0 if measured is None else measured
    wait_ns = WAIT_NS * 2 ** min(profile.round, DOUBLINGS_MAX)
    since = None if drift is None else instant_of(drift.since)
    if drift is not None and since is not None and drift_lasts(drift, now):
        message = (
            f"on {profile.pool}: live requests take {drift.ratio} times what was measured, since "
            f"{drift.since}"
        )
        due_at = _on_grid(max(made_at + wait_ns, since + DRIFT_NS))
        return Doubt(reason=STALE, message=message, due_at=due_at)
    noise = profile.noise
    if noise is not None and noise.noisy:
        taken = "an unknown share" if noise.taken is None else noise.taken
        message = (
            f"on {profile.pool}: measured under noise on {profile.measured_at}: others had {taken} of "
            f"its cores, and its medians are within {noise.spread or 'an unknown width'} of each other"
        )
        return Doubt(reason=NOISY, message=message, due_at=_on_grid(made_at + wait_ns))
    return None


def says_the_same(known: PoolProfile, found: PoolProfile) -> bool:
    """Return whether ``found`` is ``known``, or a new measurement of the same that found what it had.

    Live requests then still contradict it as they did: what makes them slower is not there when it is measured.
    """
    if known.measured_at == found.measured_at:
        return True
    medians = {it.size: parse_duration(it.p50) for it in known.batches}
    ratios = [
        parse_duration(it.p50) / medians[it.size] for it in found.batches if medians.get(it.size)
    ]
    low, high = AGREES
    same = known.basis == found.basis and len(ratios) == len(found.batches) > 0
    return same and low <= sum(ratios) / len(ratios) <= high


def drift_lasts(drift: ProfileDrift, now: Instant) -> bool:
    """Return whether ``drift`` has lasted long enough to doubt the profile."""
    since = instant_of(drift.since)
    return since is not None and now - since >= DRIFT_NS


def drift_until(drift: ProfileDrift | None) -> Instant | None:
    """Return when ``drift`` will have lasted long enough to doubt the profile."""
    since = None if drift is None else instant_of(drift.since)
    return None if since is None else since + DRIFT_NS


def _on_grid(at: Instant) -> Instant:
    return -(-at // GRID_NS) * GRID_NS
