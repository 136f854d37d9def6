"""Every way to serve one service, and why the others are out.

Problem in; per service a short table of candidates out, which the solvers choose from, and the
rejections, which explanations quote. Called by ``planner``; read by ``exact``, ``greedy``,
``assembly`` and ``explain``.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from isochrone.catalog import AccuracyMetric, BatchProfile, Variant
from isochrone.demand import AccuracyBound, Isolation, Service
from isochrone.fleet import Pool
from isochrone.ids import PoolId
from isochrone.plan import held_ppm, meets_floor
from isochrone.planning.attainment import (
    Execution,
    execution,
    predicted_ns,
    replicas_needed,
    unloaded_ns,
)
from isochrone.planning.candidates import Candidate, Rejection, ServiceOptions, Stage
from isochrone.planning.mixing import mixes, sizes_vary
from isochrone.planning.problem import (
    Problem,
    accelerators_limit,
    is_machine,
    may_use,
    merit_ppm,
    namespace_budget,
    pages_of,
    serving_order,
)
from isochrone.planning.pruning import dominated, outdone, prune
from isochrone.planning.sharing import Member, member, shared_replicas_needed
from isochrone.units import (
    MicroDollarsPerHour,
    Nanoseconds,
    PartsPerMillion,
    format_bytes,
    format_duration,
    format_percentile,
    format_price,
    format_ratio,
)

MIXED_MAX: Final = 24
"""Services of one plan for which mixes of pools are looked for: some seconds of one core, the first time."""


def shared_cost_uph(
    price_uph: MicroDollarsPerHour, *, work_ppm: int, pages: int, pages_total: int, replicas: int
) -> MicroDollarsPerHour:
    """Return a member's part of a shared group's price: by lane share or page share, the larger."""
    by_lane = -(-price_uph * work_ppm // 1_000_000)
    by_pages = -(-price_uph * replicas * pages // pages_total)
    return max(by_lane, by_pages)


def service_options(
    problem: Problem, service: Service, *, with_mixes: bool = False
) -> ServiceOptions:
    """Return the table of ``service``, dominated candidates left out; with mixes of pools, if asked."""
    candidates: list[Candidate] = []
    rejections: list[Rejection] = []
    unseen: list[Rejection] = []
    variants = problem.catalog.variants_of(service.model)
    floor_ppm, bound = service.objectives.accuracy_floor_ppm, service.objectives.accuracy_bound
    good = [it for it in variants if meets_floor(it.accuracy, floor_ppm, bound)]
    beaten = {pool.id: outdone(problem, service, pool.id, good) for pool in problem.fleet.pools}
    for variant in variants:
        if not meets_floor(variant.accuracy, floor_ppm, bound):
            why = _misses_floor(variant, floor_ppm, bound)
            rejections.append(_reject(variant, PoolId(""), Stage.ACCURACY, why))
            continue
        for pool in problem.fleet.pools:
            if not may_use(service, pool):
                continue
            better = beaten[pool.id].get(variant.id)
            if better is not None:
                why = f"{better.id} is as accurate there, as fast and as small"
                unseen.append(_reject(variant, pool.id, Stage.DOMINATED, why))
                continue
            found, rejected = _pair(problem, service, variant, pool)
            candidates += found
            if not found and rejected:
                furthest = max(one.stage for one in rejected)
                rejections.append(
                    min(
                        (one for one in rejected if one.stage == furthest),
                        key=lambda one: (
                            one.replicas == 0,
                            one.cost_uph,
                            one.predicted_ns,
                            one.batch_size,
                        ),
                    )
                )
    if with_mixes:
        candidates += mixes(problem, service, good, candidates)
    kept = prune(problem, service, candidates)
    rejections += dominated(candidates, kept)
    if kept:  # else what rules out the better one is the reason for both
        rejections += unseen
    return ServiceOptions(service=service, candidates=kept, rejections=tuple(rejections))


def _pair(
    problem: Problem, service: Service, variant: Variant, pool: Pool
) -> tuple[list[Candidate], list[Rejection]]:
    profile = variant.profile(pool.id)
    if profile is None:
        why = f"it has no profile on {pool.id}"
        return [], [_reject(variant, pool.id, Stage.PROFILE, why)]
    needed = profile.weights_bytes + profile.workspace_bytes
    pages = pages_of(profile, problem.settings.page_bytes)
    if pages > pool.memory_bytes // problem.settings.page_bytes:
        why = (
            f"needs {format_bytes(needed)} of memory in whole pages, "
            f"an accelerator of {pool.id} has {format_bytes(pool.memory_bytes)}"
        )
        return [], [_reject(variant, pool.id, Stage.MEMORY, why)]
    rows = service.load.rows_max
    batches = [b for b in profile.batches if b.size in variant.batch_sizes and b.size >= rows]
    if not batches:
        why = f"no batch of at least {rows} rows was measured on {pool.id}"
        return [], [_reject(variant, pool.id, Stage.PROFILE, why)]
    found: list[Candidate] = []
    rejected: list[Rejection] = []
    for batch in batches:
        outcome = _batch(problem, service, variant, pool=pool, batch=batch, pages=pages)
        if isinstance(outcome, Candidate):
            found.append(outcome)
        else:
            rejected.append(outcome)
    return found, rejected


def _batch(
    problem: Problem,
    service: Service,
    variant: Variant,
    *,
    pool: Pool,
    batch: BatchProfile,
    pages: int,
) -> Candidate | Rejection:
    """Return the candidate at one batch size, or what rules it out."""
    settings, target_ns = problem.settings, service.objectives.latency_ns
    figures = execution(batch, service.load, service.objectives.percentile_ppm)
    rate_rps = service.load.peak_rate_rps
    replicas = replicas_needed(figures, latency_ns=target_ns, rate_rps=rate_rps, settings=settings)
    if replicas is None:
        return _too_slow(problem, service, variant, pool=pool, figures=figures)
    latency_ns = predicted_ns(figures, rate_rps=rate_rps, replicas=replicas, settings=settings)
    assert latency_ns is not None
    cost_uph = replicas * pool.accelerator_price_uph
    stage, why = _ceiling(problem, service, pool, replicas=replicas, cost_uph=cost_uph)
    sharing, shared_replicas = _sharing(problem, service, pool, figures=figures, pages=pages)
    if stage is not None and sharing is None:
        return replace(
            _reject(variant, pool.id, stage, why),
            batch_size=batch.size,
            replicas=replicas,
            cost_uph=cost_uph,
            predicted_ns=latency_ns,
        )
    return Candidate(
        service=service.id,
        variant=variant.id,
        pool=pool.id,
        family=variant.backend.family,
        batch_size=batch.size,
        accuracy_ppm=variant.accuracy.value_ppm,
        merit_ppm=merit_ppm(variant.accuracy),
        replicas=replicas if stage is None else 0,
        cost_uph=cost_uph,
        predicted_ns=latency_ns,
        pages=pages,
        member=sharing,
        execution=figures,
        shared_replicas=shared_replicas,
    )


def _too_slow(
    problem: Problem, service: Service, variant: Variant, *, pool: Pool, figures: Execution
) -> Rejection:
    """Return why no number of workers up to the settings' maximum meets the target."""
    settings, rate_rps = problem.settings, service.load.peak_rate_rps
    rejection = _reject(variant, pool.id, Stage.LATENCY, "")
    rejection = replace(rejection, batch_size=figures.batch.size)
    latency_ns: Nanoseconds | None = unloaded_ns(figures, settings)
    if latency_ns is not None and latency_ns <= service.objectives.latency_ns:
        latency_ns = predicted_ns(
            figures, rate_rps=rate_rps, replicas=settings.replicas_max, settings=settings
        )
    if latency_ns is not None:
        why = misses_target(service, latency_ns)
        return replace(rejection, predicted_ns=latency_ns, why=why)
    why = f"{settings.replicas_max} workers of {pool.id} do not carry {rate_rps:g} requests/s"
    return replace(rejection, stage=Stage.CAPACITY, why=why)


