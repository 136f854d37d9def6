"""The models and the plans of the swarm's worlds, drawn from a generator.

Called by ``swarm_world``. Pure.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

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
from isochrone.demand import Isolation, Objectives, OverloadPolicy
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.units import MIB, MILLISECOND, ONE_PPM, SECOND, Nanoseconds

POOL: Final = PoolId("pool")
BATCH_SIZES: Final = (1, 2, 4, 8)
_NAMESPACE: Final = Namespace("swarm")
_WEIGHTS_BYTES: Final = 16 * MIB


def draw_catalog(rng: np.random.Generator, count: int) -> Catalog:
    """Return ``count`` models of one variant each, and below every floor a faster one."""
    variants = tuple(_variant(rng, number) for number in range(count))
    lesser = tuple(_lesser(it, float(rng.uniform(0.1, 0.9))) for it in variants)
    return Catalog(
        models=tuple(_model(number) for number in range(count)), variants=(*variants, *lesser)
    )


def _lesser(variant: Variant, share: float) -> Variant:
    """Return a variant of the same model that takes ``share`` of the time, and is less accurate."""
    profile = variant.profiles[0]
    batches = tuple(_batch(it.size, max(1, round(it.p50_ns * share))) for it in profile.batches)
    return replace(
        variant,
        id=VariantId(f"{variant.id}-lesser"),
        accuracy=replace(variant.accuracy, value_ppm=650_000, lower_ppm=640_000),
        profiles=(replace(profile, batches=batches),),
    )


def chance(rng: np.random.Generator, share: float) -> bool:
    """Return True in a ``share`` of the draws."""
    return float(rng.random()) < share


def _model(number: int) -> Model:
    tensor = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 4))
    return Model(
        id=ModelId(f"{_NAMESPACE}/model-{number}"),
        task="classification",
        metric=AccuracyMetric.TOP1,
        inputs=(tensor,),
        outputs=(tensor,),
    )


def _variant(rng: np.random.Generator, number: int) -> Variant:
    single_ns = round(float(rng.uniform(0.2, 20.0)) * MILLISECOND)
    fixed = float(rng.uniform(0.0, 0.9))
    batches = tuple(
        _batch(size, round(single_ns * (fixed + (1 - fixed) * size))) for size in BATCH_SIZES
    )
    profile = Profile(
        pool=POOL,
        batches=batches,
        load_ns=round(float(rng.uniform(1, 60)) * MILLISECOND),
        weights_bytes=_WEIGHTS_BYTES,
        workspace_bytes=int(rng.choice([0, 0, 4])) * MIB,
        samples=1000,
        tail_samples=1000,
        measured_at="2026-01-01T00:00:00Z",
        runtime="simulated",
    )
    accuracy = Accuracy(
        value_ppm=750_000,
        lower_ppm=740_000,
        metric=AccuracyMetric.TOP1,
        samples=1000,
        source=AccuracySource.MEASURED,
    )
    return Variant(
        id=VariantId(f"{_NAMESPACE}/variant-{number}"),
        model=ModelId(f"{_NAMESPACE}/model-{number}"),
        architecture=f"architecture-{number}",
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=BATCH_SIZES,
        artifact=Artifact(uri="memory", format="synthetic", sha256="0" * 64),
        accuracy=accuracy,
        profiles=(profile,),
    )


def _batch(size: int, median_ns: Nanoseconds) -> BatchProfile:
    return BatchProfile(
        size=size,
        mean_ns=median_ns,
        p50_ns=median_ns,
        p99_ns=round(median_ns * 1.3),
        p999_ns=round(median_ns * 1.5),
        samples=1000,
        tail_pooled=False,
    )


def draw_plan(
    rng: np.random.Generator, variants: tuple[Variant, ...], sizes: Sequence[int], *, revision: int
) -> Plan:
    """Return a plan that hosts each variant on some of the groups; now and then it drops one.

    ``variants`` are one of each model, and then the lesser ones in the same order.
    """
    count = len(variants) // 2
    kept = [number for number in range(count) if revision == 1 or chance(rng, 0.8)]
    policies = {
        number: tuple(OverloadPolicy)[int(rng.choice(3, p=(0.5, 0.25, 0.25)))] for number in kept
    }
    homes = {
        number: tuple(group for group in range(len(sizes)) if not group or chance(rng, 0.6))
        for number in kept
    }
    return Plan(
        revision=revision,
        groups=tuple(
            Group(
                id=GroupId(f"group-{group}"),
                namespace=_NAMESPACE,
                pool=POOL,
                variants=tuple(
                    it.id
                    for number in kept
                    if group in homes[number]
                    for it in _answering(variants, number, policies[number])
                ),
                replicas=size,
                isolation=Isolation.SHARED,
                ready_ns=int(rng.integers(1, 60)) * MILLISECOND if chance(rng, 0.5) else None,
            )
            for group, size in enumerate(sizes)
        ),
        services=tuple(
            _service_plan(
                rng,
                _answering(variants, number, policies[number]),
                number,
                homes[number],
                (1 / len(kept), policies[number]),
            )
            for number in kept
        ),
        explanations=(),
        cost_uph=0,
    )


def _service_plan(
    rng: np.random.Generator,
    answering: tuple[Variant, ...],
    number: int,
    homes: Sequence[int],
    terms: tuple[float, OverloadPolicy],
) -> ServicePlan:
    variant = answering[0]
    lane_share, policy = terms
    single_ns = variant.profiles[0].batches[0].p50_ns
    objectives = Objectives(
        latency_ns=round(single_ns * float(rng.uniform(1.1, 15.0))) + 2 * MILLISECOND,
        percentile_ppm=990_000,
        accuracy_floor_ppm=700_000,
        cost_budget_uph=None,
    )
    routes, degraded = (
        tuple(
            Route(
                variant=it.id,
                group=GroupId(f"group-{home}"),
                batch_size=int(rng.choice(BATCH_SIZES)),
                share_ppm=ONE_PPM // len(homes),
                lane_share=lane_share if it is variant else 0.0,
                predicted_ns=objectives.latency_ns,
                capacity_rps=SECOND / single_ns,
            )
            for home in homes
            for it in some
        )
        for some in (answering[:1], answering[1:])
    )
    return ServicePlan(
        service=service_id(number),
        objectives=objectives,
        routes=routes,
        cost_uph=0,
        accuracy_ppm=variant.accuracy.value_ppm,
        overload=policy,
        degraded_routes=degraded,
    )


def _answering(
    variants: tuple[Variant, ...], number: int, policy: OverloadPolicy
) -> tuple[Variant, ...]:
    """Return what may answer the ``number``-th service: with Degrade, the lesser variant as well."""
    if policy is OverloadPolicy.DEGRADE:
        return variants[number], variants[len(variants) // 2 + number]
    return (variants[number],)


def service_id(number: int) -> ServiceId:
    """Return the service whose model is the ``number``-th."""
    return ServiceId(f"{_NAMESPACE}/service-{number}")
