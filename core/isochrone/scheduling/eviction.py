"""Which weights make room for others.

Asked by ``promises`` when a load needs more memory than is free. First goes what the plan no longer
wants, then what was used longest ago (the residents of a lane stand in that order). Never goes what
is running, what a request waits for, or what has just refused to go.
"""

from isochrone.ids import VariantId
from isochrone.scheduling.groups import WorkerGroup
from isochrone.scheduling.lanes import Lane
from isochrone.units import Bytes, Instant


def find_victims(
    group: WorkerGroup, lane: Lane, needed_bytes: Bytes, now: Instant
) -> list[VariantId] | None:
    """Return what must leave ``lane`` so that ``needed_bytes`` fit, in that order.

    Empty when they fit as it is; None when nothing that may leave makes enough room.
    """
    room = lane.room_bytes
    victims: list[VariantId] = []
    for residents in (lane.unwanted, lane.resident):
        for variant in residents:
            if room >= needed_bytes:
                return victims
            if may_leave(group, lane, variant, now) and variant not in victims:
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
