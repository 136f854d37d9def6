"""Every way to serve one service, and why the others are out.

Problem in; per service a short table of candidates out, which the solvers choose from, and the
rejections, which explanations quote. Called by ``planner``; read by ``exact``, ``greedy``,
``assembly`` and ``explain``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from isochrone.catalog import AccuracyMetric, BatchProfile, Variant
from isochrone.demand import AccuracyBound, Isolation, Service
from isochrone.fleet import Pool
from isochrone.ids import PoolId, VariantId
from isochrone.plan import held_ppm, meets_floor
from isochrone.planning.attainment import (
    Execution,
    execution,
    fewest,
    least_replicas,
    predicted_ns,
    unloaded_ns,
)
from isochrone.planning.candidates import Candidate, Rejection, ServiceOptions, Stage
from isochrone.planning.company import alone, levels_of, size_of
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
from isochrone.planning.pruning import dominated, outdone, prune, running_choice
from isochrone.planning.sharing import Member, member
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """What one service may have of one pool, on an empty fleet.

    ``accelerators``, and ``ceiling_uph`` for all that its namespace holds. ``one_each``: whether of a
    variant only the batch size that takes the fewest workers is of interest: nobody shares, and workers
    cost something. Not of ``running``, the variant that runs there: its batch size may stay.
    """

    pool: Pool
    accelerators: int
    ceiling_uph: MicroDollarsPerHour | None
    one_each: bool
    running: VariantId | None

    def best_of(self, variant: Variant) -> bool:
        """Return whether only the best batch size of ``variant`` is of interest here."""
        return self.one_each and variant.id != self.running


def _limits(problem: Problem, service: Service, pool: Pool) -> _Limits:
    running = running_choice(problem.running, service.id)
    return _Limits(
        pool=pool,
        accelerators=accelerators_limit(problem.fleet, pool),
        ceiling_uph=namespace_budget(problem.demand, service.namespace),
        one_each=service.isolation is not Isolation.SHARED and pool.accelerator_price_uph > 0,
        running=running[0] if running is not None and running[1] == pool.id else None,
    )


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
    usable = [pool for pool in problem.fleet.pools if may_use(service, pool)]
    beaten = {pool.id: outdone(problem, service, pool.id, good) for pool in usable}
    limits = [_limits(problem, service, pool) for pool in usable]
    for variant in variants:
        if not meets_floor(variant.accuracy, floor_ppm, bound):
            why = _misses_floor(variant, floor_ppm, bound)
            rejections.append(_reject(variant, PoolId(""), Stage.ACCURACY, why))
            continue
        for there in limits:
            better = beaten[there.pool.id].get(variant.id)
            if better is not None:
                why = f"{better.id} is as accurate there, as fast and as small"
                unseen.append(_reject(variant, there.pool.id, Stage.DOMINATED, why))
                continue
            found, rejected = _pair(problem, service, variant, there)
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
    problem: Problem, service: Service, variant: Variant, limits: _Limits
) -> tuple[list[Candidate], list[Rejection]]:
    """Return the candidates of a variant on a pool, one a batch size; why there are none, where so."""
    pool = limits.pool
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
    carried, slow = _carried(problem, service, batches, best=limits.best_of(variant))
    for way in carried:
        outcome = _considered(problem, service, variant, limits=limits, way=way, pages=pages)
        if isinstance(outcome, Candidate):
            found.append(outcome)
        else:
            rejected.append(outcome)
    if not found:
        rejected += [_too_slow(problem, service, variant, pool=pool, figures=it) for it in slow]
    return found, rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class _Way:
    """A batch size at which ``replicas`` workers keep the promise, at ``predicted_ns``."""

    figures: Execution
    replicas: int
    predicted_ns: Nanoseconds


def _carried(
    problem: Problem, service: Service, batches: list[BatchProfile], *, best: bool
) -> tuple[list[_Way], list[Execution]]:
    """Return the batch sizes that meet the target, or the best of them, and those that do not.

    The best takes the fewest workers, then is the fastest. What takes more than another is not looked at
    further: where one meets the target, nobody asks which do not.
    """
    settings, load = problem.settings, service.load
    latency_ns, percentile_ppm = service.objectives.latency_ns, service.objectives.percentile_ppm
    ways: list[_Way] = []
    slow: list[Execution] = []
    for batch in reversed(batches):  # the largest carry most
        most = ways[0].replicas if best and ways else None
        if most is not None and least_replicas(batch, load, percentile_ppm, settings) > most:
            continue
        figures = execution(batch, load, percentile_ppm)
        sized = fewest(
            figures,
            latency_ns=latency_ns,
            rate_rps=load.peak_rate_rps,
            settings=settings,
            most=most,
        )
        if sized is None:
            slow.append(figures)
            continue
        way = _Way(figures=figures, replicas=sized[0], predicted_ns=sized[1])
        if best and ways:
            ways = [min(ways[0], way, key=_worth)]
        else:
            ways.append(way)
    return ways[::-1], slow[::-1]


def _worth(way: _Way) -> tuple[int, Nanoseconds, int]:
    return way.replicas, way.predicted_ns, way.figures.batch.size


def _considered(
    problem: Problem,
    service: Service,
    variant: Variant,
    *,
    limits: _Limits,
    way: _Way,
    pages: int,
) -> Candidate | Rejection:
    """Return the candidate at one batch size that meets the target, or what rules it out."""
    pool, replicas = limits.pool, way.replicas
    cost_uph = replicas * pool.accelerator_price_uph
    stage, why = _ceiling(problem, service, limits, replicas=replicas, cost_uph=cost_uph)
    sharing, shared_replicas = _sharing(problem, service, limits, figures=way.figures, pages=pages)
    if stage is not None and sharing is None:
        return replace(
            _reject(variant, pool.id, stage, why),
            batch_size=way.figures.batch.size,
            replicas=replicas,
            cost_uph=cost_uph,
            predicted_ns=way.predicted_ns,
        )
    return Candidate(
        service=service.id,
        variant=variant.id,
        pool=pool.id,
        family=variant.backend.family,
        batch_size=way.figures.batch.size,
        accuracy_ppm=variant.accuracy.value_ppm,
        merit_ppm=merit_ppm(variant.accuracy),
        replicas=replicas if stage is None else 0,
        cost_uph=cost_uph,
        predicted_ns=way.predicted_ns,
        pages=pages,
        member=sharing,
        execution=way.figures,
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
    limits: _Limits,
    *,
    replicas: int,
    cost_uph: MicroDollarsPerHour,
) -> tuple[Stage | None, str]:
    """Return what forbids ``replicas`` dedicated workers even on an empty fleet."""
    if replicas > limits.accelerators:
        why = _beyond(problem, limits.pool, replicas=replicas, limit=limits.accelerators)
        return Stage.CAPACITY, why
    budget_uph = service.objectives.cost_budget_uph
    if budget_uph is not None and cost_uph > budget_uph:
        why = f"costs ${format_price(cost_uph)}/h, the budget is ${format_price(budget_uph)}/h"
        return Stage.COST, why
    ceiling_uph = limits.ceiling_uph
    if ceiling_uph is not None and cost_uph > ceiling_uph:
        why = (
            f"costs ${format_price(cost_uph)}/h, the budget of namespace {service.namespace} "
            f"is ${format_price(ceiling_uph)}/h"
        )
        return Stage.COST, why
    return None, ""


def _sharing(
    problem: Problem, service: Service, limits: _Limits, *, figures: Execution, pages: int
) -> tuple[Member | None, int]:
    """Return the part in a shared group and the workers that it takes there alone.

    None and 0 where even an otherwise empty group will not do.
    """
    if service.isolation is not Isolation.SHARED:
        return None, 0
    settings = problem.settings
    one = member(figures, load=service.load, objectives=service.objectives, settings=settings)
    limit = min(settings.replicas_max, limits.accelerators)
    price_uph = limits.pool.accelerator_price_uph
    if limits.ceiling_uph is not None and price_uph > 0:
        limit = min(limit, limits.ceiling_uph // price_uph)
    size = size_of(alone(one), limit, levels_of(settings)) if one.patience_us >= 0 else None
    if size is None:
        return None, 0
    cost_uph = shared_cost_uph(
        price_uph,
        work_ppm=one.work_ppm,
        pages=pages,
        pages_total=limits.pool.memory_bytes // settings.page_bytes,
        replicas=size.replicas,
    )
    budget_uph = service.objectives.cost_budget_uph
    return (None, 0) if budget_uph is not None and cost_uph > budget_uph else (one, size.replicas)


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
