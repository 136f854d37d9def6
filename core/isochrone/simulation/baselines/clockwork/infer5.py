"""INFER5: a queue per model and batch size, served in order of latest start of the heads.

Called by ``controller``. Follows the released scheduler of that number: cheaper than INFER4, with
the same aim. Each queue holds everybody who waits for the model and could still be in a batch of
that size. A model has, on each worker that holds it, one strategy per queue, which has to start by
the head's aim minus the estimate. The one at the top is tried: of the batch sizes from its own up,
the largest whose queue is long enough, after dropping heads that it would be too late for. When
there is none, the strategies for smaller sizes are offered again. When one is sent, everybody up to
its last request leaves every queue; who was in none of the batch is dropped.
"""

import heapq
from collections import deque

from isochrone.ids import ServiceId, WorkerId
from isochrone.simulation.baselines.clockwork.estimates import Estimates
from isochrone.simulation.baselines.clockwork.picker import Cancel, Expiries, Pick
from isochrone.simulation.baselines.facts import Instance, Model, Query
from isochrone.simulation.baselines.floor import Floor
from isochrone.units import Instant

_Strategy = tuple[Instant, int, ServiceId, int]
"""Latest start, place of the head, model, batch size."""


class Infer5:
    """Queues per model and batch size, one heap of strategies per worker."""

    def __init__(self, floor: Floor, estimates: Estimates, cancel: Cancel) -> None:
        self._floor = floor
        self._estimates = estimates
        self._cancel = cancel
        self._queues: dict[ServiceId, dict[int, deque[Query]]] = {}
        self._heaps: dict[WorkerId, list[_Strategy]] = {}
        self._expiries = Expiries()
        self._offered: dict[tuple[WorkerId, ServiceId, int], int] = {}
        """Place of the head that lies in the heap, so that it lies there once."""

    def offer(self, query: Query) -> None:
        """Queue ``query`` for every batch size, and offer its model to the workers."""
        query.queued = True
        self._expiries.add(query)
        model = query.model
        queues = self._queues.setdefault(model.service, {})
        for times in model.times.values():
            for size in times:
                queues.setdefault(size, deque())
        for queue in queues.values():
            queue.append(query)
        self._offer_model(model)

    def withdraw(self, query: Query) -> None:
        """Take ``query`` out of every queue."""
        query.queued = False
        for queue in self._queues[query.model.service].values():
            if query in queue:
                queue.remove(query)

    def held(self, instance: Instance, model: Model) -> None:
        """Offer ``model`` to ``instance``."""
        self._offer(instance, model, self._estimates.sizes(model, instance.pool))

    def pick(self, instance: Instance, free_at: Instant) -> Pick | None:
        """Try strategies in order of latest start until one can be sent."""
        heap = self._heaps.get(instance.worker, [])
        while heap:
            _, place, service, size = heapq.heappop(heap)
            if self._offered.get((instance.worker, service, size)) != place:
                continue
            del self._offered[instance.worker, service, size]
            model = self._floor.models.get(service)
            if model is None or not instance.holds(model):
                continue
            pick = self._try(instance, model, free_at, size)
            if pick is not None:
                self._offer_model(model)
                return pick
            sizes = self._estimates.sizes(model, instance.pool)
            self._offer(instance, model, [it for it in sizes if it < size])
        return None

    def expire(self, now: Instant) -> None:
        """Cancel who cannot be on time any more."""
        for query in self._expiries.due(now):
            self.withdraw(query)
            self._cancel(query)

    def next_expiry(self) -> Instant | None:
        """Return the first instant past the earliest aim."""
        return self._expiries.next()

    def _try(self, instance: Instance, model: Model, free_at: Instant, size: int) -> Pick | None:
        queues = self._queues[model.service]
        for larger in reversed(self._estimates.sizes(model, instance.pool)):
            if larger < size:
                break
            took = self._estimates.infer_ns(model, instance.pool, larger)
            self._drop_before(queues, larger, free_at + took)
            queue = queues[larger]
            if len(queue) >= larger:
                taken = [queue.popleft() for _ in range(larger)]
                self._pass(queues, taken)
                return Pick(larger, taken)
        return None

    def _pass(self, queues: dict[int, deque[Query]], taken: list[Query]) -> None:
        """Let everybody up to the last of ``taken`` leave every queue."""
        last = taken[-1].place
        for query in taken:
            query.queued = False
        for queue in queues.values():
            while queue and queue[0].place <= last:
                gone = queue.popleft()
                if gone.queued:
                    gone.queued = False
                    self._cancel(gone)

    def _drop_before(self, queues: dict[int, deque[Query]], size: int, aim: Instant) -> None:
        """Drop the heads of the queue for ``size`` whose aim is before ``aim``.

        Who then waits in no queue at all is cancelled.
        """
        queue = queues[size]
        while queue and queue[0].aim < aim:
            gone = queue.popleft()
            if not any(it and it[0].place <= gone.place for it in queues.values()):
                gone.queued = False
                self._cancel(gone)

    def _offer_model(self, model: Model) -> None:
        for instance in self._floor.holders(model):
            self._offer(instance, model, self._estimates.sizes(model, instance.pool))

    def _offer(self, instance: Instance, model: Model, sizes: list[int]) -> None:
        queues = self._queues.get(model.service, {})
        for size in sizes:
            queue = queues.get(size)
            key = (instance.worker, model.service, size)
            if not queue or self._offered.get(key) == queue[0].place:
                continue
            took = self._estimates.infer_ns(model, instance.pool, size)
            self._offered[key] = queue[0].place
            heap = self._heaps.setdefault(instance.worker, [])
            heapq.heappush(heap, (queue[0].aim - took, queue[0].place, model.service, size))
