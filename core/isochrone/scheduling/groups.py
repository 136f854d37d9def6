"""The running state of one worker group: its lanes, the queues before them, the next wake-up.

Made and changed by ``topology`` when the plan or the workers change; every policy works on one
group at a time, so that an event costs what its own group holds, however many there are; and what is
asked for every request (who is first in line, which lane is free first, how busy they all are) is
kept rather than looked for.
"""

from collections import deque
from heapq import heapify, heappop, heappush

from isochrone.ids import VariantId
from isochrone.scheduling.demand import Demand
from isochrone.scheduling.fairness import Shares
from isochrone.scheduling.forecast import Forecast
from isochrone.scheduling.lanes import Lane, TransferKind
from isochrone.scheduling.line import Line
from isochrone.scheduling.overload import Overload
from isochrone.scheduling.picture import Picture
from isochrone.scheduling.plan_view import GroupView, RouteKey
from isochrone.scheduling.queues import LONG_AGO, NEVER, RouteQueue
from isochrone.scheduling.settings import Settings
from isochrone.units import MILLISECOND, Instant, Nanoseconds

SPARE_LOOK_NS: Nanoseconds = 50 * MILLISECOND
"""How often those that wait for an idle worker are looked at when nothing happens."""
OPENINGS_SPARE = 64
"""Void entries that the heap of lanes may hold beside four for each lane."""

SLOWNESS_STEPS = 8
"""Idle lanes whose speed factors differ by less than one part in so many count as equally fast."""

Wakes = list[tuple[Instant, int]]


