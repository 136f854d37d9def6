"""The requests that wait on one route, in order of deadline, and what they will cost.

One ``RouteQueue`` per (service, variant, group). Filled and emptied by ``scheduler`` and
``dispatch``; read by ``admission``. Every figure that admission asks for is kept up to date, so
that asking is O(1).
"""

from bisect import bisect_right, insort
from math import exp2, log
from typing import TYPE_CHECKING

from isochrone.scheduling.line import Batch
from isochrone.scheduling.plan_view import RouteKey, RouteView
from isochrone.scheduling.requests import Request, RequestState
from isochrone.units import MILLISECOND, Instant, Nanoseconds

if TYPE_CHECKING:
    from isochrone.scheduling.fairness import Claim
    from isochrone.scheduling.groups import WorkerGroup
    from isochrone.scheduling.lanes import Lane

LONG_AGO: Instant = -(1 << 62)
NEVER: Instant = 1 << 62
"""Later than any instant."""
MEMORY_MIN_NS: Nanoseconds = 10 * MILLISECOND
"""Half-life of the rate at which a route is asked for: its target, but at least so much, or a burst
would be all that is known."""

SLOWNESS_SLACK = 0.05
"""How far, relatively, workers' slowness may change before batches are cut otherwise."""

Shape = tuple[int, Nanoseconds, Nanoseconds]
"""Requests per batch, the time of such a batch, and the time of the last one, which may be smaller.
"""


Cut = tuple[int, Instant, Nanoseconds]
"""A batch that will be cut: the place of its first request, the aim of that, and its time."""

Newcomer = tuple[int, Instant, int]
"""Who would join a queue: its place, its aim, and its rows."""


def _filled(rows: list[int], first: int, limit: int) -> tuple[int, int]:
    """Return where the batch from ``first`` on ends that holds ``limit`` rows, and what it holds.

    It holds the first one, whatever that takes.
    """
    after, total = first + 1, rows[first]
    while after < len(rows) and total + rows[after] <= limit:
        total += rows[after]
        after += 1
    return after, total


def spare_order(request: Request) -> tuple[bool, int, int]:
    """Return the order in which requests are served that wait for an idle worker."""
    return request.offline, request.lowered, request.id


