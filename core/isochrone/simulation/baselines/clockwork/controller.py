"""Clockwork's controller: the decider that keeps the mirror of the workers and sends every action.

Driven by ``driver.drive``. What each inference is comes from a ``Picker``; this module says when,
within which window, and which weights move.
"""

from typing import Final

from isochrone.execution import ActionStatus
from isochrone.ids import ServiceId, VariantId, WorkerId
from isochrone.scheduling.actions import Action, Load
from isochrone.scheduling.events import Event
from isochrone.scheduling.outcomes import Reason
from isochrone.simulation.baselines.clockwork.demand import Demand
from isochrone.simulation.baselines.clockwork.estimates import Estimates
from isochrone.simulation.baselines.clockwork.infer4 import Infer4
from isochrone.simulation.baselines.clockwork.infer5 import Infer5
from isochrone.simulation.baselines.clockwork.picker import Picker
from isochrone.simulation.baselines.clockwork.settings import ClockworkSettings, InferRule
from isochrone.simulation.baselines.clockwork.tracker import Tracker
from isochrone.simulation.baselines.facts import (
    NEVER,
    QUEUE_MAX,
    Arrived,
    Changed,
    Done,
    Instance,
    Lost,
    Model,
    Moved,
    Query,
    Withdrawn,
)
from isochrone.simulation.baselines.floor import Floor
from isochrone.units import MICROSECOND, MILLISECOND, Instant, Nanoseconds

POLL_NS: Final[Nanoseconds] = 10 * MICROSECOND
"""How often the published scheduler threads look: no wake-up is asked for sooner."""

SEND_MIN_NS: Final[Nanoseconds] = 1 * MILLISECOND
"""The least time that an action is given to arrive and start, before ``latest`` is counted."""


