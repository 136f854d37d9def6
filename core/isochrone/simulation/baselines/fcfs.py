"""First come, first served on whatever is free: how RIBBON hands out queries.

Follows the baseline of Li et al., "KAIROS" (HPDC 2023), section 8: the oldest query goes to a free
instance, the fastest for it when several are free, whether or not it can be in time there. Nothing
is dropped.
"""

from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.simulation.baselines.central import CentralQueue, send, takes, time_on
from isochrone.simulation.baselines.facts import QUEUE_MAX
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.units import Instant


class FirstComeFirstServed:
    """One queue, any free instance."""

    def __init__(self, *, queue_max: int = QUEUE_MAX) -> None:
        self._floor = Floor()
        self._queue = CentralQueue(queue_max=queue_max)

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, and hand out the oldest queries."""
        floor = self._floor
        news = floor.take_in(event, now)
        self._queue.follow(floor, news)
        place(floor, now)
        self._queue.strand(floor, news)
        idle = [instance for instance in floor.instances.values() if not instance.running]
        for query in list(self._queue.waiting):
            if not idle:
                break
            able = [instance for instance in idle if takes(instance, query)]
            if able:
                fastest = min(able, key=lambda it: (time_on(it, query), it.worker))
                idle.remove(fastest)
                self._queue.remove(query)
                send(floor, fastest, query, now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: nothing here waits for time to pass."""
        return None
