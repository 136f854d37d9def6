"""Deferred batching in a schedulable window: Symphony's policy for one pool, and nothing else.

Follows Chen et al., "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling" (arXiv
2308.07470), sections 3 and 4, and the constants of its released code. A model's candidate is the
batch of size b that its head's deadline d allows. It may start from max(now, the GPU is free,
min(d − ℓ(b+1), d − ℓ(b))) on, so long as one more request could still join, until d − ℓ(b). When a
GPU is free, of the candidates whose window is open the one with the earliest end gets it. Heads
that would hold the batch below the target are dropped: the target is the largest b for which
accumulating b at the measured rate and then running them fits the objective (ℓ(b)(1+1/n) < SLO with
n·b/ℓ(b) = rate, hence ℓ(b) + b/rate < SLO).

Left out: the choice of how many GPUs, its separate scheduler threads, network scheduling. ℓ is the
profile, as there: nothing is learned while it runs. A batch size between two profiled ones costs
what the next larger one does.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from isochrone.ids import ServiceId
from isochrone.scheduling.actions import Action
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.facts import NEVER, QUEUE_MAX, Instance, Query, cover
from isochrone.simulation.baselines.floor import Floor
from isochrone.simulation.baselines.placing import place
from isochrone.simulation.baselines.queues import Queues
from isochrone.units import MICROSECOND, MILLISECOND, SECOND, Instant, Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SymphonySettings:
    """The constants of Symphony's released code."""

    control_ns: Nanoseconds = 100 * MICROSECOND
    """What a decision takes to reach the GPU."""
    data_ns: Nanoseconds = 50 * MICROSECOND
    """What the input of one more request takes to get there."""
    response_ns: Nanoseconds = 2 * MILLISECOND
    """What the way back to the client may take."""
    rate_slot_ns: Nanoseconds = 50 * MILLISECOND
    rate_slots: int = 100


class RateMeter:
    """Arrivals per second over the last ``slots`` slots of ``slot_ns``, or since the first."""

    def __init__(self, *, slot_ns: Nanoseconds, slots: int) -> None:
        self._slot_ns = slot_ns
        self._counts: deque[tuple[int, int]] = deque()
        self._slots = slots
        self._total = 0
        self._first: int | None = None

    def note(self, now: Instant) -> None:
        """Count one arrival at ``now``."""
        slot = now // self._slot_ns
        if self._first is None:
            self._first = slot
        if self._counts and self._counts[-1][0] == slot:
            self._counts[-1] = (slot, self._counts[-1][1] + 1)
        else:
            self._counts.append((slot, 1))
        self._total += 1

    def rate_rps(self, now: Instant) -> float:
        """Return the arrivals per second."""
        slot = now // self._slot_ns
        while self._counts and self._counts[0][0] <= slot - self._slots:
            self._total -= self._counts.popleft()[1]
        if self._first is None:
            return 0.0
        seen = min(self._slots, slot - self._first + 1)
        return self._total * SECOND / (seen * self._slot_ns)


class Candidate(NamedTuple):
    """A batch that a model could run: its window is from ``exec_at`` to ``latest``."""

    latest: Instant
    exec_at: Instant
    service: ServiceId
    requests: int


class Symphony:
    """Symphony's deferral, with dispatch just before a GPU is free."""

    def __init__(self, settings: SymphonySettings, *, queue_max: int = QUEUE_MAX) -> None:
        self._settings = settings
        self._floor = Floor()
        self._queues = Queues(queue_max=queue_max)
        self._meters: dict[ServiceId, RateMeter] = {}
        self._wake = NEVER

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, and start the batches whose window is open."""
        floor = self._floor
        news = floor.take_in(event, now)
        newcomer = self._queues.follow(floor, news)
        if newcomer is not None:
            self._meter(newcomer.model.service).note(now)
        place(floor, now)
        self._queues.strand(floor, news)
        self._wake = NEVER
        order = sorted(floor.instances.values(), key=lambda it: (_free_at(it, now), it.worker))
        for instance in order:
            while self._start(instance, now):
                pass
        return floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return when the next window opens or a GPU is about to be free."""
        return self._wake if self._wake < NEVER else None

    def _start(self, instance: Instance, now: Instant) -> bool:
        """Start the most urgent open candidate on ``instance``; return whether there was one."""
        control_ns = self._settings.control_ns
        free = _free_at(instance, now)
        if len(instance.running) > 1:
            return False
        if free > now + control_ns:
            self._wake = min(self._wake, free - control_ns)
            return False
        candidates = []
        for queue in list(self._queues):
            if instance.holds(queue[0].model):
                candidate = self._candidate(queue, instance, free, now)
                if candidate is not None:
                    candidates.append(candidate)
        ready = [it for it in candidates if it.exec_at <= now + control_ns]
        if not ready:
            for it in candidates:
                self._wake = min(self._wake, it.exec_at - control_ns)
            return False
        best = min(ready)
        model = self._floor.models[best.service]
        times = model.times[instance.pool]
        queries = self._queues.take(model, best.requests)
        size = cover(times, best.requests)
        self._floor.infer(instance, queries, size=size, expected_ns=times[size], now=now)
        return True

    def _candidate(
        self, queue: deque[Query], instance: Instance, free: Instant, now: Instant
    ) -> Candidate | None:
        """Drop the heads that stand in the way, and return what the rest can be run as."""
        settings = self._settings
        model = queue[0].model
        times = model.times[instance.pool]
        start = max(free, now)
        target = self.target(queue[0], instance, now)
        while queue:
            aim = queue[0].deadline - settings.response_ns - settings.control_ns
            fitting = max((size for size in times if start + times[size] <= aim), default=0)
            count = min(fitting, len(queue))
            if count and count >= min(target, len(queue)):
                break
            self._floor.drop(queue.popleft(), Reason.OVERLOAD)
        else:
            return None
        latest = aim - times[cover(times, count)]
        exec_at = start
        if count < max(times):
            frontrun = aim - times[cover(times, count + 1)] - settings.data_ns
            exec_at = max(start, min(frontrun, latest))
        return Candidate(latest, exec_at, model.service, count)

    def target(self, head: Query, instance: Instance, now: Instant) -> int:
        """Return the batch size that the model's rate sustains within its objective, at least 1."""
        model = head.model
        rate_rps = self._meter(model.service).rate_rps(now)
        return max(
            (
                size
                for size, time_ns in model.times[instance.pool].items()
                if rate_rps and time_ns + size * SECOND / rate_rps < model.target_ns
            ),
            default=1,
        )

    def _meter(self, service: ServiceId) -> RateMeter:
        settings = self._settings
        if service not in self._meters:
            meter = RateMeter(slot_ns=settings.rate_slot_ns, slots=settings.rate_slots)
            self._meters[service] = meter
        return self._meters[service]


def _free_at(instance: Instance, now: Instant) -> Instant:
    """When ``instance`` should be free by the profile."""
    free = instance.ended_at
    for batch in instance.running:
        free = max(free, batch.sent_at) + batch.expected_ns
    return max(free, now)
