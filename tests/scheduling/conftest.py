"""A small virtual world around the real scheduler: executors that keep windows, and a clock.

Nothing is patched: the executors here are honest ones that take a drawn time and compute nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Precision,
    Profile,
    Variant,
)
from isochrone.demand import Isolation, Objectives, OverloadPolicy
from isochrone.execution import ActionStatus
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.scheduling import (
    REASONS,
    Action,
    ActionFinished,
    Event,
    Infer,
    Load,
    Outcome,
    PlanChanged,
    Reason,
    Reply,
    RequestArrived,
    Scheduler,
    Settings,
    Timer,
    Unload,
    WorkerJoined,
    WorkerLost,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MS = 1_000_000
POOL = PoolId("cpu")


def variant(  # noqa: PLR0913
    name: str = "net",
    *,
    times_ms: Mapping[int, float],
    load_ms: float = 20,
    tail: float = 1.0,
    weights: int = 100,
    accuracy_ppm: int = 800_000,
    architecture: str = "arch",
    pools: Sequence[str] = ("cpu",),
) -> Variant:
    batches = tuple(
        BatchProfile(
            size=size,
            mean_ns=int(ms * MS),
            p50_ns=int(ms * MS),
            p99_ns=int(ms * MS * tail),
            p999_ns=int(ms * MS * tail),
            samples=1000,
            tail_pooled=False,
        )
        for size, ms in sorted(times_ms.items())
    )
    return Variant(
        id=VariantId(f"ns/{name}"),
        model=ModelId("ns/model"),
        architecture=architecture,
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=tuple(sorted(times_ms)),
        artifact=Artifact(uri="file:///dev/null", format="onnx", sha256="0" * 64),
        accuracy=Accuracy(
            value_ppm=accuracy_ppm,
            lower_ppm=accuracy_ppm,
            metric=AccuracyMetric.TOP1,
            samples=1000,
            source=AccuracySource.MEASURED,
        ),
        profiles=tuple(
            Profile(
                pool=PoolId(pool),
                batches=batches,
                load_ns=int(load_ms * MS),
                weights_bytes=weights,
                workspace_bytes=10,
                samples=1000,
                tail_samples=0,
                measured_at="",
                runtime="synthetic",
            )
            for pool in pools
        ),
    )


def group(
    name: str,
    variants: Sequence[Variant],
    *,
    replicas: int = 1,
    pool: str = "cpu",
    ready_ns: int | None = None,
) -> Group:
    return Group(
        id=GroupId(name),
        namespace=Namespace("ns"),
        pool=PoolId(pool),
        variants=tuple(sorted(one.id for one in variants)),
        replicas=replicas,
        isolation=Isolation.SHARED,
        ready_ns=ready_ns,
    )


def route(
    to: Variant,
    group_name: str = "g",
    *,
    batch_size: int = 16,
    lane_share: float = 1.0,
) -> Route:
    return Route(
        variant=to.id,
        group=GroupId(group_name),
        batch_size=batch_size,
        share_ppm=1_000_000,
        lane_share=lane_share,
        predicted_ns=0,
        capacity_rps=0.0,
    )


def service(
    name: str,
    *routes: Route,
    target_ms: float = 100,
    floor_ppm: int = 700_000,
    overload: OverloadPolicy = OverloadPolicy.REJECT,
    priority: int = 0,
    degraded: Sequence[Route] = (),
) -> ServicePlan:
    return ServicePlan(
        service=ServiceId(f"ns/{name}"),
        objectives=Objectives(
            latency_ns=int(target_ms * MS),
            percentile_ppm=990_000,
            accuracy_floor_ppm=floor_ppm,
            cost_budget_uph=None,
        ),
        routes=routes,
        cost_uph=0,
        accuracy_ppm=0,
        overload=overload,
        priority=priority,
        degraded_routes=tuple(degraded),
    )


def plan_changed(
    services: Sequence[ServicePlan],
    groups: Sequence[Group],
    variants: Sequence[Variant],
    revision: int = 1,
) -> PlanChanged:
    return PlanChanged(
        plan=Plan(
            revision=revision,
            groups=tuple(sorted(groups, key=lambda one: one.id)),
            services=tuple(sorted(services, key=lambda one: one.service)),
            explanations=(),
            cost_uph=0,
        ),
        catalog=Catalog(models=(), variants=tuple(sorted(variants, key=lambda one: one.id))),
    )


@dataclass
class Executor:
    """One honest executor: in order, inside the window, one at a time; transfers beside them.

    It has ``memory`` bytes, and refuses a load that does not fit.
    """

    worker: str
    memory: int = 1 << 30
    free_at: int = 0
    transfer_free_at: int = 0
    resident: set[str] = field(default_factory=set)
    alive: bool = True
    mute: bool = False
    life: int = 0


class World:
    """Virtual time around one scheduler. ``taken`` draws what an Infer really takes."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        taken: Callable[[Infer], int] | None = None,
        check: bool = True,
    ) -> None:
        self.settings = settings or Settings(reply_overhead_ns=0)
        self.scheduler = Scheduler(self.settings)
        self.now = 0
        self.taken = taken or (lambda infer: infer.expected_ns)
        self.check = check
        self.executors: dict[str, Executor] = {}
        self.replies: dict[int, Reply] = {}
        self.replied_at: dict[int, int] = {}
        self.service_of: dict[int, str] = {}
        self.deadlines: dict[int, int] = {}
        self.targets: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.refused_loads = 0
        self.sent: list[Action] = []
        self.busy_ns = 0
        self.log: list[str] = []
        self.load_status: Callable[[Load], ActionStatus] = lambda _: ActionStatus.OK
        self.infer_status: Callable[[Infer], ActionStatus] = lambda _: ActionStatus.OK
        self._future: list[tuple[int, int, Any]] = []
        self._sequence = 0
        self._requests = 0

    # What happens.

    def plan(
        self,
        services: Sequence[ServicePlan],
        groups: Sequence[Group],
        variants: Sequence[Variant],
        revision: int = 1,
    ) -> list[Action]:
        for one in services:
            self.targets[one.service] = one.objectives.latency_ns
        for one in variants:
            profile = one.profiles[0]
            self.sizes[one.id] = profile.weights_bytes + profile.workspace_bytes
        return self.tell(plan_changed(services, groups, variants, revision))

    def join(
        self,
        worker: str = "w0",
        *,
        group_name: str = "g",
        resident: Sequence[Variant] = (),
        memory: int = 1 << 30,
        pool: str = "cpu",
    ) -> list[Action]:
        life = self.executors[worker].life + 1 if worker in self.executors else 0
        names = {one.id for one in resident}
        executor = Executor(worker, memory=memory, resident=names, life=life)
        self.executors[worker] = executor
        return self.tell(
            WorkerJoined(
                worker=WorkerId(worker),
                group=GroupId(group_name),
                pool=PoolId(pool),
                memory_bytes=memory,
                resident=tuple(one.id for one in resident),
            )
        )

    def lose(self, worker: str = "w0") -> list[Action]:
        self.executors[worker].alive = False
        return self.tell(WorkerLost(worker=WorkerId(worker)))

    def arrive(self, name: str = "s", **fields: object) -> int:
        """One request now; its number."""
        self._requests += 1
        number = self._requests
        name = f"ns/{name}"
        fields = {"rows": 1, "arrived_at": self.now, **fields}
        self.service_of[number] = name
        target = min(self.targets.get(name, 0), fields.get("target_ns") or 1 << 60)
        if fields.get("offline"):
            target = fields.get("target_ns") or self.settings.offline_wait_ns
        self.deadlines[number] = fields["arrived_at"] + target
        self.tell(RequestArrived(request=number, service=ServiceId(name), **fields))
        return number

    def at(self, when: int, event: Event | Callable[[], Any]) -> None:
        """Have ``event`` told, or called, at ``when``."""
        self._sequence += 1
        heapq.heappush(self._future, (when, self._sequence, event))

    def tell(self, event: Event) -> list[Action]:
        actions = self.scheduler.handle(event, self.now)
        if self.check:
            self.scheduler.check_integrity()
        for action in actions:
            self.log.append(f"{self.now} {action}")
            self._perform(action)
        return actions

    # Time.

    def run(self, until: int | None = None, steps: int = 2_000_000) -> None:
        """Go on until nothing is left to happen, or to ``until``."""
        for _ in range(steps):
            wake = self.scheduler.next_wakeup()
            following = self._future[0][0] if self._future else None
            times = [time for time in (wake, following) if time is not None]
            if not times or (until is not None and min(times) > until):
                break
            self.now = max(self.now, min(times))
            if following is not None and following <= self.now:
                _, _, event = heapq.heappop(self._future)
                if callable(event):
                    event()
                else:
                    self.tell(event)
            else:
                self.tell(Timer())
        else:
            pytest.fail("the world does not come to rest")
        if until is not None:
            self.now = max(self.now, until)

    # What came of it.

    def outcome(self, number: int) -> tuple[Outcome, Reason] | None:
        reply = self.replies.get(number)
        return None if reply is None else (reply.outcome, reply.reason)

    def count(self, name: str | None = None) -> Counter[Outcome]:
        return Counter(
            reply.outcome
            for number, reply in self.replies.items()
            if name is None or self.service_of[number] == f"ns/{name}"
        )

    def infers(self) -> list[Infer]:
        return [action for action in self.sent if isinstance(action, Infer)]

    def _perform(self, action: Action) -> None:
        if isinstance(action, Reply):
            self._note(action)
            return
        self.sent.append(action)
        executor = self.executors[action.worker]
        life = executor.life
        assert action.earliest <= action.latest

        finished = (
            self._execute(executor, action)
            if isinstance(action, Infer)
            else self._transfer(executor, action)
        )

        def answer() -> None:
            if executor.alive and executor.life == life and not executor.mute:
                if isinstance(action, Load) and finished[1].status is ActionStatus.OK:
                    executor.resident.add(action.variant)
                self.tell(finished[1])

        self.at(finished[0], answer)

    def _transfer(self, executor: Executor, action: Load | Unload) -> tuple[int, ActionFinished]:
        end = max(self.now, executor.transfer_free_at) + action.expected_ns
        executor.transfer_free_at = end
        status = ActionStatus.OK
        if isinstance(action, Unload):
            executor.resident.discard(action.variant)
        else:
            status = self.load_status(action)
            held = sum(self.sizes.get(name, 0) for name in executor.resident - {action.variant})
            if status is ActionStatus.OK and held + self.sizes[action.variant] > executor.memory:
                status = ActionStatus.NO_PAGES
                self.refused_loads += 1
        return end, ActionFinished(action=action.action, status=status)

    def _execute(self, executor: Executor, action: Infer) -> tuple[int, ActionFinished]:
        begin = max(self.now, executor.free_at, action.earliest)
        status = self.infer_status(action)
        if begin > action.latest:
            status = ActionStatus.TOO_LATE
        elif action.variant not in executor.resident:
            status = ActionStatus.WEIGHTS_MISSING
        if status is not ActionStatus.OK:
            return begin, ActionFinished(action=action.action, status=status)
        took = self.taken(action)
        end = executor.free_at = begin + took
        self.busy_ns += took
        return end, ActionFinished(
            action=action.action, status=status, begin=begin, end=end, duration_ns=took
        )

    def _note(self, reply: Reply) -> None:
        number = reply.request
        assert number in self.service_of, "a reply to nobody"
        assert number not in self.replies, "a second reply"
        assert reply.reason in REASONS[reply.outcome]
        if reply.outcome is Outcome.ON_TIME:
            assert self.now <= self.deadlines[number], "on time after its deadline"
            assert reply.action is not None
        if reply.outcome is not Outcome.REFUSED:
            assert reply.retry_after_ns is None
        self.replies[number] = reply
        self.replied_at[number] = self.now


