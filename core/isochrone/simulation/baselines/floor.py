"""Keeps book of what every port of another system needs, and makes the actions and replies.

Held by each baseline, which decides; one ``Floor`` per decider. The values are in ``facts``.
"""

from typing import Final

from isochrone.catalog import Profile
from isochrone.execution import ActionStatus
from isochrone.ids import ActionId, GroupId, PoolId, RequestId, ServiceId, VariantId, WorkerId
from isochrone.plan import ServicePlan
from isochrone.scheduling.actions import Action, Infer, Load, Reply, Unload
from isochrone.scheduling.events import (
    ActionFinished,
    Event,
    PlanChanged,
    RequestArrived,
    RequestReady,
    RequestWithdrawn,
    Timer,
    WorkerJoined,
    WorkerLost,
)
from isochrone.scheduling.outcomes import Outcome, Reason
from isochrone.simulation.baselines.facts import (
    NEVER,
    Arrived,
    Batch,
    Changed,
    Done,
    Instance,
    Lost,
    Model,
    Moved,
    News,
    Query,
    Withdrawn,
)
from isochrone.units import SECOND, Bytes, Instant, Nanoseconds

TRANSFER_WINDOW_NS: Final[Nanoseconds] = 10 * SECOND
"""How long a Load or Unload may wait for its start on the executor."""

UNLOAD_EXPECTED_NS: Final[Nanoseconds] = 100_000
"""What giving back memory is expected to take."""


