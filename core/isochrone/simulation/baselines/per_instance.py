"""A queue per instance, chosen by predicted completion: Clockwork as KAIROS compares itself with it.

Follows the baseline of Li et al., "KAIROS" (HPDC 2023), section 8, and Clockwork's principle (OSDI
2020, section 4.2) that a request is placed by predicted completion and cancelled when it cannot be
in time. On arrival a query joins the queue where it would be done first; if that is past its
target it is refused, and when its turn comes too late it is dropped. ``drops`` False keeps both,
for comparisons in which nothing may be dropped.
"""

from isochrone.ids import WorkerId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.central import (
    CentralQueue,
    remaining_ns,
    send,
    takes,
    time_on,
)
from isochrone.simulation.baselines.facts import (
    QUEUE_MAX,
    Arrived,
    Changed,
    Instance,
    Lost,
    Query,
    Withdrawn,
)
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.units import Instant, Nanoseconds


class PerInstance:
    """Queues per instance; at most ``queue_max`` queries wait in all.

    Queries for which there is no instance yet wait in a common queue.
    """

    def __init__(self, *, drops: bool = True, queue_max: int = QUEUE_MAX) -> None:
        self._drops = drops
        self._queue_max = queue_max
        self._floor = Floor()
        self._unplaced = CentralQueue(queue_max=queue_max)
        self._queues: dict[WorkerId, list[Query]] = {}

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, bind who is unbound, and start the next query of idle instances."""
        floor = self._floor
        news = floor.take_in(event, now)
        match news:
            case Withdrawn():
                self._forget([news.query])
            case Changed():
                self._forget(news.orphans)
                self._unbind(list(self._queues))
            case Lost():
                self._unbind([news.instance.worker])
            case Arrived() if self._full:
                floor.drop(news.query, Reason.QUEUE_FULL)
            case _:
                self._unplaced.follow(floor, news)
        place(floor, now)
        for query in list(self._unplaced.waiting):
            self._bind(query, now)
        self._unplaced.strand(floor, news)
        for instance in floor.instances.values():
            self._start(instance, now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: a queue moves on when its instance answers."""
        return None

    def done_in_ns(self, instance: Instance, query: Query, now: Instant) -> Nanoseconds:
        """Return how long until ``query`` would be done behind all that ``instance`` has to do."""
        queue = self._queues.get(instance.worker, [])
        ahead_ns = sum(time_on(instance, other) for other in queue)
        return remaining_ns(instance, now) + ahead_ns + time_on(instance, query)

    @property
    def _full(self) -> bool:
        bound = sum(len(queue) for queue in self._queues.values())
        return bound + len(self._unplaced.waiting) >= self._queue_max

    def _forget(self, queries: list[Query]) -> None:
        gone = frozenset(query.id for query in queries)
        for queue in (self._unplaced.waiting, *self._queues.values()):
            queue[:] = [query for query in queue if query.id not in gone]

    def _unbind(self, workers: list[WorkerId]) -> None:
        """Take everybody back who only waits for one of ``workers``."""
        back = [query for worker in workers for query in self._queues.pop(worker, [])]
        self._unplaced.waiting = sorted(
            [*self._unplaced.waiting, *back], key=lambda query: query.id
        )

    def _bind(self, query: Query, now: Instant) -> None:
        able = [it for it in self._floor.instances.values() if takes(it, query)]
        if not able:
            return
        best = min(able, key=lambda it: (self.done_in_ns(it, query, now), it.worker))
        self._unplaced.waiting.remove(query)
        if self._drops and now + self.done_in_ns(best, query, now) > query.deadline:
            query.queued = False
            self._floor.drop(query, Reason.OVERLOAD)
        else:
            self._queues.setdefault(best.worker, []).append(query)

    def _start(self, instance: Instance, now: Instant) -> None:
        queue = self._queues.get(instance.worker, [])
        while queue and not instance.running and instance.holds(queue[0].model):
            query = queue.pop(0)
            if self._drops and now + time_on(instance, query) > query.deadline:
                query.queued = False
                self._floor.drop(query, Reason.OVERLOAD)
            else:
                send(self._floor, instance, query, now)