def _beyond(problem: Problem, pool: Pool, *, replicas: int, limit: int) -> str:
    """Return why ``replicas`` of ``pool`` are more than ``limit``: the pool's nodes, or a machine."""
    for host in problem.fleet.hosts:
        needed = replicas * pool.cores
        if pool.id in host.pools and is_machine(host, pool) and host.cores < needed:
            return f"needs {needed} cores for executors, {host.id} has {host.cores} for them"
    return f"needs {replicas} accelerators of {pool.id}, there are at most {limit}"


def _ceiling(
    problem: Problem,
    service: Service,
    pool: Pool,
    *,
    replicas: int,
    cost_uph: MicroDollarsPerHour,
) -> tuple[Stage | None, str]:
    """Return what forbids ``replicas`` dedicated workers even on an empty fleet."""
    limit = accelerators_limit(problem.fleet, pool)
    if replicas > limit:
        why = _beyond(problem, pool, replicas=replicas, limit=limit)
        return Stage.CAPACITY, why
    budget_uph = service.objectives.cost_budget_uph
    if budget_uph is not None and cost_uph > budget_uph:
        why = f"costs ${format_price(cost_uph)}/h, the budget is ${format_price(budget_uph)}/h"
        return Stage.COST, why
    ceiling_uph = namespace_budget(problem.demand, service.namespace)
    if ceiling_uph is not None and cost_uph > ceiling_uph:
        why = (
            f"costs ${format_price(cost_uph)}/h, the budget of namespace {service.namespace} "
            f"is ${format_price(ceiling_uph)}/h"
        )
        return Stage.COST, why
    return None, ""


