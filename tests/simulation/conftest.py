"""A plain world to change one thing in: equal models on equal workers, nothing odd happens."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from isochrone.catalog import (
    Accuracy,
    AccuracyMetric,
    AccuracySource,
    Artifact,
    BackendName,
    BatchProfile,
    Catalog,
    Model,
    Precision,
    Profile,
    Variant,
)
from isochrone.demand import Isolation, Objectives
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.plan_document import PlanDocument
from isochrone.scheduling.settings import Settings
from isochrone.simulation.planned import planned_workers
from isochrone.simulation.world import Arrival, PlanChange, World
from isochrone.units import MILLISECOND, ONE_PPM, SECOND

BATCH_MS = {1: 4, 2: 5, 4: 7, 8: 11}
TARGET_NS = 50 * MILLISECOND


def _variant(number: int) -> Variant:
    return Variant(
        id=VariantId(f"plain/variant-{number}"),
        model=ModelId(f"plain/model-{number}"),
        architecture="plain",
        precision=Precision.FP32,
        backend=BackendName.SYNTHETIC,
        batch_sizes=tuple(BATCH_MS),
        artifact=Artifact(uri="memory", format="synthetic", sha256="0" * 64),
        accuracy=Accuracy(
            value_ppm=750_000,
            lower_ppm=740_000,
            metric=AccuracyMetric.TOP1,
            samples=1000,
            source=AccuracySource.MEASURED,
        ),
        profiles=(
            Profile(
                pool=PoolId("pool"),
                batches=tuple(
                    BatchProfile(
                        size=size,
                        mean_ns=ms * MILLISECOND,
                        p50_ns=ms * MILLISECOND,
                        p99_ns=ms * MILLISECOND,
                        p999_ns=ms * MILLISECOND,
                        samples=1000,
                        tail_pooled=False,
                    )
                    for size, ms in BATCH_MS.items()
                ),
                load_ns=10 * MILLISECOND,
                weights_bytes=100,
                workspace_bytes=0,
                samples=1000,
                tail_samples=1000,
                measured_at="2026-01-01T00:00:00Z",
                runtime="simulated",
            ),
        ),
    )


def plain_document(*, models: int = 1, workers: int = 1) -> PlanDocument:
    """Return a plan that hosts every model on every worker of one group."""
    variants = tuple(_variant(number) for number in range(models))
    group = Group(
        id=GroupId("plain"),
        namespace=Namespace("plain"),
        pool=PoolId("pool"),
        variants=tuple(variant.id for variant in variants),
        replicas=workers,
        isolation=Isolation.SHARED,
    )
    services = tuple(
        ServicePlan(
            service=ServiceId(f"plain/service-{number}"),
            objectives=Objectives(
                latency_ns=TARGET_NS,
                percentile_ppm=990_000,
                accuracy_floor_ppm=700_000,
                cost_budget_uph=None,
            ),
            routes=(
                Route(
                    variant=variant.id,
                    group=group.id,
                    batch_size=8,
                    share_ppm=ONE_PPM,
                    lane_share=workers / models,
                    predicted_ns=TARGET_NS,
                    capacity_rps=SECOND / (4 * MILLISECOND),
                ),
            ),
            cost_uph=0,
            accuracy_ppm=750_000,
        )
        for number, variant in enumerate(variants)
    )
    return PlanDocument(
        plan=Plan(revision=1, groups=(group,), services=services, explanations=(), cost_uph=0),
        catalog=Catalog(
            models=tuple(
                Model(
                    id=variant.model,
                    task="classification",
                    metric=AccuracyMetric.TOP1,
                    inputs=(),
                    outputs=(),
                )
                for variant in variants
            ),
            variants=variants,
        ),
    )


def plain_world(
    arrivals: Iterable[Arrival] = (), *, models: int = 1, workers: int = 1, **changes: object
) -> World:
    document = plain_document(models=models, workers=workers)
    facts: dict[str, Any] = {
        "plans": (PlanChange(at=0, plan=document.plan, catalog=document.catalog),),
        "workers": planned_workers(document),
        "arrivals": arrivals,
        "settings": Settings(),
        "link_ns": 1000,
    }
    return World(**{**facts, **changes})


@pytest.fixture
def make_world() -> Callable[..., World]:
    """Return the function that makes a plain world."""
    return plain_world


@pytest.fixture
def make_document() -> Callable[..., PlanDocument]:
    """Return the function that makes a plain plan."""
    return plain_document