class Floor:
    """The facts, and the actions of the beat under way."""

    def __init__(self) -> None:
        self.models: dict[ServiceId, Model] = {}
        self.instances: dict[WorkerId, Instance] = {}
        """By worker id."""
        self.queries: dict[RequestId, Query] = {}
        self.actions: list[Action] = []
        self._batches: dict[ActionId, Batch] = {}
        self._transfers: dict[ActionId, tuple[Instance, Load | Unload]] = {}
        self._newcomer: RequestId | None = None
        self._next_action = 0

    def take_in(self, event: Event, now: Instant) -> News:
        """Begin a beat: note ``event``, and return what a policy has to know about it."""
        self.actions = []
        self._newcomer = event.request if isinstance(event, RequestArrived) else None
        news: News = None
        match event:
            case RequestArrived():
                news = self._arrive(event)
            case RequestReady():
                news = self._make_ready(event)
            case RequestWithdrawn():
                news = self._withdraw(event)
            case ActionFinished():
                news = self._finish(event, now)
            case PlanChanged():
                news = self._change(event)
            case WorkerJoined():
                news = self._join(event)
            case WorkerLost():
                news = self._lose(event)
            case Timer():
                pass
        return news

    def drop(self, query: Query, reason: Reason) -> None:
        """End ``query`` without running it: REFUSED for ``reason`` on its arrival, LATE after it."""
        if query.id == self._newcomer:
            self._end(query, Outcome.REFUSED, reason, None)
        else:
            self._end(query, Outcome.LATE, Reason.DROPPED, None)

    def strand(self, query: Query) -> None:
        """End ``query``, which no worker can run: REFUSED on its arrival, FAILED after it."""
        if query.id == self._newcomer:
            self._end(query, Outcome.REFUSED, Reason.NOT_LOADED, None)
        else:
            self._end(query, Outcome.FAILED, Reason.EXECUTOR_LOST, None)

    def stranded(self, model: Model) -> bool:
        """Whether the workers for ``model`` are there, have settled, and none of them holds it.

        While there is none, one may still join.
        """
        found = [it for it in self.instances.values() if it.group in model.groups]
        return bool(found) and not any(it.transfer or it.holds(model) for it in found)

    def infer(
        self,
        instance: Instance,
        queries: list[Query],
        *,
        size: int,
        expected_ns: Nanoseconds,
        now: Instant,
        latest: Instant = NEVER,
    ) -> Batch:
        """Send ``queries``, of one model, as a batch of ``size``; it may start until ``latest``."""
        model = queries[0].model
        action = self._action()
        batch = Batch(action, instance, model, size, queries, now, expected_ns)
        for query in queries:
            query.action = action
            query.queued = False
        instance.running.append(batch)
        self._batches[action] = batch
        self.actions.append(
            Infer(
                action=action,
                worker=instance.worker,
                variant=model.variant,
                batch_size=size,
                requests=tuple(query.id for query in queries),
                earliest=now,
                latest=latest,
                expected_ns=expected_ns,
            )
        )
        return batch

    def load(
        self, instance: Instance, model: Model, expected_ns: Nanoseconds, now: Instant
    ) -> None:
        """Have ``instance``, which moves nothing, load ``model``; its memory is taken at once."""
        load = Load(
            action=self._action(),
            worker=instance.worker,
            variant=model.variant,
            earliest=now,
            latest=now + TRANSFER_WINDOW_NS,
            expected_ns=expected_ns,
        )
        instance.resident[model.variant] = model.size_bytes[instance.pool]
        self._begin(instance, load)

    def unload(self, instance: Instance, variant: VariantId, now: Instant) -> None:
        """Have ``instance``, which moves nothing, give back ``variant``."""
        unload = Unload(
            action=self._action(),
            worker=instance.worker,
            variant=variant,
            earliest=now,
            latest=now + TRANSFER_WINDOW_NS,
            expected_ns=UNLOAD_EXPECTED_NS,
        )
        self._begin(instance, unload)

    def holders(self, model: Model) -> list[Instance]:
        """Return the instances that can run ``model`` now, by worker id."""
        return [instance for instance in self.instances.values() if instance.holds(model)]

    def _begin(self, instance: Instance, transfer: Load | Unload) -> None:
        assert instance.transfer is None, instance.worker
        instance.transfer = transfer
        self._transfers[transfer.action] = (instance, transfer)
        self.actions.append(transfer)

    def _action(self) -> ActionId:
        self._next_action += 1
        return ActionId(self._next_action)

    def _end(self, query: Query, outcome: Outcome, reason: Reason, action: ActionId | None) -> None:
        del self.queries[query.id]
        self.actions.append(Reply(request=query.id, outcome=outcome, reason=reason, action=action))

    def _arrive(self, event: RequestArrived) -> News:
        model = self.models.get(event.service)
        if model is None or event.version is not None or event.accuracy_floor_ppm is not None:
            self.actions.append(
                Reply(request=event.request, outcome=Outcome.REFUSED, reason=Reason.NO_ROUTE)
            )
            return None
        target_ns = model.target_ns
        if event.target_ns is not None:
            target_ns = min(target_ns, event.target_ns)
        query = Query(
            id=event.request,
            model=model,
            rows=event.rows,
            arrived_at=event.arrived_at,
            deadline=event.arrived_at + target_ns,
            ready=event.ready,
        )
        self.queries[query.id] = query
        return Arrived(query) if event.ready else None

    def _make_ready(self, event: RequestReady) -> News:
        query = self.queries.get(event.request)
        if query is None:
            return None
        query.ready = True
        return Arrived(query)

    def _withdraw(self, event: RequestWithdrawn) -> News:
        query = self.queries.get(event.request)
        if query is None:
            return None
        query.left = event.reason
        if query.action is not None:
            return None
        self._end(query, Outcome.INVALID, event.reason, None)
        return Withdrawn(query)

    def _finish(self, event: ActionFinished, now: Instant) -> News:
        moved = self._transfers.pop(event.action, None)
        if moved is not None:
            return self._finish_transfer(*moved, event)
        batch = self._batches.pop(event.action, None)
        if batch is None:
            return None
        batch.instance.running.remove(batch)
        if event.status is ActionStatus.OK:
            batch.instance.ended_at = event.end
        elif event.status is ActionStatus.WEIGHTS_MISSING:
            batch.instance.resident.pop(batch.model.variant, None)
        for query in batch.queries:
            if query.left is not None:
                self._end(query, Outcome.INVALID, query.left, None)
            elif event.status is ActionStatus.TOO_LATE:
                self._end(query, Outcome.LATE, Reason.DROPPED, None)
            elif event.status is not ActionStatus.OK:
                self._end(query, Outcome.FAILED, Reason.EXECUTOR_ERROR, None)
            elif now <= query.deadline:
                self._end(query, Outcome.ON_TIME, Reason.SERVED, event.action)
            else:
                self._end(query, Outcome.LATE, Reason.DEADLINE_MISSED, event.action)
        return Done(batch, event)

    @staticmethod
    def _finish_transfer(
        instance: Instance, transfer: Load | Unload, event: ActionFinished
    ) -> News:
        instance.transfer = None
        loaded = event.status is ActionStatus.OK
        gone = event.status in {ActionStatus.OK, ActionStatus.WEIGHTS_MISSING}
        if (isinstance(transfer, Load) and not loaded) or (isinstance(transfer, Unload) and gone):
            instance.resident.pop(transfer.variant, None)
        return Moved(instance, transfer, event)

    def _change(self, event: PlanChanged) -> News:
        profiles = {
            (variant.id, profile.pool): _within(profile, variant.batch_sizes)
            for variant in event.catalog.variants
            for profile in variant.profiles
        }
        pools = {group.id: group.pool for group in event.plan.groups}
        self.models = {
            service.service: _model(service, pools, profiles)
            for service in event.plan.services
            if service.routes
        }
        orphans: list[Query] = []
        for query in self.queries.values():
            model = self.models.get(query.model.service)
            if model is not None:
                query.model = model
            elif query.action is None:
                orphans.append(query)
        for query in orphans:
            self._end(query, Outcome.FAILED, Reason.DRAINING, None)
        return Changed(orphans)

    def _join(self, event: WorkerJoined) -> News:
        sizes = {
            model.variant: model.size_bytes[event.pool]
            for model in self.models.values()
            if event.pool in model.size_bytes
        }
        self.instances[event.worker] = Instance(
            worker=event.worker,
            group=event.group,
            pool=event.pool,
            memory_bytes=event.memory_bytes,
            resident={variant: sizes.get(variant, 0) for variant in event.resident},
            running=[],
        )
        self.instances = {worker: self.instances[worker] for worker in sorted(self.instances)}
        return Changed([])

    def _lose(self, event: WorkerLost) -> News:
        instance = self.instances.pop(event.worker, None)
        if instance is None:
            return None
        for batch in instance.running:
            del self._batches[batch.action]
            for query in batch.queries:
                if query.left is not None:
                    self._end(query, Outcome.INVALID, query.left, None)
                else:
                    self._end(query, Outcome.FAILED, Reason.EXECUTOR_LOST, None)
        if instance.transfer is not None:
            del self._transfers[instance.transfer.action]
        return Lost(instance)


_Cost = tuple[dict[int, Nanoseconds], Nanoseconds, Bytes]


def _within(profile: Profile, sizes: tuple[int, ...]) -> _Cost:
    times = {batch.size: batch.p50_ns for batch in profile.batches if batch.size in sizes}
    return times, profile.load_ns, profile.weights_bytes + profile.workspace_bytes


def _model(
    service: ServicePlan,
    pools: dict[GroupId, PoolId],
    profiles: dict[tuple[VariantId, PoolId], _Cost],
) -> Model:
    variant = service.routes[0].variant
    groups = tuple(sorted({it.group for it in service.routes if it.variant == variant}))
    costs = {pools[group]: profiles[variant, pools[group]] for group in groups}
    return Model(
        service=service.service,
        target_ns=service.objectives.latency_ns,
        variant=variant,
        groups=groups,
        times={pool: times for pool, (times, _, _) in costs.items()},
        load_ns={pool: load_ns for pool, (_, load_ns, _) in costs.items()},
        size_bytes={pool: size for pool, (_, _, size) in costs.items()},
    )