class WorkerGroup:
    """Lanes that host the same variants, and the queues that wait for them.

    ``expire_at`` is never later than the next instant at which something here runs out of time
    (a queued head, an answer, a pause); it may be earlier. ``dispatch_at`` is when the next batch
    may be sent to a lane that is still busy; until ``closed_until`` no lane can take one, whoever
    comes. ``wakes`` is the cell's heap of (when, number), by which it finds who is to wake.
    """

    __slots__ = (
        "_expiries",
        "_home",
        "_openings",
        "_outstanding_max",
        "_picture",
        "_room",
        "alone",
        "asked_at",
        "closed_until",
        "crowded",
        "demand",
        "dispatch_at",
        "due_at",
        "expire_at",
        "forecast",
        "holders",
        "lanes",
        "line",
        "number",
        "overload",
        "queues",
        "queues_to",
        "ready_at",
        "shares",
        "siblings",
        "spare_at",
        "spares",
        "tightest_ns",
        "turns",
        "unsettled",
        "view",
        "waiting",
        "wake_at",
        "wakes",
    )

    def __init__(  # noqa: PLR0915 - what a group is
        self, view: GroupView, settings: Settings, number: int, wakes: "Wakes"
    ) -> None:
        self.view = view
        self.number = number
        """Tells it from every other group of its cell, also from former ones."""
        self.wakes = wakes
        self.wake_at: Instant = NEVER
        """When its earliest entry among ``wakes`` is."""
        self.line = Line()
        self.overload = Overload()
        self.turns: deque[RouteQueue] = deque()
        """Waiting queues whose growth is estimated anew, in turn."""
        self._home = 0
        """All its lanes, by bit."""
        self._picture: Picture | None = None
        self._openings: list[tuple[Instant, int, int]] = []
        """A heap of (when a lane is free, its place, its ticket); entries with old tickets are void."""
        self._outstanding_max = settings.outstanding_max
        self._expiries: list[tuple[Instant, RouteKey]] = []
        """A heap of when a queue's head may have to be given up; void unless it is the queue's."""
        self.closed_until: Instant = 0
        self.due_at: Instant = NEVER
        """Never later than when a lane owes an answer for too long, a pause of one is over, or
        something is to be loaded ahead of demand."""
        self.crowded = False
        """Some lane cannot hold all that the plan wants: loads follow demand there."""
        self.demand = Demand(settings.demand_half_life_ns)
        self.forecast = Forecast()
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
        self.tightest_ns: Nanoseconds = 0
        """The least time that any of its services has for a request."""
        self.unsettled = True
        """Some lane may have something to load or unload."""
        self.expire_at: Instant = NEVER
        self.dispatch_at: Instant = NEVER
        self.spares: dict[RouteKey, RouteQueue] = {}
        """The queues before which somebody waits for an idle worker."""
        self.spare_at: Instant = NEVER
        """When they are looked at next, at the latest."""
        self.asked_at: Instant = LONG_AGO
        """When somebody last asked to be answered in time."""
        self._room: tuple[float, Nanoseconds] = (0.0, 0)
        """What ``room_ns`` said last, and for which slowness."""
        self.ready_at: Instant | None = None
        """When its first worker is expected, by the plan's word."""
        self.siblings: tuple[WorkerGroup, ...] = ()
        """The groups to which services that have a route here have others, by id."""
        self.alone = (self,)
        """Itself as a tuple: what an event that touches this group alone answers."""

    def holders_of(self, variant: VariantId) -> list[Lane]:
        """Return the list of lanes that can run ``variant``; it is kept, and stays the same."""
        return self.holders.setdefault(variant, [])

    def take_queues(self, queues: dict[RouteKey, RouteQueue]) -> None:
        """Take those of ``queues`` that lead here."""
        self.queues = {key: queue for key, queue in queues.items() if queue.group is self}
        self.queues_to = {}
        self.spares = {key: queue for key, queue in self.queues.items() if queue.spare}
        self._room = (0.0, 0)
        self.tightest_ns = min((it.costs.target_ns for it in self.queues.values()), default=0)
        for claim in self.shares.claims.values():
            claim.queues = []
        for key, queue in self.queues.items():
            self.queues_to.setdefault(key[1], []).append(queue)
            self.shares.claims[key[0]].queues.append(queue)

    def refresh_all(self) -> None:
        """Work out anew which lanes can run what: after the lanes or the plan have changed."""
        self.crowded = any(lane.crowded for lane in self.lanes)
        for place, lane in enumerate(self.lanes):
            lane.place, lane.bit = place, 1 << place
        self._home = (1 << len(self.lanes)) - 1
        self._picture = None
        self.closed_until = 0
        self._reopen()
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
        self.closed_until = 0

    # What is kept so that nobody has to look for it.

    def picture_of(self, queue: RouteQueue, now: Instant, settings: Settings) -> Picture:
        """Return the lanes that ``queue`` counts on, as they are ``now``."""
        if queue.home != self._home:
            return Picture(queue.holders, now, settings)
        picture = self._picture
        if picture is None or now > picture.until:
            picture = self._picture = Picture(queue.holders, now, settings)
            self.line.look(picture)
        else:
            picture.move(now)
        return picture

    def sees_all(self, queue: RouteQueue) -> bool:
        """Whether ``queue`` counts on all the group's lanes."""
        return queue.home == self._home

    def note_lane(self, lane: Lane) -> None:
        """Take note that what is under way on ``lane`` has changed."""
        self._picture = None
        self.closed_until = 0
        lane.ticket += 1
        if len(lane.executions) < self._outstanding_max and not lane.stuck:
            self.offer_lane(lane)
            if len(self._openings) > 4 * len(self.lanes) + OPENINGS_SPARE:
                self._reopen()

    def offer_lane(self, lane: Lane) -> None:
        """Have ``lane``, which has room, stand among those that may be given work."""
        heappush(self._openings, (_opens_at(lane), lane.place, lane.ticket))

    def take_lane(self, now: Instant, ahead_ns: Nanoseconds) -> Lane | None:
        """Return the lane with room that is free first, if that is within ``ahead_ns``.

        Lanes that have nothing to do come first, those that are slowed last among them. It is
        offered no more until its work changes, or ``offer_lane`` is called. With None,
        ``dispatch_at`` is when the next one may be had.
        """
        openings = self._openings
        self.dispatch_at = NEVER
        while openings:
            free_at, place, ticket = openings[0]
            lane = self.lanes[place] if place < len(self.lanes) else None
            if lane is None or lane.ticket != ticket or lane.stuck:
                heappop(openings)
                continue
            # An overdue lane may be free later than was predicted when it was noted.
            if lane.executions:
                free_at = now + lane.residual_ns(now)
            if free_at - ahead_ns > now:
                self.dispatch_at = free_at - ahead_ns
                return None
            heappop(openings)
            return lane
        return None

    def expect_by(self, at: Instant) -> None:
        """Look at the lanes again at ``at``."""
        self.due_at = min(self.due_at, at)
        self.expire_at = min(self.expire_at, at)

    def expect_head(self, queue: RouteQueue, at: Instant) -> None:
        """Look at the head of ``queue`` again at ``at``."""
        if at < queue.expires_at:
            queue.expires_at = at
            heappush(self._expiries, (at, queue.key))
            self.expire_at = min(self.expire_at, at)

    def take_expired(self, now: Instant) -> RouteQueue | None:
        """Return a queue whose head may have to be given up; when there is none, note the next."""
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            at, key = heappop(expiries)
            queue = self.queues.get(key)
            if queue is not None and queue.expires_at == at:
                queue.expires_at = NEVER
                return queue
        self.expire_at = min(self.due_at, expiries[0][0] if expiries else NEVER)
        return None

    def look_at_spares(self, now: Instant) -> None:
        """Look soon at those that wait for an idle worker."""
        self.spare_at = min(self.spare_at, now + SPARE_LOOK_NS)
        self.note_wake()

    def room_ns(self, slowness: float) -> Nanoseconds:
        """Return for how long an idle worker may be taken, so that whoever comes next is in time.

        ``slowness`` is what its executions may take over their profile. Counted are requests of one
        row, whose service does not degrade.
        """
        if self._room[0] != slowness:
            rooms = [
                queue.costs.target_ns - int(queue.costs.cover_ns[1] * slowness)
                for queue in self.queues.values()
                if not queue.route.degraded
            ]
            self._room = (slowness, min(rooms, default=0))
        return self._room[1]

    def wants_to_wake(self) -> Instant:
        """Return when there will be something to do here if nothing happens before."""
        at = min(self.expire_at, self.spare_at) if self.spares else self.expire_at
        if self.waiting and self.dispatch_at < at:
            at = self.dispatch_at
        return at

    def note_wake(self) -> None:
        """Stand among ``wakes`` early enough."""
        at = self.wants_to_wake()
        if at < self.wake_at:
            self.wake_at = at
            heappush(self.wakes, (at, self.number))

    def _reopen(self) -> None:
        self._openings = [
            (_opens_at(lane), lane.place, lane.ticket)
            for lane in self.lanes
            if len(lane.executions) < self._outstanding_max and not lane.stuck
        ]
        heapify(self._openings)

    def waited_for(self, variant: VariantId) -> bool:
        """Whether a request waits for ``variant``."""
        return any(queue.requests for queue in self.queues_to.get(variant, ()))

    def waits_without(self, variant: VariantId) -> bool:
        """Whether a request waits for ``variant``, and no lane can run it."""
        return not self.holders[variant] and self.waited_for(variant)

    def idle(self, lane: Lane) -> bool:
        """Whether no request waits that could run on ``lane``."""
        return not any(queue.reach & lane.bit for queue in self.waiting.values())


def _opens_at(lane: Lane) -> Instant:
    """Return when ``lane`` is free; for one that is, an instant long ago, later where it is slower."""
    if lane.executions:
        return lane.free_at
    return LONG_AGO + int(lane.speed.factor * SLOWNESS_STEPS)


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
