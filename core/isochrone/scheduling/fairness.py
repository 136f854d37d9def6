"""Shares of lane time: how much of a group's workers one service may fill with its backlog.

Deadline order alone is unfair: a service with a loose deadline fills the lane as far as *its*
deadline reaches, and every newcomer with a tight one is refused. So a service's backlog is bounded
by its share of the time up to its deadline. Backlogs that keep to shares which sum to 1 are
together feasible in deadline order (the demand-bound argument of Baruah, Rosier and Howell, 1990);
what a service without recent arrivals leaves, the others borrow, and it returns with its first
arrival.

A share may be smaller than one batch: fifteen services with 50 ms each own 3 ms of it. Held to that, all
would run in batches of one, and everybody lose. So a service may always fill its first batch, until
somebody is *pressed* by that: refused, although given far less than it owns, and that for longer than chance
explains. From then on the bound holds, for a while: for those who were given much more than they own, and if
that does not help, for everybody. It seldom comes to that: while somebody is refused who was given less than
it owns, whoever was given more and opens a batch *stands back* a little, so that the other comes first.

One ``Shares`` per group; asked by ``admission``, told by ``arrival`` and ``dispatch``.
"""

from math import exp2
from typing import TYPE_CHECKING, Final

from isochrone.ids import ActionId, ServiceId
from isochrone.units import ONE_PPM, Instant, Nanoseconds, PartsPerMillion

if TYPE_CHECKING:
    from isochrone.scheduling.lanes import Execution
    from isochrone.scheduling.queues import RouteQueue


PRESSED_PART: Final = 0.1
"""A refused service that was given less than so much of its share may be pressed by the others …"""
PRESSED_FOR_WINDOWS: Final = 10
"""… and is, when that has lasted for so long. Among fifteen equal services with closed-loop clients and tight
targets the shortest has a quarter of its share, for a while: those who were answered together come together
again. With a half, and at once, batches of 8 became batches of 3 for that, and goodput fell by a quarter."""
MEMORY_WINDOWS: Final = 5
"""Half-life of what a service was given, in windows of activity: long enough for several batches of
each of fifteen services, or chance alone would look like pressure."""
EXCESS_PART: Final = 1.5
"""Who was given more than so much of its share is held to it first. Services that batch well win time from
those that do not: of fifteen equal ones the first had forty times what the last had."""
PRESSED_WINDOWS: Final = 20
"""For how many windows the strict bound holds then; for everybody, and twice as long each time, when it
happens again soon after …"""
PRESSED_WINDOWS_MAX: Final = 1280
"""… up to this."""
STAND_BACK: Final = 0.05
"""Who was given twice its share, or more, must end so much of its target earlier where it stands back: enough
to come second, too little to leave a worker idle."""
LOOKS_PER_WINDOW: Final = 100
"""How often shares are compared at most; it takes a look at every active service."""


class Claim:
    """One service's claim on one group. ``share_ppm`` is its part of all claims on the group."""

    __slots__ = (
        "active",
        "active_since",
        "arrived_at",
        "given_at",
        "given_ns",
        "queues",
        "service",
        "share_ppm",
        "short_since",
        "under_way",
    )

    def __init__(self, service: ServiceId) -> None:
        self.service = service
        self.queues: list[RouteQueue] = []
        """The service's queues before the group's workers."""
        self.under_way: dict[ActionId, Execution] = {}
        """Its executions, also those on workers that the group has lost meanwhile."""
        self.share_ppm: PartsPerMillion = ONE_PPM
        self.active = False
        self.active_since: Instant = 0
        self.arrived_at: Instant = 0
        self.given_ns = 0.0
        """Lane time that it was given of late: halves with every ``MEMORY_WINDOWS``."""
        self.given_at: Instant = 0
        self.short_since: Instant | None = None
        """Since when it was given less than ``PRESSED_PART`` of its share, at every look."""

    def give(self, lane_ns: Nanoseconds, now: Instant, window_ns: Nanoseconds) -> None:
        """Count lane time that the service was given."""
        self.given_ns = self.given_of_late(now, window_ns) + lane_ns
        self.given_at = now

    def given_of_late(self, now: Instant, window_ns: Nanoseconds) -> float:
        """Return the lane time that the service was given of late."""
        return self.given_ns * exp2((self.given_at - now) / (MEMORY_WINDOWS * window_ns))