def simple(
    settings: Settings | None = None,
    *,
    times_ms: Mapping[int, float] | None = None,
    target_ms: float = 100,
    overload: OverloadPolicy = OverloadPolicy.REJECT,
    **fields: object,
) -> World:
    """One service ``s`` on one warm worker ``w0``."""
    net = variant(times_ms=times_ms or {1: 10.0})
    world = World(settings, **fields)
    one = service("s", route(net), target_ms=target_ms, overload=overload)
    world.plan([one], [group("g", [net])], [net])
    world.join(resident=[net])
    return world


def crowd(
    settings: Settings | None = None,
    *,
    variants: int,
    slots: int,
    workers: int = 1,
    target_ms: float = 100,
    times_ms: Mapping[int, float] | None = None,
    load_ms: float = 8,
    **fields: object,
) -> World:
    """``variants`` services on workers with room for ``slots`` of them: v00 … before s00 …."""
    nets = [
        variant(f"v{place:02}", times_ms=times_ms or {1: 2.0}, load_ms=load_ms, weights=90)
        for place in range(variants)
    ]
    world = World(settings, **fields)
    share = 1 / variants
    world.plan(
        [
            service(f"s{place:02}", route(net, lane_share=share), target_ms=target_ms)
            for place, net in enumerate(nets)
        ],
        [group("g", nets, replicas=workers)],
        nets,
    )
    for place in range(workers):
        world.join(f"w{place}", memory=slots * 100)
    return world


def failed(action: Action) -> ActionFinished:
    """Return the answer of an executor that could not do ``action``."""
    return ActionFinished(action=action.action, status=ActionStatus.ERROR)


@pytest.fixture
def lab() -> SimpleNamespace:
    """Hand out the builders of this file."""
    return SimpleNamespace(
        MS=MS,
        World=World,
        simple=simple,
        crowd=crowd,
        failed=failed,
        variant=variant,
        group=group,
        route=route,
        service=service,
        plan_changed=plan_changed,
        Unload=Unload,
    )
