"""Large queries to the fast instances, small ones to the others: DeepRecSys's rule.

Follows Gupta et al., "DeepRecSys" (ISCA 2020), section 4: queries of more than ``threshold_rows``
go to the accelerators, the rest to the CPUs, each class first come, first served. The threshold is
found by hill climbing on the throughput, which is the benchmark's part. Nothing is dropped.

Left out: splitting a query into several on the CPUs.
"""

from isochrone.ids import PoolId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.simulation.baselines.central import CentralQueue, send, takes
from isochrone.simulation.baselines.facts import QUEUE_MAX
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.units import Instant


class Threshold:
    """Two classes of instances: those of the pool ``fast``, and the others."""

    def __init__(self, *, fast: PoolId, threshold_rows: int, queue_max: int = QUEUE_MAX) -> None:
        self._fast = fast
        self._threshold_rows = threshold_rows
        self._floor = Floor()
        self._queue = CentralQueue(queue_max=queue_max)

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, and hand out the oldest queries of each class."""
        floor = self._floor
        news = floor.take_in(event, now)
        self._queue.follow(floor, news)
        place(floor, now)
        self._queue.strand(floor, news)
        idle = [instance for instance in floor.instances.values() if not instance.running]
        for query in list(self._queue.waiting):
            if not idle:
                break
            large = query.rows > self._threshold_rows
            for instance in idle:
                if (instance.pool == self._fast) == large and takes(instance, query):
                    idle.remove(instance)
                    self._queue.remove(query)
                    send(floor, instance, query, now)
                    break
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: nothing here waits for time to pass."""
        return None
