"""Seeded random problems: what the planner's benchmarks and laws are shown on.

Called by ``bench/planner_*.py`` and by tests. The same shape and seed give the same problem on every
machine. Figures are of the size that public clouds and measured profiles show: an accelerator's price
grows a little slower than its speed, a batch costs its size to a power below one, larger variants of a
model are slower and more accurate.
"""

import random
from dataclasses import dataclass
from math import exp
from typing import Final

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
from isochrone.demand import (
    Demand,
    Isolation,
    Load,
    NamespaceBudget,
    Objectives,
    OverloadPolicy,
    Service,
    SizeShare,
)
from isochrone.fleet import Engine, Fleet, Pool, Vendor
from isochrone.ids import ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.planning.problem import DEFAULT_SETTINGS, PlannerSettings, Problem
from isochrone.units import DOLLAR_UPH, GIB, MIB, MILLISECOND, ONE_PPM

BATCH_SIZES: Final = (1, 2, 4, 8)
SIZE_MIXES: Final = (((1, 1_000_000),), ((1, 700_000), (2, 200_000), (4, 100_000)))
"""Rows of a request and their shares: most services send single rows, some a mix."""
SCORE_P99: Final = 2.3263
SCORE_P999: Final = 3.0902
"""Standard normal scores of the quantiles that a profile holds."""
_ARTIFACT: Final = Artifact(uri="file:///none", format="synthetic", sha256="0" * 64)
_MEASURED_AT: Final = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a problem is, and what is drawn for its services.

    ``variants`` is per model, and each model is asked for by ``services_per_model`` services.
    ``isolation`` None draws it for every service. ``nodes_max`` bounds every pool; ``budgets`` says
    whether some services, and every namespace, have a ceiling.
    """

    services: int
    variants: int
    pools: int
    namespaces: int = 1
    services_per_model: int = 1
    isolation: Isolation | None = None
    percentiles: tuple[float, ...] = (95.0, 99.0, 99.9)
    rates_rps: tuple[float, ...] = (5.0, 20.0, 50.0, 120.0)
    targets_ms: tuple[int, ...] = (50, 100, 200)
    mixed_sizes: bool = False
    nodes_max: int = 12
    budgets: bool = True
    accelerator_gib: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A pool, how fast it is, and how far its times stray (standard deviation of their logarithm)."""

    pool: Pool
    speed: float
    sigma: float


def generated(shape: Shape, *, seed: int, settings: PlannerSettings = DEFAULT_SETTINGS) -> Problem:
    """Return the problem number ``seed`` of ``shape``."""
    draw = random.Random(f"{seed}/{shape}")  # noqa: S311 - a drawn problem, no secret
    kinds = [_kind(draw, shape, number) for number in range(shape.pools)]
    variants: list[Variant] = []
    services: list[Service] = []
    for number in range(shape.services):
        namespace = f"ns-{number // shape.services_per_model % shape.namespaces}"
        model = ModelId(f"{namespace}/model-{number // shape.services_per_model:03}")
        if number % shape.services_per_model == 0:
            made = _variants(draw, shape, model, kinds)
            accuracies = sorted(one.accuracy.value_ppm for one in made)
            variants += made
        floor_ppm = accuracies[int(shape.variants * draw.uniform(0.1, 0.8))]
        services.append(_service(draw, shape, number, model, floor_ppm))
    ceilings: list[NamespaceBudget] = []
    if shape.budgets:
        each_uph = round(1.2 * DOLLAR_UPH * shape.services / shape.namespaces)
        names = sorted({service.namespace for service in services})
        ceilings = [NamespaceBudget(namespace=it, cost_budget_uph=each_uph) for it in names]
    return Problem(
        catalog=Catalog(models=(), variants=tuple(sorted(variants, key=lambda it: it.id))),
        fleet=Fleet(pools=tuple(kind.pool for kind in kinds)),
        demand=Demand(
            services=tuple(sorted(services, key=lambda it: it.id)), budgets=tuple(ceilings)
        ),
        settings=settings,
    )