def _sharing(
    problem: Problem, service: Service, pool: Pool, *, figures: Execution, pages: int
) -> tuple[Member | None, int]:
    """Return the part in a shared group and the workers that it takes there alone.

    None and 0 where even an otherwise empty group will not do.
    """
    if service.isolation is not Isolation.SHARED:
        return None, 0
    settings = problem.settings
    one = member(figures, load=service.load, objectives=service.objectives, settings=settings)
    limit = min(settings.replicas_max, accelerators_limit(problem.fleet, pool))
    ceiling_uph = namespace_budget(problem.demand, service.namespace)
    price_uph = pool.accelerator_price_uph
    if ceiling_uph is not None and price_uph > 0:
        limit = min(limit, ceiling_uph // price_uph)
    replicas = shared_replicas_needed((one,), limit, settings) if one.patience_us >= 0 else None
    if replicas is None:
        return None, 0
    cost_uph = shared_cost_uph(
        price_uph,
        work_ppm=one.work_ppm,
        pages=pages,
        pages_total=pool.memory_bytes // settings.page_bytes,
        replicas=replicas,
    )
    budget_uph = service.objectives.cost_budget_uph
    return (None, 0) if budget_uph is not None and cost_uph > budget_uph else (one, replicas)


def misses_target(service: Service, latency_ns: Nanoseconds) -> str:
    """Return the sentence for a percentile of latency beyond the target."""
    objectives = service.objectives
    return (
        f"misses {format_duration(objectives.latency_ns)}: "
        f"p{format_percentile(objectives.percentile_ppm)} would be {format_duration(latency_ns)}"
    )


def _misses_floor(variant: Variant, floor_ppm: PartsPerMillion, bound: AccuracyBound) -> str:
    figure = format_ratio(held_ppm(variant.accuracy, bound))
    lower = bound is AccuracyBound.LOWER
    if variant.accuracy.metric is AccuracyMetric.MAE:
        name = "error's upper bound" if lower else "error"
        return f"{name} {figure} is above the limit {format_ratio(floor_ppm)}"
    name = "accuracy's lower bound" if lower else "accuracy"
    return f"{name} {figure} is below the floor {format_ratio(floor_ppm)}"


def _reject(variant: Variant, pool: PoolId, stage: Stage, why: str) -> Rejection:
    return Rejection(
        variant=variant.id,
        pool=pool,
        batch_size=min(variant.batch_sizes, default=1),
        stage=stage,
        why=why,
        accuracy_ppm=variant.accuracy.value_ppm,
        merit_ppm=merit_ppm(variant.accuracy),
        replicas=0,
        cost_uph=0,
        predicted_ns=0,
    )


def tables(problem: Problem, services: Iterable[Service]) -> tuple[ServiceOptions, ...]:
    """Return the table of each of ``services``, in their order, with mixes of pools for the first ones.

    First in serving order, and at most `MIXED_MAX`: each asks an integer program some times.
    """
    varied = [service.id for service in serving_order(problem) if sizes_vary(service)]
    mixed = frozenset(varied[:MIXED_MAX])
    return tuple(
        service_options(problem, service, with_mixes=service.id in mixed) for service in services
    )
