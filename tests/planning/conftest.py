"""Small worlds for the planner's tests, and a generator of large ones, all drawn from a seed.

Tests receive this module as the fixture ``world``.
"""

import sys
from types import ModuleType
from typing import TypedDict, Unpack

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
from isochrone.fleet import Engine, Fleet, Host, Pool, Vendor
from isochrone.ids import HostId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.planning.generated import Shape, generated
from isochrone.planning.problem import PlannerSettings, Problem
from isochrone.units import DOLLAR_UPH, GIB, MIB, MILLISECOND

ARTIFACT = Artifact(uri="file:///none", format="synthetic", sha256="0" * 64)


@pytest.fixture(scope="session")
def world() -> ModuleType:
    return sys.modules[__name__]


def batch(size: int, p50_ms: float, tail: float = 1.1) -> BatchProfile:
    p50_ns = round(p50_ms * MILLISECOND)
    return BatchProfile(
        size=size,
        mean_ns=p50_ns,
        p50_ns=p50_ns,
        p99_ns=round(p50_ns * tail),
        p999_ns=round(p50_ns * tail * 1.05),
        samples=1000,
        tail_pooled=False,
    )


def profile(pool: str, batches: tuple[BatchProfile, ...], weights: int = 20 * MIB) -> Profile:
    return Profile(
        pool=PoolId(pool),
        batches=batches,
        load_ns=10 * MILLISECOND,
        weights_bytes=weights,
        workspace_bytes=4 * MIB,
        samples=1000,
        tail_samples=0,
        measured_at="2026-01-01T00:00:00Z",
        runtime="test",
    )


def variant(
    name: str,
    accuracy: float,
    profiles: tuple[Profile, ...],
    model: str = "photos/tagger",
    metric: AccuracyMetric = AccuracyMetric.TOP1,
) -> Variant:
    value_ppm = round(accuracy * 1_000_000)
    sizes = sorted({one.size for measured in profiles for one in measured.batches})
    return Variant(
        id=VariantId(f"photos/{name}"),
        model=ModelId(model),
        architecture=name,
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=tuple(sizes) or (1,),
        artifact=ARTIFACT,
        accuracy=Accuracy(
            value_ppm=value_ppm,
            lower_ppm=max(0, value_ppm - 10_000),
            metric=metric,
            samples=5000,
            source=AccuracySource.MEASURED,
        ),
        profiles=profiles,
    )


class PoolFields(TypedDict, total=False):
    """What a test may say about a pool; the rest is ordinary."""

    price: float
    nodes: int
    per_node: int
    cores: int
    memory: int
    nodes_min: int
    namespaces: tuple[str, ...]


def pool(name: str, **fields: Unpack[PoolFields]) -> Pool:
    namespaces = fields.get("namespaces")
    return Pool(
        id=PoolId(name),
        vendor=Vendor.CPU,
        product="cpu",
        memory_bytes=fields.get("memory", 2 * GIB),
        cores=fields.get("cores", 1),
        accelerators_per_node=fields.get("per_node", 1),
        node_price_uph=round(fields.get("price", 0.1) * DOLLAR_UPH),
        nodes_min=fields.get("nodes_min", 0),
        nodes_max=fields.get("nodes", 4),
        engine=Engine.EXISTING,
        allowed_namespaces=(
            None if namespaces is None else tuple(Namespace(one) for one in namespaces)
        ),
    )


class ServiceFields(TypedDict, total=False):
    """What a test may say about a service; the rest is ordinary."""

    target_ms: float
    floor: float
    rate: float
    burst: int
    percentile: float
    budget: float | None
    priority: int
    created: str
    isolation: Isolation
    pools: tuple[str, ...]
    model: str
    rows: int
    namespace: str
    suspended: bool
    overload: OverloadPolicy
    degraded: float


def service(name: str, **fields: Unpack[ServiceFields]) -> Service:
    namespace, budget = fields.get("namespace", "photos"), fields.get("budget")
    pools, rate = fields.get("pools"), fields.get("rate", 10)
    return Service(
        id=ServiceId(f"{namespace}/{name}"),
        namespace=Namespace(namespace),
        model=ModelId(fields.get("model", "photos/tagger")),
        objectives=Objectives(
            latency_ns=round(fields.get("target_ms", 100) * MILLISECOND),
            percentile_ppm=round(fields.get("percentile", 99) * 10_000),
            accuracy_floor_ppm=round(fields.get("floor", 0.7) * 1_000_000),
            cost_budget_uph=None if budget is None else round(budget * DOLLAR_UPH),
        ),
        load=Load(
            expected_rate_rps=rate / 2,
            peak_rate_rps=rate,
            burst=fields.get("burst", 0),
            sizes=(SizeShare(size=fields.get("rows", 1), share_ppm=1_000_000),),
        ),
        priority=fields.get("priority", 0),
        created_at=fields.get("created", "2026-01-01T00:00:00Z"),
        isolation=fields.get("isolation", Isolation.SHARED),
        pools=None if pools is None else tuple(PoolId(one) for one in pools),
        overload=fields.get("overload", OverloadPolicy.REJECT),
        degraded_floor_ppm=round(fields["degraded"] * 1_000_000) if "degraded" in fields else None,
        suspended=fields.get("suspended", False),
    )


def problem(
    variants: list[Variant],
    pools: list[Pool],
    services: list[Service],
    budgets: dict[str, float] | None = None,
    host_cores: int | None = None,
    running: object = None,
    **settings: object,
) -> Problem:
    hosts: tuple[Host, ...] = ()
    if host_cores is not None:
        names = tuple(sorted(one.id for one in pools))
        hosts = (Host(id=HostId("machine"), cores=host_cores, pools=names),)
    ceilings = tuple(
        NamespaceBudget(namespace=Namespace(name), cost_budget_uph=round(amount * DOLLAR_UPH))
        for name, amount in sorted((budgets or {}).items())
    )
    return Problem(
        catalog=Catalog(models=(), variants=tuple(sorted(variants, key=lambda v: v.id))),
        fleet=Fleet(pools=tuple(sorted(pools, key=lambda p: p.id)), hosts=hosts),
        demand=Demand(services=tuple(sorted(services, key=lambda s: s.id)), budgets=ceilings),
        running=running,
        settings=PlannerSettings(**settings),
    )


def large(
    seed: int,
    *,
    services: int = 50,
    variants: int = 40,
    pools: int = 8,
    isolation: Isolation = Isolation.DEDICATED,
    namespaces: int = 5,
    nodes: int = 12,
) -> Problem:
    """Return a generated problem: every service has a model of its own, profiled everywhere."""
    shape = Shape(
        services=services,
        variants=variants,
        pools=pools,
        namespaces=namespaces,
        isolation=isolation,
        nodes_max=nodes,
    )
    return generated(shape, seed=seed)
