"""One queue for everybody, and what a query takes on an instance: the ground of the KAIROS family.

There a query *is* a batch of so many rows, and an instance runs one at a time. Held by ``fcfs``,
``threshold``, ``per_instance`` and ``kairos``.
"""

from bisect import bisect_left

from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.facts import (
    QUEUE_MAX,
    Arrived,
    Changed,
    Instance,
    Lost,
    Moved,
    News,
    Query,
)
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.waiting import Waiting
from isochrone.units import Instant, Nanoseconds


class CentralQueue(Waiting):
    """The queries that wait, in order of arrival; at most ``queue_max``."""

    def __init__(self, *, queue_max: int = QUEUE_MAX) -> None:
        self.waiting: list[Query] = []
        self._queue_max = queue_max

    def strand(self, floor: Floor, news: News) -> None:
        """End whoever waits for a model that no instance has room for; called after placing."""
        match news:
            case Arrived():
                asked = [news.query]
            case Changed() | Moved() | Lost():
                asked = list(self.waiting)
            case _:
                return
        for query in asked:
            if query.queued and floor.stranded(query.model):
                self.remove(query)
                floor.strand(query)

    def remove(self, query: Query) -> None:
        """Take ``query`` out, if it is in."""
        if query.queued:
            query.queued = False
            self.waiting.remove(query)

    def _queue(self, floor: Floor, query: Query) -> Query | None:
        if all(query.rows > sizes[-1] for sizes in query.model.sizes.values()):
            floor.drop(query, Reason.NO_ROUTE)
        elif len(self.waiting) >= self._queue_max:
            floor.drop(query, Reason.QUEUE_FULL)
        else:
            query.queued = True
            self.waiting.append(query)
            return query
        return None


def takes(instance: Instance, query: Query) -> bool:
    """Whether ``instance`` can run ``query`` at all."""
    return instance.holds(query.model) and query.rows <= query.model.sizes[instance.pool][-1]


def size_on(instance: Instance, query: Query) -> int:
    """Return the profiled batch size that ``query`` is rounded up to on ``instance``."""
    sizes = query.model.sizes[instance.pool]
    return sizes[bisect_left(sizes, query.rows)]


def time_on(instance: Instance, query: Query) -> Nanoseconds:
    """Return what ``query`` takes on ``instance`` by the profile."""
    return query.model.times[instance.pool][size_on(instance, query)]


def remaining_ns(instance: Instance, now: Instant) -> Nanoseconds:
    """Return how long what is under way on ``instance`` should still take."""
    return max(
        (max(0, batch.sent_at + batch.expected_ns - now) for batch in instance.running), default=0
    )


def send(floor: Floor, instance: Instance, query: Query, now: Instant) -> None:
    """Run ``query`` on ``instance``."""
    floor.infer(
        instance,
        [query],
        size=size_on(instance, query),
        expected_ns=time_on(instance, query),
        now=now,
    )
