"""Whole worlds drawn from one number, and every rule checked on each: one seed, one verdict.

Called by the tests, and by ``python -m pytest`` readers who want to see a failing seed again:
``run_checked(draw_world(seed), seed)``. Worlds are small and nasty on purpose: short objectives,
bursts, tiny memories, slow links, workers that crash.
"""

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
from isochrone.demand import Isolation, Objectives
from isochrone.ids import GroupId, ModelId, Namespace, PoolId, ServiceId, VariantId, WorkerId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.scheduling.scheduler import Scheduler
from isochrone.scheduling.settings import Settings
from isochrone.simulation.arrivals import Gamma, draw, generator, merge
from isochrone.simulation.checkers import RuleChecker, check_records
from isochrone.simulation.driver import Run, drive
from isochrone.simulation.world import Arrival, Crash, Noise, PlanChange, WorkerSpec, World
from isochrone.trace import Record
from isochrone.units import MIB, MICROSECOND, MILLISECOND, ONE_PPM, SECOND, Nanoseconds

POOL: Final = PoolId("pool")
_NAMESPACE: Final = Namespace("swarm")
_WEIGHTS_BYTES: Final = 16 * MIB
_BATCH_SIZES: Final = (1, 2, 4, 8)


def draw_world(seed: int) -> World:
    """Return the world of ``seed``: one group of up to 3 workers, and up to 3 services."""
    rng = generator(seed, "world")
    count = int(rng.integers(1, 4))
    variants = tuple(_variant(rng, number) for number in range(count))
    catalog = Catalog(models=tuple(_model(number) for number in range(count)), variants=variants)
    workers = int(rng.integers(1, 4))
    plan = _plan(rng, variants, workers, revision=1)
    plans = [PlanChange(at=0, plan=plan, catalog=catalog)]
    duration_ns = 2 * SECOND
    if _chance(rng, 0.3):
        changed = _plan(rng, variants, workers, revision=2)
        at = int(rng.integers(1, duration_ns))
        plans.append(PlanChange(at=at, plan=changed, catalog=catalog))
    specs = tuple(
        WorkerSpec(
            worker=WorkerId(f"worker-{number}"),
            group=GroupId("group"),
            pool=POOL,
            memory_bytes=_WEIGHTS_BYTES * 2 * int(rng.integers(1, count + 1)),
            resident=(variants[0].id,) if _chance(rng, 0.5) else (),
            joins_at=int(rng.integers(0, 50 * MILLISECOND)),
        )
        for number in range(workers)
    )
    return World(
        plans=tuple(plans),
        workers=specs,
        arrivals=_arrivals(seed, rng, variants, workers, duration_ns),
        settings=Settings(queue_max=int(rng.choice([4, 64, 4096]))),
        noise=Noise(
            sigma=float(rng.choice([0.0, 0.05, 0.3])),
            slow_factor=float(rng.choice([1.0, 1.6])),
            slow_ppm=300_000,
            mode_ns=200 * MILLISECOND,
        ),
        crashes=_crashes(rng, specs, duration_ns),
        link_ns=int(rng.choice([10, 100, 2000])) * MICROSECOND,
    )


def run_checked(world: World, seed: int) -> Run:
    """Run ``world`` with every rule watched; an error's last line names the seed."""
    routes = sum(len(it.routes) for change in world.plans for it in change.plan.services)
    in_flight = len(world.workers) * world.settings.outstanding_max * max(_BATCH_SIZES)
    checker = RuleChecker(open_max=routes * world.settings.queue_max + in_flight)
    scheduler = Scheduler(world.settings)
    records: list[Record] = []
    try:
        run = drive(
            world, scheduler, seed=seed, sink=records.append, observers=(checker,), records=records
        )
        scheduler.check_integrity()
        checker.finish()
        check_records(run.records)
    except AssertionError as error:
        error.add_note(f"seed {seed}: run_checked(draw_world({seed}), {seed})")
        raise
    return run