class Shares:
    """The claims on one group, and which of them are active."""

    __slots__ = (
        "_active",
        "_active_ppm",
        "_for_all",
        "_given_ns",
        "_hungry_until",
        "_look_at",
        "_pressed_until",
        "_weigh_at",
        "_windows",
        "claims",
    )

    def __init__(self) -> None:
        self.claims: dict[ServiceId, Claim] = {}
        self._active: dict[ServiceId, Claim] = {}
        self._active_ppm: PartsPerMillion = 0
        self._look_at: Instant = 0
        self._windows = PRESSED_WINDOWS
        self._pressed_until: Instant = 0
        """Until then services are held to their shares, first batches included: all, or those above."""
        self._for_all = False
        self._given_ns = 0.0
        """Lane time that was given to all active services of late, as it was weighed last."""
        self._weigh_at: Instant = 0
        self._hungry_until: Instant = 0
        """Until then somebody may come again who was given less than its share, and was refused."""

    def replan(self, lane_shares: dict[ServiceId, float]) -> None:
        """Follow a new plan: ``lane_shares`` are lane-seconds per second, by service.

        They are normalized to sum to 1; when all are zero they are equal.
        """
        for service in [service for service in self.claims if service not in lane_shares]:
            self.claims.pop(service).active = False
        total = sum(lane_shares.values())
        for service, share in lane_shares.items():
            claim = self.claims.setdefault(service, Claim(service))
            part = share / total if total > 0 else 1 / len(lane_shares)
            claim.share_ppm = round(part * ONE_PPM)
        self._active = {
            service: claim for service, claim in self._active.items() if service in self.claims
        }
        self._active_ppm = sum(claim.share_ppm for claim in self._active.values())

    def note_arrival(self, claim: Claim, now: Instant) -> None:
        """Count ``claim`` as active from now on."""
        if len(self.claims) == 1:
            return
        claim.arrived_at = now
        if claim.active:
            # Kept in order of last arrival, so that expiry looks at the first alone.
            del self._active[claim.service]
        else:
            claim.active = True
            claim.active_since = now
            self._active_ppm += claim.share_ppm
        self._active[claim.service] = claim

    def available_ppm(self, claim: Claim, now: Instant, window_ns: Nanoseconds) -> PartsPerMillion:
        """Return the share that ``claim`` may use: all but what other active services own."""
        active = self._active
        while active:
            oldest = next(iter(active.values()))
            if oldest.arrived_at + window_ns >= now:
                break
            oldest.active = False
            self._active_ppm -= oldest.share_ppm
            del active[oldest.service]
        others = self._active_ppm - (claim.share_ppm if claim.active else 0)
        return max(0, ONE_PPM - others)

    def holds(self, claim: Claim, now: Instant, window_ns: Nanoseconds) -> bool:
        """Return whether somebody is pressed, and ``claim`` has to keep to its share for that."""
        if now >= self._pressed_until:
            return False
        if self._for_all:
            return True
        owned = self._owned_ns(claim, now, window_ns)
        return claim.given_of_late(now, window_ns) > EXCESS_PART * owned

    def stands_back(self, claim: Claim, now: Instant, window_ns: Nanoseconds) -> float:
        """Return how much of its target earlier ``claim`` must end where it opens a batch."""
        if now >= self._hungry_until:
            return 0.0
        owned = self._owned_ns(claim, now, window_ns)
        given = claim.given_of_late(now, window_ns)
        return STAND_BACK * min(1.0, given / owned - 1.0) if given > owned > 0 else 0.0

    def part(self, claim: Claim) -> float:
        """Return which part of the lanes ``claim`` owns among those that are active."""
        return claim.share_ppm / max(self._active_ppm, 1)

    def note_refusal(
        self, claim: Claim, target_ns: Nanoseconds, now: Instant, window_ns: Nanoseconds
    ) -> None:
        """Look whether ``claim``, refused for want of time, was given too little, or is pressed.

        Whoever was refused is taken to come again within its target.
        """
        if now < self._look_at:
            return
        self._look_at = now + window_ns // LOOKS_PER_WINDOW
        owned = self._owned_ns(claim, now, window_ns)
        given = claim.given_of_late(now, window_ns)
        if given < owned:
            self._hungry_until = now + target_ns
        # Whoever has just begun was not given much yet; and what is in force needs no second look.
        if now < max(claim.active_since + MEMORY_WINDOWS * window_ns, self._pressed_until):
            return
        if given >= PRESSED_PART * owned:
            claim.short_since = None
        elif claim.short_since is None:
            claim.short_since = now
        elif now - claim.short_since >= PRESSED_FOR_WINDOWS * window_ns:
            claim.short_since = None
            ended = self._pressed_until
            soon = 0 < ended < now < ended + self._windows * window_ns // 2
            twice = min(2 * self._windows, PRESSED_WINDOWS_MAX)
            self._windows = twice if soon and self._for_all else PRESSED_WINDOWS
            self._for_all = soon
            self._pressed_until = now + self._windows * window_ns

    def _owned_ns(self, claim: Claim, now: Instant, window_ns: Nanoseconds) -> float:
        """Return how much of the lane time that was given to all of late was due to ``claim``."""
        if now >= self._weigh_at:
            self._weigh_at = now + window_ns // LOOKS_PER_WINDOW
            self._given_ns = self._given_to_all(now, window_ns)
        return self.part(claim) * self._given_ns

    def _given_to_all(self, now: Instant, window_ns: Nanoseconds) -> float:
        """Return the lane time that all active services were given of late."""
        return sum([other.given_of_late(now, window_ns) for other in self._active.values()])