class Clockwork:
    """The controller. At most ``queue_max`` requests wait for one model."""

    def __init__(self, settings: ClockworkSettings, *, queue_max: int = QUEUE_MAX) -> None:
        self._queue_max = queue_max
        self._settings = settings
        self._floor = Floor()
        self._estimates = Estimates(settings)
        self._demand = Demand(settings.demand_cap_ns)
        make = Infer4 if settings.rule is InferRule.INFER4 else Infer5
        self._picker: Picker = make(self._floor, self._estimates, self._cancel)
        self._trackers: dict[WorkerId, Tracker] = {}
        self._used: dict[tuple[WorkerId, VariantId], Instant] = {}
        self._waiting: dict[ServiceId, int] = {}
        self._place = 0
        self._wake = NEVER

    def handle(self, event: Event, now: Instant) -> list[Action]:
        """Take in ``event``, cancel who is too late, and schedule every worker that is near free."""
        # 1. Note what happened.
        self._follow(event, now)
        # 2. Cancel what can no longer be on time; stop counting old demand for loading.
        self._picker.expire(now)
        self._demand.expire(now)
        # 3. Inferences, and then loads, for each executor that is free within schedule_ahead.
        self._wake = NEVER
        for instance in self._floor.instances.values():
            self._infer(instance, now)
        for instance in self._floor.instances.values():
            self._load(instance, now)
        return self._floor.actions

    def next_wakeup(self) -> Instant | None:
        """Return when a worker comes within reach, or a request runs out of time."""
        expiry = self._picker.next_expiry()
        wake = self._wake if expiry is None else min(self._wake, expiry)
        return wake if wake < NEVER else None

    def _follow(self, event: Event, now: Instant) -> None:
        news = self._floor.take_in(event, now)
        match news:
            case Arrived():
                self._arrive(news.query, now)
            case Withdrawn():
                if news.query.queued:
                    self._picker.withdraw(news.query)
                    self._leave(news.query)
            case Done():
                self._finish(news, now)
            case Moved():
                self._finish_transfer(news)
            case Lost():
                self._lose(news.instance)
            case Changed():
                self._change(news)
            case _:
                pass

    def _arrive(self, query: Query, now: Instant) -> None:
        model = query.model
        waiting = self._waiting.get(model.service, 0)
        if query.rows > 1 or waiting >= self._queue_max:
            why = Reason.NO_ROUTE if query.rows > 1 else Reason.QUEUE_FULL
            self._floor.drop(query, why)
            return
        settings = self._settings
        target_ns = query.deadline - query.arrived_at
        floor_ns = settings.schedule_ahead_ns + settings.buffer_ns
        query.aim = query.arrived_at + max(target_ns - settings.buffer_ns, floor_ns)
        self._place += 1
        query.place = self._place
        self._waiting[model.service] = waiting + 1
        # Where nobody has the model's pool yet, the first profile stands for what it takes.
        pool = next(iter(model.times))
        alone_ns = self._estimates.infer_ns(model, pool, min(model.times[pool]))
        spare_ns = target_ns - (self._estimates.load_ns(model, pool) + alone_ns + floor_ns)
        self._demand.add(
            query,
            alone_ns=alone_ns,
            load_target_ns=max(min(settings.load_target_max_ns, spare_ns), floor_ns),
            now=now,
        )
        self._picker.offer(query)

    def _finish(self, done: Done, now: Instant) -> None:
        batch, finished = done.batch, done.finished
        instance, tracker = batch.instance, self._trackers[batch.instance.worker]
        if finished.status is ActionStatus.OK:
            took_ns = finished.duration_ns
            self._estimates.observe_infer(batch.model, instance.pool, batch.size, took_ns)
            tracker.succeed(batch.action, min(finished.end, now))
        else:
            tracker.fail(batch.action)
            if finished.status is ActionStatus.WEIGHTS_MISSING:
                self._demand.release(batch.model.service, instance.worker)
        for query in batch.queries:
            self._demand.end(query)

    def _finish_transfer(self, moved: Moved) -> None:
        transfer, instance = moved.transfer, moved.instance
        if not isinstance(transfer, Load):
            return
        models = [it for it in self._floor.models.values() if it.variant == transfer.variant]
        if moved.finished.status is not ActionStatus.OK:
            for model in models:
                self._demand.release(model.service, instance.worker)
            return
        for model in models:
            if instance.holds(model):
                took_ns = moved.finished.duration_ns
                self._estimates.observe_load(model, instance.pool, took_ns)
                self._picker.held(instance, model)

    def _lose(self, instance: Instance) -> None:
        for model in self._floor.models.values():
            self._demand.release(model.service, instance.worker)
        for batch in instance.running:
            for query in batch.queries:
                self._demand.end(query)
        del self._trackers[instance.worker]

    def _change(self, changed: Changed) -> None:
        for query in changed.orphans:
            if query.queued:
                self._picker.withdraw(query)
                self._leave(query)
        for worker, instance in self._floor.instances.items():
            if worker not in self._trackers:
                self._trackers[worker] = Tracker(self._settings)
            for model in self._floor.models.values():
                if instance.holds(model):
                    self._demand.hold(model.service, worker)
                    self._picker.held(instance, model)

    def _cancel(self, query: Query) -> None:
        self._leave(query)
        self._floor.drop(query, Reason.OVERLOAD)

    def _leave(self, query: Query) -> None:
        self._waiting[query.model.service] -= 1
        self._demand.end(query)

    # Inferences.

    def _infer(self, instance: Instance, now: Instant) -> None:
        settings, tracker = self._settings, self._trackers[instance.worker]
        ahead_ns = settings.schedule_ahead_ns
        while True:
            start = tracker.available(now)
            if start > now + ahead_ns:
                if any(self._waiting.values()):
                    self._wake = min(self._wake, max(start - ahead_ns, now + POLL_NS))
                return
            pick = self._picker.pick(instance, start)
            if pick is None:
                return
            model = pick.queries[0].model
            expected_ns = self._estimates.infer_ns(model, instance.pool, pick.size)
            for query in pick.queries:
                query.queued = False
                self._waiting[model.service] -= 1
                self._demand.begin(query)
            batch = self._floor.infer(
                instance,
                pick.queries,
                size=pick.size,
                expected_ns=expected_ns,
                now=now,
                latest=max(now + SEND_MIN_NS, start) + ahead_ns,
            )
            tracker.add(batch.action, expected_ns, now)
            self._used[instance.worker, model.variant] = now

    # Weights.

    def _load(self, instance: Instance, now: Instant) -> None:
        """Load what has the most unmet demand, or make room for it."""
        if instance.transfer is not None:
            return
        best: Model | None = None
        best_rank = (0.0, -1)
        for model in self._floor.models.values():
            if model.variant in instance.resident or instance.group not in model.groups:
                continue
            priority = self._demand.load_priority(model.service)
            rank = (priority, self._used.get((instance.worker, model.variant), -1))
            if priority > 0 and (best is None or rank > best_rank):
                best, best_rank = model, rank
        if best is None:
            return
        if best.size_bytes[instance.pool] <= instance.free_bytes:
            expected_ns = self._estimates.load_ns(best, instance.pool)
            self._floor.load(instance, best, expected_ns, now)
            for model in self._floor.models.values():
                if model.variant == best.variant:
                    self._demand.hold(model.service, instance.worker)
        else:
            self._evict(instance, now)

    def _evict(self, instance: Instance, now: Instant) -> None:
        """Unload the least recently used variant; those that nobody asks for go first."""
        busy = {batch.model.variant for batch in instance.running}
        services: dict[VariantId, list[ServiceId]] = {}
        for model in self._floor.models.values():
            services.setdefault(model.variant, []).append(model.service)
        ranks = [
            (
                any(self._demand.wanted(it) for it in services.get(variant, [])),
                self._used.get((instance.worker, variant), -1),
                variant,
            )
            for variant in instance.resident
            if variant not in busy
        ]
        if ranks:
            variant = min(ranks)[2]
            self._floor.unload(instance, variant, now)
            for service in services.get(variant, []):
                self._demand.release(service, instance.worker)
