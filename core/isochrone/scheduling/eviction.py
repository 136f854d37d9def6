"""Which weights make room for others.

Asked by ``promises`` when a load needs more memory than is free. First goes what the plan no longer
wants, then what was used longest ago (the residents of a lane stand in that order). Never goes what
is running, what a request waits for, or what has just refused to go; and for a load ahead of demand,
nothing that will probably be needed before that demand, and first what surely will not.
"""

from isochrone.ids import VariantId
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.queues import LONG_AGO
from isochrone.units import Bytes, Instant

QUIET = 3
"""Silences that last so many times their mean are one in twenty, of requests that come at random."""


def find_victims(
    group: WorkerGroup, lane: Lane, needed_bytes: Bytes, now: Instant, *, until: Instant
) -> list[VariantId] | None:
    """Return what must leave ``lane`` so that ``needed_bytes`` fit, in that order.

    With ``until`` after ``now`` only what will probably not be needed before that instant may leave.
    Empty when they fit as it is; None when nothing that may leave makes enough room.
    """
    resting: list[VariantId] = []
    if until > now:
        forecast = group.forecast
        resting = [one for one in lane.resident if forecast.needs(one, now, until) is False]
    room = lane.room_bytes
    victims: list[VariantId] = []
    for residents in (lane.unwanted, resting, lane.resident):
        for variant in residents:
            if room >= needed_bytes:
                return victims
            if (
                variant not in victims
                and may_leave(group, lane, variant, now)
                and (until <= now or not _needed(group, variant, now, until))
            ):
                victims.append(variant)
                room += lane.resident[variant]
    return victims if room >= needed_bytes else None


def may_leave(group: WorkerGroup, lane: Lane, variant: VariantId, now: Instant) -> bool:
    """Whether ``variant`` may be chosen to leave ``lane``; what is leaving already may not."""
    transfer = lane.transfer
    return not (
        variant in lane.doomed
        or (transfer is not None and transfer.variant == variant)
        or lane.pausing(variant, now)
        or lane.uses(variant)
        or group.waited_for(variant)
    )


def _needed(group: WorkerGroup, variant: VariantId, now: Instant, until: Instant) -> bool:
    """Whether ``variant`` will probably be asked for by ``until``.

    Where no forecast knows, it will be unless nobody has asked for ``QUIET`` times as long.
    """
    foreseen = group.forecast.needs(variant, now, until)
    if foreseen is not None:
        return foreseen
    queues = group.queues_to.get(variant, ())
    asked_at = max([queue.asked_at for queue in queues], default=LONG_AGO)
    return now - asked_at < QUIET * (until - now)
