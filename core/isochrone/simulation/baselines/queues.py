"""First-come-first-served queues, one per model, each with a bound: what most ports wait in.

Held by a baseline, told everything by ``follow``.
"""

from collections import deque
from collections.abc import Iterator

from isochrone.ids import ServiceId
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.facts import (
    QUEUE_MAX,
    Arrived,
    Changed,
    Instance,
    Lost,
    Model,
    Moved,
    News,
    Query,
)
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.waiting import Waiting


class Queues(Waiting):
    """The queries that wait, by model, in order of arrival."""

    def __init__(self, *, queue_max: int = QUEUE_MAX, single_rows: bool = True) -> None:
        """Bound each queue by ``queue_max``; with ``single_rows`` refuse queries of several."""
        self._queue_max = queue_max
        self._single_rows = single_rows
        self._queues: dict[ServiceId, deque[Query]] = {}

    def __iter__(self) -> Iterator[deque[Query]]:
        """Iterate over the queues that hold somebody, by model."""
        return (queue for queue in self._queues.values() if queue)

    def of(self, model: Model) -> deque[Query]:
        """Return the queue of ``model``."""
        return self._queues.setdefault(model.service, deque())

    def strand(self, floor: Floor, news: News) -> None:
        """End whoever waits for a model that no worker has room for; called after placing."""
        match news:
            case Arrived():
                asked = [self.of(news.query.model)]
            case Changed() | Moved() | Lost():
                asked = list(self)
            case _:
                return
        for queue in asked:
            if queue and floor.stranded(queue[0].model):
                while queue:
                    floor.strand(queue.popleft())

    def take(self, model: Model, count: int) -> list[Query]:
        """Take out the first ``count`` queries of ``model``, or as many as there are."""
        queue = self.of(model)
        return [queue.popleft() for _ in range(min(count, len(queue)))]

    def remove(self, query: Query) -> None:
        """Take ``query`` out, if it is in."""
        if query.queued:
            query.queued = False
            self.of(query.model).remove(query)

    def _queue(self, floor: Floor, query: Query) -> Query | None:
        queue = self.of(query.model)
        if self._single_rows and query.rows > 1:
            floor.drop(query, Reason.NO_ROUTE)
        elif len(queue) >= self._queue_max:
            floor.drop(query, Reason.QUEUE_FULL)
        else:
            query.queued = True
            queue.append(query)
            return query
        return None


def oldest_first(queues: Queues, instance: Instance) -> list[deque[Query]]:
    """Return the queues that ``instance`` can serve, by arrival of their heads."""
    found = [queue for queue in queues if instance.holds(queue[0].model)]
    return sorted(found, key=lambda queue: (queue[0].arrived_at, queue[0].id))
