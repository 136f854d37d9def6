"""The running state of one worker group: its lanes, the queues before them, the next wake-up.

Made and changed by ``topology`` when the plan or the workers change; every policy works on one
group at a time, so that an event costs what its own group holds, however many there are.
"""

from isochrone.ids import VariantId
from isochrone.scheduling.demand import Demand
from isochrone.scheduling.fairness import Shares
from isochrone.scheduling.lanes import Lane, TransferKind
from isochrone.scheduling.plan_view import GroupView, RouteKey
from isochrone.scheduling.queues import RouteQueue
from isochrone.units import Instant, Nanoseconds

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
        "crowded",
        "demand",
        "dispatch_at",
        "expire_at",
        "holders",
        "lanes",
        "queues",
        "queues_to",
        "shares",
        "unsettled",
        "view",
        "waiting",
    )

    def __init__(self, view: GroupView, demand_half_life_ns: Nanoseconds) -> None:
        self.view = view
        self.crowded = False
        """Some lane cannot hold all that the plan wants: loads follow demand there."""
        self.demand = Demand(demand_half_life_ns)
        self.lanes: list[Lane] = []
        """By worker id."""
        self.holders: dict[VariantId, list[Lane]] = {}
        """Lanes that can run a variant, by worker id."""
        self.queues: dict[RouteKey, RouteQueue] = {}
        self.queues_to: dict[VariantId, list[RouteQueue]] = {}
        """The queues by variant."""
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

    def take_queues(self, queues: dict[RouteKey, RouteQueue]) -> None:
        """Take those of ``queues`` that lead here."""
        self.queues = {key: queue for key, queue in queues.items() if queue.group is self}
        self.queues_to = {}
        for claim in self.shares.claims.values():
            claim.queues = []
        for key, queue in self.queues.items():
            self.queues_to.setdefault(key[1], []).append(queue)
            self.shares.claims[key[0]].queues.append(queue)

    def refresh_all(self) -> None:
        """Work out anew which lanes can run what: after the lanes or the plan have changed."""
        self.crowded = any(lane.crowded for lane in self.lanes)
        for place, lane in enumerate(self.lanes):
            lane.bit = 1 << place
        for variant in self.holders:
            self.refresh(variant)

    def refresh(self, variant: VariantId) -> None:
        """Work out anew which lanes can run ``variant``, and which will."""
        holders = self.holders.get(variant)
        if holders is None:
            return
        holders[:] = [lane for lane in self.lanes if lane_holds(lane, variant)]
        home = reach = 0
        for lane in holders:
            home |= lane.bit
        reach = home
        coming: Lane | None = None
        for lane in self.lanes:
            if lane_awaits(lane, variant):
                reach |= lane.bit
                if not home:
                    coming = lane
                    home = lane.bit
        for queue in self.queues_to.get(variant, ()):
            queue.home, queue.reach, queue.coming = home, reach, coming

    def waited_for(self, variant: VariantId) -> bool:
        """Whether a request waits for ``variant``."""
        return any(queue.requests for queue in self.queues_to.get(variant, ()))

    def waits_without(self, variant: VariantId) -> bool:
        """Whether a request waits for ``variant``, and no lane can run it."""
        return not self.holders[variant] and self.waited_for(variant)

    def idle(self, lane: Lane) -> bool:
        """Whether no request waits that could run on ``lane``."""
        return not any(queue.reach & lane.bit for queue in self.waiting.values())


def lane_holds(lane: Lane, variant: VariantId) -> bool:
    """Whether ``lane`` can run ``variant`` now: resident, not on its way out, worker not stuck."""
    transfer = lane.transfer
    leaving = transfer is not None and transfer.variant == variant
    return (
        variant in lane.resident and not leaving and variant not in lane.doomed and not lane.stuck
    )


def lane_awaits(lane: Lane, variant: VariantId) -> bool:
    """Whether ``lane``, where not all fits, is loading ``variant`` or owes that."""
    if not lane.crowded:
        return False
    transfer = lane.transfer
    loading = (
        transfer is not None and transfer.kind is TransferKind.LOAD and transfer.variant == variant
    )
    return loading or variant in lane.due
