"""The running state of one worker group: its lanes, the queues before them, the next wake-up.

Made and changed by ``topology`` when the plan or the workers change; every policy works on one
group at a time, so that an event costs what its own group holds, however many there are.
"""

from isochrone.ids import VariantId
from isochrone.scheduling.fairness import Shares
from isochrone.scheduling.lanes import Lane
from isochrone.scheduling.plan_view import GroupView, RouteKey
from isochrone.scheduling.queues import RouteQueue
from isochrone.units import Instant

NEVER: Instant = 1 << 62
"""Later than any instant."""


class WorkerGroup:
    """Lanes that host the same variants, and the queues that wait for them.

    ``expire_at`` is never later than the next instant at which something here runs out of time
    (a queued head, an answer, a pause); it may be earlier. ``dispatch_at`` is when the next batch
    may be sent to a lane that is still busy.
    """

    __slots__ = (
        "alone",
        "dispatch_at",
        "expire_at",
        "holders",
        "lanes",
        "queues",
        "shares",
        "unsettled",
        "view",
        "waiting",
    )

    def __init__(self, view: GroupView) -> None:
        self.view = view
        self.lanes: list[Lane] = []
        """By worker id."""
        self.holders: dict[VariantId, list[Lane]] = {}
        """Lanes that can run a variant, by worker id."""
        self.queues: dict[RouteKey, RouteQueue] = {}
        self.waiting: dict[RouteKey, RouteQueue] = {}
        """The queues that hold a request."""
        self.shares = Shares()
        self.unsettled = True
        """Some lane may have something to load or unload."""
        self.expire_at: Instant = NEVER
        self.dispatch_at: Instant = NEVER
        self.alone = (self,)
        """Itself as a tuple: what an event that touches this group alone answers."""

    def holders_of(self, variant: VariantId) -> list[Lane]:
        """Return the list of lanes that can run ``variant``; it is kept, and stays the same."""
        return self.holders.setdefault(variant, [])

    def refresh_holders(self) -> None:
        """Work out anew which lanes can run what: after a lane or its residents have changed."""
        for variant, holders in self.holders.items():
            holders[:] = [lane for lane in self.lanes if lane_holds(lane, variant)]


def lane_holds(lane: Lane, variant: VariantId) -> bool:
    """Whether ``lane`` can run ``variant`` now: resident, not on its way out, worker not stuck."""
    transfer = lane.transfer
    leaving = transfer is not None and transfer.variant == variant
    return variant in lane.resident and not leaving and not lane.stuck
