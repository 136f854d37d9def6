"""First come, first served, without deadlines: the batching of Clipper.

Follows Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System" (NSDI 2017),
section 4.3: a queue per model; the batch is as large as a cap allows, and the cap follows additive
increase and multiplicative decrease: one more after each full batch within the objective, a tenth
less after each batch that took longer than the objective. Nothing is refused but for a full queue,
and what is late already runs all the same.

Left out: the delayed batching of section 4.3.2 (off by default), caching, model selection. Models
of one worker take turns by the age of their heads, where Clipper leaves that to the GPU.
"""

from isochrone.ids import ServiceId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.simulation.baselines.facts import QUEUE_MAX, Done, Instance, Model, cover
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.simulation.baselines.queues import Queues, oldest_first
from isochrone.units import Instant

BACK_OFF = 0.9
"""What is left of the cap after a batch that took longer than the objective (section 4.3.1)."""


class Fifo:
    """FIFO queues with a fixed (``batch_max``) or adaptive (None) cap on batches."""

    def __init__(self, *, batch_max: int | None = None, queue_max: int = QUEUE_MAX) -> None:
        self._batch_max = batch_max
        self._floor = Floor()
        self._queues = Queues(queue_max=queue_max)
        self._caps: dict[ServiceId, float] = {}

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, and give every idle instance the oldest batch that it can run."""
        floor = self._floor
        news = floor.take_in(event, now)
        self._queues.follow(floor, news)
        if isinstance(news, Done) and self._batch_max is None:
            self._adapt(news)
        place(floor, now)
        self._queues.strand(floor, news)
        for instance in floor.instances.values():
            if not instance.running:
                self._fill(instance, now)
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return None: nothing here waits for time to pass."""
        return None

    def _fill(self, instance: Instance, now: Instant) -> None:
        for queue in oldest_first(self._queues, instance):
            model = queue[0].model
            times = model.times[instance.pool]
            queries = self._queues.take(model, min(self._cap(model), max(times)))
            size = cover(times, len(queries))
            self._floor.infer(instance, queries, size=size, expected_ns=times[size], now=now)
            return

    def _cap(self, model: Model) -> int:
        if self._batch_max is not None:
            return self._batch_max
        return max(1, int(self._caps.get(model.service, 1.0)))

    def _adapt(self, done: Done) -> None:
        model, finished = done.batch.model, done.finished
        cap = self._caps.get(model.service, 1.0)
        if finished.end - finished.begin > model.target_ns:
            cap = max(1.0, cap * BACK_OFF)
        elif len(done.batch.queries) >= int(cap):
            cap = min(cap + 1, float(max(done.batch.model.times[done.batch.instance.pool])))
        self._caps[model.service] = cap
