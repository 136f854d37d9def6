"""Routing to the worker with the least outstanding work, without deadlines.

The textbook rule that many routers use (least outstanding requests, weighed by what they take; see
for instance Mitzenmacher and Upfal, "Probability and Computing", chapter 17, on placing balls into
the least loaded bin). A query is bound to a worker on arrival; each worker serves its own queue
first come, first served, with batches of one model as large as there are.

Follows no one system. Where nobody holds the model, queries wait for the first who does; when a
worker is lost, what was only queued for it is routed anew.
"""

from isochrone.ids import WorkerId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.facts import (
    QUEUE_MAX,
    Arrived,
    Changed,
    Instance,
    Lost,
    Query,
    Withdrawn,
    cover,
)
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.units import Instant, Nanoseconds


class LeastLoaded:
    """Least outstanding work; at most ``queue_max`` queries wait in all."""

    def __init__(self, *, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._floor = Floor()
        self._queues: dict[WorkerId, list[Query]] = {}
        self._unplaced: list[Query] = []

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, route who is unplaced, and fill idle instances."""
        floor = self._floor
        news = floor.take_in(event, now)
        match news:
            case Arrived():
                self._queue(news.query)
            case Withdrawn():
                self._forget([news.query])
            case Changed():
                self._forget(news.orphans)
                self._unroute()
            case Lost():
                self._unplaced += self._queues.pop(news.instance.worker, [])
            case _:
                pass
        place(floor, now)
        self._route()
        for instance in floor.instances.values():
            if not instance.running:
                self._fill(instance, now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: nothing here waits for time to pass."""
        return None

    def outstanding_ns(self, instance: Instance) -> Nanoseconds:
        """Return the profiled time of what ``instance`` runs, and of its queue one by one."""
        under_way = sum(batch.expected_ns for batch in instance.running)
        queue = self._queues.get(instance.worker, [])
        times = (query.model.times[instance.pool] for query in queue)
        return under_way + sum(it[min(it)] for it in times)

    def _queue(self, query: Query) -> None:
        waiting = len(self._unplaced) + sum(len(queue) for queue in self._queues.values())
        if query.rows > 1:
            self._floor.drop(query, Reason.NO_ROUTE)
        elif waiting >= self._queue_max:
            self._floor.drop(query, Reason.QUEUE_FULL)
        else:
            query.queued = True
            self._unplaced.append(query)

    def _forget(self, queries: list[Query]) -> None:
        gone = frozenset(query.id for query in queries)
        for queue in (self._unplaced, *self._queues.values()):
            queue[:] = [query for query in queue if query.id not in gone]

    def _unroute(self) -> None:
        """Take everybody back who only waits: workers may hold something else from now on."""
        waiting = [query for queue in self._queues.values() for query in queue]
        self._queues.clear()
        self._unplaced = sorted(self._unplaced + waiting, key=lambda query: query.id)

    def _route(self) -> None:
        unplaced, self._unplaced = self._unplaced, []
        for query in unplaced:
            holders = self._floor.holders(query.model)
            if holders:
                least = min(holders, key=lambda it: (self.outstanding_ns(it), it.worker))
                self._queues.setdefault(least.worker, []).append(query)
            elif self._floor.stranded(query.model):
                self._floor.strand(query)
            else:
                self._unplaced.append(query)

    def _fill(self, instance: Instance, now: Instant) -> None:
        queue = self._queues.get(instance.worker, [])
        head = next((query for query in queue if instance.holds(query.model)), None)
        if head is None:
            return
        times = head.model.times[instance.pool]
        same = [query for query in queue if query.model is head.model][: max(times)]
        taken = frozenset(query.id for query in same)
        queue[:] = [query for query in queue if query.id not in taken]
        size = cover(times, len(same))
        self._floor.infer(instance, same, size=size, expected_ns=times[size], now=now)