def _chance(rng: np.random.Generator, share: float) -> bool:
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
        _batch(size, round(single_ns * (fixed + (1 - fixed) * size))) for size in _BATCH_SIZES
    )
    profile = Profile(
        pool=POOL,
        batches=batches,
        load_ns=round(float(rng.uniform(1, 60)) * MILLISECOND),
        weights_bytes=_WEIGHTS_BYTES,
        workspace_bytes=0,
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
        batch_sizes=_BATCH_SIZES,
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


def _plan(
    rng: np.random.Generator, variants: tuple[Variant, ...], workers: int, *, revision: int
) -> Plan:
    group = Group(
        id=GroupId("group"),
        namespace=_NAMESPACE,
        pool=POOL,
        variants=tuple(variant.id for variant in variants),
        replicas=workers,
        isolation=Isolation.SHARED,
    )
    return Plan(
        revision=revision,
        groups=(group,),
        services=tuple(
            _service_plan(rng, variant, number, len(variants))
            for number, variant in enumerate(variants)
        ),
        explanations=(),
        cost_uph=0,
    )


def _service_plan(
    rng: np.random.Generator, variant: Variant, number: int, count: int
) -> ServicePlan:
    single_ns = variant.profiles[0].batches[0].p50_ns
    objectives = Objectives(
        latency_ns=round(single_ns * float(rng.uniform(1.1, 15.0))) + 2 * MILLISECOND,
        percentile_ppm=990_000,
        accuracy_floor_ppm=700_000,
        cost_budget_uph=None,
    )
    route = Route(
        variant=variant.id,
        group=GroupId("group"),
        batch_size=int(rng.choice(_BATCH_SIZES)),
        share_ppm=ONE_PPM,
        lane_share=1 / count,
        predicted_ns=objectives.latency_ns,
        capacity_rps=SECOND / single_ns,
    )
    return ServicePlan(
        service=ServiceId(f"{_NAMESPACE}/service-{number}"),
        objectives=objectives,
        routes=(route,),
        cost_uph=0,
        accuracy_ppm=variant.accuracy.value_ppm,
    )


def _arrivals(
    seed: int,
    rng: np.random.Generator,
    variants: tuple[Variant, ...],
    workers: int,
    duration_ns: Nanoseconds,
) -> tuple[Arrival, ...]:
    """Return up to 3 times what the workers can do, in bursts, some with slow bodies."""
    streams = []
    for number, variant in enumerate(variants):
        load = float(rng.uniform(0.1, 3.0)) / len(variants)
        rate_rps = min(500.0, load * workers * SECOND / variant.profiles[0].batches[0].p50_ns)
        process = Gamma(rate_rps=rate_rps, cv=float(rng.choice([0.5, 1.0, 4.0])))
        stream = generator(seed, "arrivals", str(number))
        streams.append((number, draw(process, stream, begin=0, end=duration_ns)))
    return tuple(
        Arrival(
            at=at,
            service=ServiceId(f"{_NAMESPACE}/service-{number}"),
            rows=int(rng.choice([1, 1, 1, 2])),
            target_ns=round(float(rng.uniform(0.1, 60)) * MILLISECOND)
            if _chance(rng, 0.1)
            else None,
            body_ns=int(rng.choice([0, 0, 300])) * MICROSECOND,
        )
        for at, number in merge(streams)
    )


def _crashes(
    rng: np.random.Generator, workers: tuple[WorkerSpec, ...], duration_ns: Nanoseconds
) -> tuple[Crash, ...]:
    return tuple(
        Crash(
            worker=spec.worker,
            at=int(rng.integers(100 * MILLISECOND, duration_ns)),
            down_ns=int(rng.integers(MILLISECOND, 300 * MILLISECOND)),
        )
        for spec in workers
        if _chance(rng, 0.3)
    )
