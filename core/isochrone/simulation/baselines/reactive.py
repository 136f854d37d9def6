"""A dynamic batcher with queue delay and queue time-out, as NVIDIA Triton has one.

Follows the model configuration of Triton Inference Server (user guide, "Dynamic Batcher"):
``preferred_batch_size`` (the largest preferred one that the queue fills is formed at once),
``max_queue_delay_microseconds`` (a smaller batch waits so long for more),
``default_timeout_microseconds`` with ``timeout_action: REJECT`` (who waited longer is rejected) and
``max_queue_size``. It knows no execution times and no deadlines.

Left out: priority levels, instance groups above one, ensembles. Models of one GPU take turns by the
age of their heads, where Triton runs their instances at once and leaves the rest to the GPU.
"""

from collections import deque
from dataclasses import dataclass

from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.facts import QUEUE_MAX, Instance, Query, cover
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.simulation.baselines.queues import Queues, oldest_first
from isochrone.units import Instant, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class BatcherSettings:
    """Triton's knobs. ``timeout_ns`` 0 means that nobody times out, as there."""

    preferred_sizes: tuple[int, ...]
    queue_delay_ns: Nanoseconds
    timeout_ns: Nanoseconds
    queue_max: int = QUEUE_MAX


class Reactive:
    """A dynamic batcher per model, in front of workers that run one batch at a time."""

    def __init__(self, settings: BatcherSettings) -> None:
        self._settings = settings
        self._floor = Floor()
        self._queues = Queues(queue_max=settings.queue_max)

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, reject who waited too long, and fill idle instances."""
        floor = self._floor
        news = floor.take_in(event, now)
        self._queues.follow(floor, news)
        place(floor, now)
        self._queues.strand(floor, news)
        self._time_out(now)
        for instance in floor.instances.values():
            if not instance.running:
                self._fill(instance, now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return when somebody times out, or has waited for a batch long enough."""
        settings = self._settings
        wakes = []
        for queue in self._queues:
            head = queue[0]
            if settings.timeout_ns:
                wakes.append(head.arrived_at + settings.timeout_ns)
            idle = any(not holder.running for holder in self._floor.holders(head.model))
            if idle:
                wakes.append(head.arrived_at + settings.queue_delay_ns)
        return min(wakes, default=None)

    def _time_out(self, now: Instant) -> None:
        if not self._settings.timeout_ns:
            return
        for queue in list(self._queues):
            while queue and now >= queue[0].arrived_at + self._settings.timeout_ns:
                self._floor.drop(queue.popleft(), Reason.OVERLOAD)

    def _fill(self, instance: Instance, now: Instant) -> None:
        for queue in oldest_first(self._queues, instance):
            count = self._formed(queue, instance, now)
            if count:
                model = queue[0].model
                times = model.times[instance.pool]
                queries = self._queues.take(model, count)
                size = cover(times, len(queries))
                self._floor.infer(instance, queries, size=size, expected_ns=times[size], now=now)
                return

    def _formed(self, queue: deque[Query], instance: Instance, now: Instant) -> int:
        """Return how many of ``queue`` make a batch now; 0 while it pays to wait."""
        largest = max(queue[0].model.times[instance.pool])
        waiting = min(len(queue), largest)
        preferred = [size for size in self._settings.preferred_sizes if size <= waiting]
        if preferred:
            return max(preferred)
        if now >= queue[0].arrived_at + self._settings.queue_delay_ns:
            return waiting
        return 0
