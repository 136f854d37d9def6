"""Plans and catalogs made from tables of batch times: the worlds that comparisons are run in.

Called by the benchmarks and the tests that replay published set-ups. Every service has one variant,
with a profile per pool and a route per group; what no comparison asks about (accuracy, prices,
signatures) is the same for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Datatype,
    Model,
    Precision,
    Profile,
    TensorSpec,
    Variant,
)
from isochrone.demand import Isolation, Objectives
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.simulation.noise import Noise
from isochrone.simulation.world import PlanChange, WorkerSpec
from isochrone.units import GIB, ONE_PPM, SECOND, Bytes, Nanoseconds

NAMESPACE: Final = Namespace("comparison")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """What one batch size takes, as a profile would say."""

    mean_ns: Nanoseconds
    p50_ns: Nanoseconds
    p99_ns: Nanoseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TableService:
    """A service and its only variant.

    ``times`` holds, per pool, every batch size that was profiled; ``planned`` the largest one that
    the plan counts on there.
    """

    name: str
    target_ns: Nanoseconds
    times: Mapping[PoolId, Mapping[int, BatchTimes]]
    planned: Mapping[PoolId, int]
    load_ns: Nanoseconds
    weights_bytes: Bytes

    @property
    def service(self) -> ServiceId:
        """The identity of the service."""
        return ServiceId(f"{NAMESPACE}/{self.name}")

    @property
    def variant(self) -> VariantId:
        """The identity of its variant."""
        return VariantId(f"{NAMESPACE}/{self.name}")


def table_plan(services: tuple[TableService, ...], workers: Mapping[PoolId, int]) -> PlanChange:
    """Return the plan, in force from 0, that gives each pool's ``workers`` all of ``services``.

    The group of a pool has the pool's name.
    """
    groups = tuple(
        Group(
            id=GroupId(pool),
            namespace=NAMESPACE,
            pool=pool,
            variants=tuple(sorted(it.variant for it in services)),
            replicas=count,
            isolation=Isolation.SHARED,
        )
        for pool, count in sorted(workers.items())
        if count
    )
    return PlanChange(
        at=0,
        plan=Plan(
            revision=1,
            groups=groups,
            services=tuple(
                _service(it, groups, len(services))
                for it in sorted(services, key=lambda it: it.service)
            ),
            explanations=(),
            cost_uph=0,
        ),
        catalog=Catalog(
            models=tuple(_model(it) for it in sorted(services, key=lambda it: it.service)),
            variants=tuple(_variant(it) for it in sorted(services, key=lambda it: it.service)),
        ),
    )


def table_workers(
    services: tuple[TableService, ...],
    workers: Mapping[PoolId, int],
    noises: Mapping[PoolId, Noise],
    *,
    memory_bytes: Bytes = 64 * GIB,
    loaded: bool = True,
) -> tuple[WorkerSpec, ...]:
    """Return ``workers`` per pool that join at 0, holding all of ``services`` or (not ``loaded``) none."""
    return tuple(
        WorkerSpec(
            worker=WorkerId(f"{pool}-{number}"),
            group=GroupId(pool),
            pool=pool,
            memory_bytes=memory_bytes,
            resident=tuple(it.variant for it in services) if loaded else (),
            noise=noises.get(pool),
        )
        for pool, count in sorted(workers.items())
        for number in range(count)
    )


def _service(it: TableService, groups: tuple[Group, ...], count: int) -> ServicePlan:
    return ServicePlan(
        service=it.service,
        objectives=Objectives(
            latency_ns=it.target_ns,
            percentile_ppm=990_000,
            accuracy_floor_ppm=0,
            cost_budget_uph=None,
        ),
        routes=tuple(
            Route(
                variant=it.variant,
                group=group.id,
                batch_size=it.planned[group.pool],
                share_ppm=ONE_PPM // len(groups),
                lane_share=1 / count,
                predicted_ns=it.target_ns,
                capacity_rps=SECOND / it.times[group.pool][min(it.times[group.pool])].p50_ns,
            )
            for group in groups
        ),
        cost_uph=0,
        accuracy_ppm=ONE_PPM,
    )


def _model(it: TableService) -> Model:
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 1))
    return Model(
        id=ModelId(f"{NAMESPACE}/{it.name}"),
        task="classification",
        metric=AccuracyMetric.TOP1,
        inputs=(tensor,),
        outputs=(tensor,),
    )


def _variant(it: TableService) -> Variant:
    sizes = sorted({size for times in it.times.values() for size in times})
    return Variant(
        id=it.variant,
        model=ModelId(f"{NAMESPACE}/{it.name}"),
        architecture=it.name,
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=tuple(sizes),
        artifact=Artifact(uri="memory", format="synthetic", sha256="0" * 64),
        accuracy=Accuracy(
            value_ppm=ONE_PPM,
            lower_ppm=ONE_PPM,
            metric=AccuracyMetric.TOP1,
            samples=1000,
            source=AccuracySource.DECLARED,
        ),
        profiles=tuple(
            Profile(
                pool=pool,
                batches=tuple(_batch(size, times[size]) for size in sorted(times)),
                load_ns=it.load_ns,
                weights_bytes=it.weights_bytes,
                workspace_bytes=0,
                samples=1000,
                tail_samples=0,
                measured_at="2026-01-01T00:00:00Z",
                runtime="simulated",
            )
            for pool, times in sorted(it.times.items())
        ),
    )


def _batch(size: int, times: BatchTimes) -> BatchProfile:
    return BatchProfile(
        size=size,
        mean_ns=times.mean_ns,
        p50_ns=times.p50_ns,
        p99_ns=times.p99_ns,
        p999_ns=times.p99_ns,
        samples=1000,
        tail_pooled=False,
    )
