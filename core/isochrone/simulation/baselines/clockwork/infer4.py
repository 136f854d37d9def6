"""INFER4: a strategy per request and batch size, served in order of latest start.

Called by ``controller``. Follows OSDI 2020, section 5.4, and the released scheduler of that number.
A strategy (request, batch size b) has to start by the request's aim minus the estimate for b, and
lies in the heap of every worker that holds the model. The one at the top is tried:

1. it is given up when it would end after its aim, and so are queue heads whose aim is past;
2. it needs b requests from its own on; else it takes the last b, and their first one's aim;
3. when more wait, the largest batch that still meets the aim is taken instead; when a larger one
   would only be met by beginning with a later request, the strategy is given up for that one;
4. requests before the batch are dropped.

The released code gives a strategy up (3) without asking whether the larger batch can be met; here
that is asked, so that nobody gives way to a batch that will not run.
"""

import heapq
from bisect import bisect_left

from isochrone.ids import ServiceId, WorkerId
from isochrone.simulation.baselines.clockwork.estimates import Estimates
from isochrone.simulation.baselines.clockwork.picker import Cancel, Expiries, Pick
from isochrone.simulation.baselines.facts import Instance, Model, Query
from isochrone.simulation.baselines.floor import Floor
from isochrone.units import Instant

_Strategy = tuple[Instant, int, int, Query]
"""Latest start, place of the request, batch size, request: the first three make the order total."""


class Infer4:
    """One queue per model, one heap of strategies per worker."""

    def __init__(self, floor: Floor, estimates: Estimates, cancel: Cancel) -> None:
        self._floor = floor
        self._estimates = estimates
        self._cancel = cancel
        self._queues: dict[ServiceId, list[Query]] = {}
        self._heaps: dict[WorkerId, list[_Strategy]] = {}
        self._expiries = Expiries()

    def offer(self, query: Query) -> None:
        """Queue ``query``, with its strategies on every worker that holds its model."""
        query.queued = True
        self._expiries.add(query)
        self._queues.setdefault(query.model.service, []).append(query)
        for instance in self._floor.holders(query.model):
            self._push(instance, query)

    def withdraw(self, query: Query) -> None:
        """Take ``query`` out; its strategies die with it."""
        query.queued = False
        self._queues[query.model.service].remove(query)

    def held(self, instance: Instance, model: Model) -> None:
        """Give ``instance`` the strategies of everybody who waits for ``model``."""
        for query in self._queues.get(model.service, []):
            self._push(instance, query)

    def pick(self, instance: Instance, free_at: Instant) -> Pick | None:
        """Try strategies in order of latest start until one can be sent."""
        heap = self._heaps.get(instance.worker, [])
        while heap:
            _, _, size, query = heapq.heappop(heap)
            if query.queued and instance.holds(query.model):
                pick = self._try(instance, free_at, size, query)
                if pick is not None:
                    return pick
        return None

    def expire(self, now: Instant) -> None:
        """Cancel who cannot be on time any more."""
        for query in self._expiries.due(now):
            self.withdraw(query)
            self._cancel(query)

    def next_expiry(self) -> Instant | None:
        """Return the first instant past the earliest aim."""
        return self._expiries.next()

    def _push(self, instance: Instance, query: Query) -> None:
        heap = self._heaps.setdefault(instance.worker, [])
        for size in self._estimates.sizes(query.model, instance.pool):
            latest = query.aim - self._estimates.infer_ns(query.model, instance.pool, size)
            heapq.heappush(heap, (latest, query.place, size, query))

    def _try(self, instance: Instance, free_at: Instant, size: int, query: Query) -> Pick | None:
        model = query.model
        sizes = self._estimates.sizes(model, instance.pool)
        ends = {it: free_at + self._estimates.infer_ns(model, instance.pool, it) for it in sizes}
        queue = self._queues[model.service]
        if query.aim < ends[size]:
            return None
        self._drop_before(queue, free_at)
        count = len(queue)
        if count < size or not query.queued:
            return None
        start = bisect_left(queue, query.place, key=lambda it: it.place)
        if count - start < size:
            start = count - size
            if queue[start].aim < ends[size]:
                return None
        for larger in reversed(sizes):
            if larger <= size or larger > count:
                continue
            first = min(start, count - larger)
            if queue[first].aim >= ends[larger]:
                start, size = first, larger
                break
            if first == start and queue[count - larger].aim >= ends[larger]:
                return None
        taken = queue[start : start + size]
        dropped = queue[:start]
        del queue[: start + size]
        for it in dropped:
            it.queued = False
            self._cancel(it)
        return Pick(size, taken)

    def _drop_before(self, queue: list[Query], instant: Instant) -> None:
        while queue and queue[0].aim < instant:
            gone = queue.pop(0)
            gone.queued = False
            self._cancel(gone)