def _kind(draw: random.Random, shape: Shape, number: int) -> _Kind:
    speed = draw.uniform(0.6, 6.0)
    per_node = draw.choice([1, 2, 4])
    price = 0.08 * speed**0.85 * draw.uniform(0.9, 1.1) * per_node
    pool = Pool(
        id=PoolId(f"pool-{number:02}"),
        vendor=Vendor.SYNTHETIC,
        product="generated",
        memory_bytes=shape.accelerator_gib * GIB,
        cores=1,
        accelerators_per_node=per_node,
        node_price_uph=round(price * 1000) * DOLLAR_UPH // 1000,
        nodes_min=0,
        nodes_max=shape.nodes_max,
        engine=Engine.EXISTING,
    )
    return _Kind(pool=pool, speed=speed, sigma=draw.uniform(0.01, 0.12))


def _variants(
    draw: random.Random, shape: Shape, model: ModelId, kinds: list[_Kind]
) -> list[Variant]:
    base_ms = draw.uniform(3, 30)
    found: list[Variant] = []
    for number in range(shape.variants):
        scale = draw.uniform(0.3, 3.0)
        saving = draw.uniform(0.4, 0.95)
        weights = round(draw.uniform(10, 140) * scale) * MIB
        value_ppm = round((0.66 + 0.05 * scale + draw.uniform(-0.04, 0.04)) * 10_000) * 100
        found.append(
            Variant(
                id=VariantId(f"{model}-v{number:02}"),
                model=model,
                architecture=f"v{number:02}",
                precision=Precision.FP32,
                backend=BackendName.SYNTHETIC,
                batch_sizes=BATCH_SIZES,
                artifact=_ARTIFACT,
                accuracy=Accuracy(
                    value_ppm=value_ppm,
                    lower_ppm=value_ppm - 10_000,
                    metric=AccuracyMetric.TOP1,
                    samples=5000,
                    source=AccuracySource.MEASURED,
                ),
                profiles=tuple(_profile(kind, base_ms * scale, saving, weights) for kind in kinds),
            )
        )
    return found


def _profile(kind: _Kind, one_ms: float, saving: float, weights_bytes: int) -> Profile:
    batches = tuple(
        _batch(size, one_ms / kind.speed * size**saving, kind.sigma) for size in BATCH_SIZES
    )
    return Profile(
        pool=kind.pool.id,
        batches=batches,
        load_ns=round(weights_bytes / (3 * GIB) * 1000 * MILLISECOND) + 5 * MILLISECOND,
        weights_bytes=weights_bytes,
        workspace_bytes=16 * MIB,
        samples=1000,
        tail_samples=0,
        measured_at=_MEASURED_AT,
        runtime="generated",
    )


def _batch(size: int, p50_ms: float, sigma: float) -> BatchProfile:
    p50_ns = p50_ms * MILLISECOND
    return BatchProfile(
        size=size,
        mean_ns=round(p50_ns * exp(sigma**2 / 2)),
        p50_ns=round(p50_ns),
        p99_ns=round(p50_ns * exp(SCORE_P99 * sigma)),
        p999_ns=round(p50_ns * exp(SCORE_P999 * sigma)),
        samples=1000,
        tail_pooled=False,
    )


def _service(
    draw: random.Random, shape: Shape, number: int, model: ModelId, floor_ppm: int
) -> Service:
    namespace = Namespace(model.partition("/")[0])
    budget = draw.choice([None, 2.0, 4.0]) if shape.budgets else None
    rate = draw.choice(shape.rates_rps)
    mix = draw.choice(SIZE_MIXES) if shape.mixed_sizes else SIZE_MIXES[0]
    return Service(
        id=ServiceId(f"{namespace}/service-{number:03}"),
        namespace=namespace,
        model=model,
        objectives=Objectives(
            latency_ns=draw.choice(shape.targets_ms) * MILLISECOND,
            percentile_ppm=round(draw.choice(shape.percentiles) * ONE_PPM / 100),
            accuracy_floor_ppm=floor_ppm,
            cost_budget_uph=None if budget is None else round(budget * DOLLAR_UPH),
        ),
        load=Load(
            expected_rate_rps=rate / 2,
            peak_rate_rps=rate,
            burst=draw.choice([0, 2, 5]),
            sizes=tuple(SizeShare(size=size, share_ppm=share) for size, share in mix),
        ),
        priority=draw.randint(0, 2),
        created_at=_MEASURED_AT,
        isolation=shape.isolation or draw.choice([Isolation.SHARED, Isolation.DEDICATED]),
        pools=None,
        overload=OverloadPolicy.REJECT,
    )
