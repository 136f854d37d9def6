"""Shares of lane time: how much of a group's workers one service may fill with its backlog.

Deadline order alone is unfair: a service with a loose deadline fills the lane as far as *its*
deadline reaches, and every newcomer with a tight one is refused. So a service's backlog is bounded
by its share of the time up to its deadline. Backlogs that keep to shares which sum to 1 are
together feasible in deadline order (the demand-bound argument of Baruah, Rosier and Howell, 1990);
what a service without recent arrivals leaves, the others borrow, and it returns with its first
arrival.

One ``Shares`` per group; asked by ``admission``, told by ``scheduler`` and ``dispatch``.
"""

from typing import TYPE_CHECKING

from isochrone.ids import ServiceId
from isochrone.units import ONE_PPM, Instant, Nanoseconds, PartsPerMillion

if TYPE_CHECKING:
    from isochrone.scheduling.queues import RouteQueue


class Claim:
    """One service's claim on one group. ``share_ppm`` is its part of all claims on the group."""

    __slots__ = ("active", "arrived_at", "queues", "service", "share_ppm")

    def __init__(self, service: ServiceId) -> None:
        self.service = service
        self.queues: list[RouteQueue] = []
        """The service's queues before the group's workers."""
        self.share_ppm: PartsPerMillion = ONE_PPM
        self.active = False
        self.arrived_at: Instant = 0


class Shares:
    """The claims on one group, and which of them are active."""

    __slots__ = ("_active", "_active_ppm", "claims")

    def __init__(self) -> None:
        self.claims: dict[ServiceId, Claim] = {}
        self._active: dict[ServiceId, Claim] = {}
        self._active_ppm: PartsPerMillion = 0

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
