"""The requests that wait on one route, in order of deadline, and what they will cost.

One ``RouteQueue`` per (service, variant, group). Filled and emptied by ``scheduler`` and
``dispatch``; read by ``admission``. Every figure that admission asks for is kept up to date, so
that asking is O(1).
"""

from bisect import bisect_right
from typing import TYPE_CHECKING

from isochrone.scheduling.plan_view import RouteKey, RouteView
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import Instant, Nanoseconds

if TYPE_CHECKING:
    from isochrone.scheduling.fairness import Claim
    from isochrone.scheduling.groups import WorkerGroup
    from isochrone.scheduling.lanes import Lane

LONG_AGO: Instant = -(1 << 62)
GAP_WEIGHT = 0.1
"""Weight of one gap in the mean gap: about the last ten requests count."""


class RouteQueue:
    """Waiting requests of one route, by (aim, arrival).

    ``aims`` runs beside ``requests``, so that a position is found by bisection. ``holders`` are the
    lanes on which the route's variant is resident (one list per group and variant, shared).
    ``home`` is the set of lanes, by bit, that its requests count on: the holders, or where there are
    none the lane ``coming``, which is loading the variant or owes that. ``reach`` is the set of
    lanes on which its requests may come to run. All four are kept by ``WorkerGroup.refresh``.
    """

    __slots__ = (
        "accepted_at",
        "aims",
        "asked_at",
        "claim",
        "coming",
        "costs",
        "gap_ns",
        "group",
        "holders",
        "home",
        "key",
        "reach",
        "receiving",
        "requests",
        "retired",
        "route",
        "rows",
        "rows_max",
        "solo_ns",
        "work_ns",
    )

    def __init__(self, route: RouteView, group: "WorkerGroup", claim: "Claim") -> None:
        self.key: RouteKey = route.key
        self.route = route
        self.costs = route.costs
        self.group = group
        self.claim = claim
        self.holders: list[Lane] = group.holders_of(route.variant.id)
        self.home = self.reach = 0
        self.coming: Lane | None = None
        self.requests: list[Request] = []
        self.aims: list[Instant] = []
        self.receiving = 0
        """How many of the requests cannot run yet."""
        self.rows = 0
        self.rows_max = 1
        """The largest request since the queue was last empty."""
        self.solo_ns: Nanoseconds = 0
        """Lane time if every request ran in a batch of its own."""
        self.work_ns: Nanoseconds = 0
        """Lane time of everything that waits, as profile medians."""
        self.accepted_at: Instant = LONG_AGO
        """When a request was last admitted here: probes are counted from it."""
        self.asked_at: Instant = LONG_AGO
        """When a request last asked for a place here, admitted or not."""
        self.gap_ns = float(-LONG_AGO)
        """Smoothed time between two of them."""
        self.retired = False
        """The plan has dropped this route."""

    def note_asked(self, now: Instant) -> None:
        """Count a request that asks for a place here."""
        gap = float(now - self.asked_at)
        # The first gaps tell nothing of the rate; a mean of all would remember them for ever.
        self.gap_ns = gap if gap >= self.gap_ns else self.gap_ns + GAP_WEIGHT * (gap - self.gap_ns)
        self.asked_at = now

    def expected(self, now: Instant, within_ns: float) -> int:
        """Return how many more requests may ask for a place here ``within_ns`` from ``now``."""
        return int(within_ns / max(self.gap_ns, now - self.asked_at, 1.0))

    def replan(self, route: RouteView) -> None:
        """Follow a new plan's figures for the same route."""
        self.route = route
        self.costs = route.costs
        self.solo_ns = sum(self.solo_of(request.rows) for request in self.requests)
        self._recount()

    def solo_of(self, rows: int) -> Nanoseconds:
        """Lane time of ``rows`` alone. Rows beyond a new plan's cap count as the cap."""
        cover = self.costs.cover_ns
        return cover[rows] if rows < len(cover) else cover[-1]

    def backlog_ns(self, rows: int, rows_max: int, solo_ns: Nanoseconds) -> Nanoseconds:
        """Lane time of a backlog: ``rows`` in all, the largest of ``rows_max``.

        Exact for single rows. For larger ones an upper bound: batches are cut first come first
        served, so that each but the last is filled up to ``rows_max`` − 1 rows short of full.
        """
        costs = self.costs
        if rows_max == 1:
            return costs.work_ns(rows)
        filled = costs.full - rows_max + 1
        if filled < 1:
            return solo_ns
        return min(solo_ns, -(-rows // filled) * costs.full_ns)

    def push(self, request: Request) -> None:
        """Give ``request`` its place: after equals that came before it."""
        aims, requests = self.aims, self.requests
        aim = request.aim
        if not aims or aim > aims[-1]:
            requests.append(request)
            aims.append(aim)
        else:
            place = bisect_right(aims, aim)
            while place and aims[place - 1] == aim and requests[place - 1].id > request.id:
                place -= 1
            requests.insert(place, request)
            aims.insert(place, aim)
        self.rows_max = max(self.rows_max, request.rows)
        if request.state is RequestState.RECEIVING:
            self.receiving += 1
        self.rows += request.rows
        self.solo_ns += self.solo_of(request.rows)
        self._recount()

    def remove(self, request: Request) -> None:
        """Take ``request`` out, wherever it stands."""
        place = self.requests.index(request)
        del self.requests[place], self.aims[place]
        if request.state is RequestState.RECEIVING:
            self.receiving -= 1
        self.rows -= request.rows
        self.solo_ns -= self.solo_of(request.rows)
        self._recount()

    def take(self, count: int) -> list[Request]:
        """Take out and return the first ``count`` requests that are ready."""
        requests = self.requests
        if not self.receiving:
            taken = requests[:count]
            del requests[:count], self.aims[:count]
        else:
            taken = []
            for request in requests:
                if request.state is RequestState.QUEUED:
                    taken.append(request)
                    if len(taken) == count:
                        break
            for request in taken:
                place = requests.index(request)
                del requests[place], self.aims[place]
        for request in taken:
            self.rows -= request.rows
            self.solo_ns -= self.solo_of(request.rows)
        self._recount()
        return taken

    def head(self) -> Request | None:
        """Return the first request that is ready."""
        if not self.receiving:
            return self.requests[0] if self.requests else None
        for request in self.requests:
            if request.state is RequestState.QUEUED:
                return request
        return None

    def latest_start(self, request: Request, factor: float) -> Instant:
        """When ``request`` must start at the latest, alone, on a worker of speed ``factor``."""
        solo = self.solo_of(request.rows)
        # A probe was admitted on the profile alone, so it is held against the profile alone.
        return request.aim - (solo if request.probe else int(solo * factor))

    def _recount(self) -> None:
        waiting = self.group.waiting
        if self.requests:
            if self.rows_max == 1:
                costs = self.costs
                batches, rest = divmod(self.rows, costs.full)
                self.work_ns = batches * costs.full_ns + costs.tail_ns[rest]
            else:
                self.work_ns = self.backlog_ns(self.rows, self.rows_max, self.solo_ns)
            waiting[self.key] = self
        else:
            self.work_ns = 0
            self.rows_max = 1
            waiting.pop(self.key, None)