class RouteQueue:
    """Waiting requests of one route, by (aim, arrival).

    ``aims`` runs beside ``requests``, so that a position is found by bisection. ``holders`` are the
    lanes on which the route's variant is resident (one list per group and variant, shared).
    ``home`` is the set of lanes, by bit, that its requests count on: the holders, or where there are
    none the lane ``coming``, which is loading the variant or owes that. ``reach`` is the set of
    lanes on which its requests may come to run. All four are kept by ``WorkerGroup.refresh``.
    ``spare`` are requests that wait for an idle worker: they stand in nobody's way, and no figure
    here counts them.
    """

    __slots__ = (
        "accepted_at",
        "aims",
        "asked",
        "asked_at",
        "batches",
        "claim",
        "coming",
        "costs",
        "expires_at",
        "group",
        "holders",
        "home",
        "key",
        "overloaded_at",
        "reach",
        "receiving",
        "requests",
        "retired",
        "route",
        "rows",
        "rows_max",
        "serial",
        "slowness",
        "solo_ns",
        "spare",
        "takes_turns",
        "work_ns",
    )

    def __init__(self, route: RouteView, group: "WorkerGroup", claim: "Claim") -> None:
        self.key: RouteKey = route.key
        self.route = route
        self.costs = route.costs
        """The route's, fitted to how slow the workers are."""
        self.slowness = 1.0
        """What they were fitted to."""
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
        self.overloaded_at: Instant = LONG_AGO
        """When a request was last refused here for want of time."""
        self.asked_at: Instant = LONG_AGO
        """When a request last asked for a place here, admitted or not."""
        self.asked = 0.0
        """How many have, halved with every half-life."""
        self.batches: list[Batch] = []
        """What waits, as it stands in the group's line."""
        self.serial = 0
        """How many batches it has had there."""
        self.takes_turns = False
        """Whether it stands in the group's ``turns``."""
        self.expires_at: Instant = NEVER
        """When the group will look at its head, at the latest."""
        self.retired = False
        """The plan has dropped this route."""
        self.spare: list[Request] = []
        """By (offline, lowered, number)."""

    def note_asked(self, now: Instant) -> None:
        """Count a request that asks for a place here."""
        self.asked = self._asked_of_late(now) + 1.0
        self.asked_at = now

    def expected(self, now: Instant, within_ns: float) -> int:
        """Return how many more requests will probably ask for a place here ``within_ns``."""
        return int(self.rate(now) * within_ns)

    def rate(self, now: Instant) -> float:
        """Return how many requests ask for a place here per nanosecond.

        Judged by the last few targets' worth of them; the last one itself tells of no rate.
        """
        return max(0.0, self._asked_of_late(now) - 1.0) * log(2) / self._memory_ns()

    def replan(self, route: RouteView) -> None:
        """Follow a new plan's figures for the same route."""
        self.route = route
        self.costs = route.costs.fit(self.slowness)
        self.solo_ns = sum(self.solo_of(request.rows) for request in self.requests)
        self._recount(0)

    def fit(self, slowness: float) -> None:
        """Cut batches as suits workers that take ``slowness`` times the profile, margin included."""
        if abs(slowness - self.slowness) <= SLOWNESS_SLACK * self.slowness:
            return
        self.slowness = slowness
        costs = self.route.costs.fit(slowness)
        other = costs.full != self.costs.full
        self.costs = costs
        if other and self.requests:
            self._recount(0)

    def shape(self, rows: int, more: int) -> Shape:
        """Return the shape of the backlog with ``more`` requests of ``rows`` in all.

        With requests of several rows, batches are taken as equal: their mean rows decide, and their
        whole cost is the queue's.
        """
        costs = self.costs
        count = len(self.aims) + more
        if rows <= 1 and self.rows_max == 1:
            rest = count % costs.full
            return costs.full, costs.full_ns, costs.tail_ns[rest] if rest else costs.full_ns
        total_rows = self.rows + rows
        solo = self.solo_ns + (costs.cover_ns[rows] if rows else 0)
        total = self.backlog_ns(total_rows, max(self.rows_max, rows), solo)
        step = max(1, costs.full * count // total_rows)
        each = -(-total // -(-count // step))
        return step, each, each

    def cuts(self, begin: int = 0, newcomer: Newcomer | None = None) -> list[Cut]:
        """Return the batches of what waits, from number ``begin`` on, as dispatch will cut them.

        With ``newcomer``, as they will be once it has its place.
        """
        costs = self.costs
        aims, place = self.aims, len(self.aims)
        if newcomer is not None:
            place = newcomer[0]
            aims = [*aims[:place], newcomer[1], *aims[place:]]
        cuts: list[Cut] = []
        if self.rows_max == 1 and (newcomer is None or newcomer[2] <= 1):
            for first in range(begin * costs.full, len(aims), costs.full):
                count = min(costs.full, len(aims) - first)
                cuts.append((first, aims[first], costs.tail_ns[count]))
            return cuts
        rows = [request.rows for request in self.requests]
        if newcomer is not None:
            rows.insert(place, newcomer[2])
        first = 0
        while first < len(rows):
            head = rows[first]
            total = _filled(rows, first, max(costs.full, self._cover(head)))[1]
            size = costs.pick[total] if total <= costs.full else self._cover(total)
            after, total = _filled(rows, first, max(size, self._cover(head)))
            cuts.append((first, aims[first], self.solo_of(total)))
            first = after
        return cuts[begin:]

    def _cover(self, rows: int) -> int:
        cover = self.costs.cover
        return cover[min(rows, len(cover) - 1)]

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
            place = len(aims)
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
        self._recount(place)

    def remove(self, request: Request) -> None:
        """Take ``request`` out, wherever it stands."""
        if request.spare:
            self.spare.remove(request)
            if not self.spare:
                self.group.spares.pop(self.key, None)
            return
        place = self.requests.index(request)
        del self.requests[place], self.aims[place]
        if request.state is RequestState.RECEIVING:
            self.receiving -= 1
        self.rows -= request.rows
        self.solo_ns -= self.solo_of(request.rows)
        self._recount(place)

    def set_aside(self, request: Request, now: Instant) -> None:
        """Have ``request``, which stands nowhere, wait here for an idle worker."""
        request.queue = self
        request.spare = True
        insort(self.spare, request, key=spare_order)
        self.group.spares[self.key] = self
        self.group.look_at_spares(now)

    def take(self, count: int) -> list[Request]:
        """Take out and return the first ``count`` requests that are ready."""
        requests = self.requests
        changed_from = 0
        if not self.receiving:
            taken = requests[:count]
            del requests[:count], self.aims[:count]
            if len(self.batches) > 1 and count == self.costs.full and self.rows_max == 1:
                # What is behind a full batch keeps its place.
                self.group.line.remove(self.batches[0])
                del self.batches[0]
                changed_from = len(requests)
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
        self._recount(changed_from)
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

    def _memory_ns(self) -> float:
        return float(max(MEMORY_MIN_NS, self.costs.target_ns))

    def _asked_of_late(self, now: Instant) -> float:
        if not self.asked:
            return 0.0
        return self.asked * exp2((self.asked_at - now) / self._memory_ns())

    def _stand_in_line(self, place: int) -> None:
        """Bring the group's line in line with the queue, from ``place`` on."""
        line, batches = self.group.line, self.batches
        first = 0
        if self.rows_max == 1:
            # The one before was the last, and may have grown since.
            full = self.costs.full
            first = max(0, min(place // full, -(-len(self.aims) // full) - 1) - 1)
        cuts = self.cuts(first)
        count = first + len(cuts)
        while len(batches) > count:
            line.remove(batches.pop())
        renewed = False
        for number, (_, aim, length_ns) in enumerate(cuts, first):
            if number < len(batches):
                batch = batches[number]
                if batch.aim == aim and not (renewed and batches[number - 1].aim == aim):
                    if number < count - 1:
                        line.expect(batch, 0)
                    if batch.length_ns != length_ns:
                        line.resize(batch, length_ns)
                    continue
                line.remove(batch)
            renewed = True
            self.serial += 1
            batch = Batch(self, (aim, self.key, self.serial), length_ns)
            batches[number : number + 1] = [batch]
            line.add(batch)

    def _recount(self, place: int) -> None:
        self._stand_in_line(place)
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
