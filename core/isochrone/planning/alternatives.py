"""For a service that cannot be served: the smallest step that would let it be, and its price.

One promise gives way at a time, beside everything that is planned already; the smallest relative
change wins. Called by ``explain`` alone; it builds at most one table of options per promise.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from isochrone.demand import Service
from isochrone.fleet import Fleet, Host, Pool
from isochrone.plan import Alternative, Option, held_ppm, meets_floor
from isochrone.planning.attainment import execution, predicted_ns
from isochrone.planning.candidates import Candidate
from isochrone.planning.options import service_options
from isochrone.planning.problem import (
    Problem,
    accelerators_limit,
    is_machine,
    may_use,
    namespace_budget,
    nodes_needed,
)
from isochrone.planning.selection import NOTHING, Selection, choice_cost_uph, usage
from isochrone.planning.variation import added, fits
from isochrone.units import (
    MILLISECOND,
    ONE_PPM,
    Nanoseconds,
    format_duration,
    format_price,
    format_ratio,
)

NODES_UNLIMITED: Final = 1 << 16
"""More nodes than any plan asks for: what a pool has while its limit is looked past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A way out: how large a change it is relative to what was promised, and what it gives."""

    relative_ppm: int
    alternative: Alternative


def nearest_feasible(
    problem: Problem, selection: Selection, service: Service
) -> Alternative | None:
    """Return the smallest single change that serves ``service``, if any.

    Beside ``selection`` where that can be; else with the fleet to itself, which the sentence says:
    the others would then be planned anew, and may stand in the way.
    """
    beside = _smallest(problem, selection, service)
    if beside is not None or selection == NOTHING:
        return beside
    if _fitting(problem, NOTHING, service):
        return None  # two limits at once stand in the way: alone, nothing need give way
    alone = _smallest(problem, NOTHING, service)
    if alone is None:
        return None
    return replace(alone, change=f"{alone.change}, where the other services leave it room")


def _smallest(problem: Problem, selection: Selection, service: Service) -> Alternative | None:
    steps = [
        *_accuracy(problem, selection, service),
        *_latency(problem, selection, service),
        *_budget(problem, selection, service),
        *_namespace(problem, selection, service),
        *_capacity(problem, selection, service),
    ]
    best = min(
        (step for step in steps if step.relative_ppm > 0),
        key=lambda step: step.relative_ppm,
        default=None,
    )
    return None if best is None else best.alternative


def _with_service(problem: Problem, service: Service) -> Problem:
    services = tuple(
        service if other.id == service.id else other for other in problem.demand.services
    )
    return replace(problem, demand=replace(problem.demand, services=services))


def _fitting(
    problem: Problem, selection: Selection, service: Service
) -> list[tuple[Candidate, Option]]:
    """Return the candidates of ``service`` that fit beside ``selection``, cheapest first."""
    changed = _with_service(problem, service)
    found: list[tuple[Candidate, Option]] = []
    for one in service_options(changed, service).candidates:
        if one.parts:  # a way out names one pool
            continue
        for shared in (False, True):
            tried = added(changed, selection, one, shared=shared)
            if tried is None or not fits(changed, tried):
                continue
            choice = tried.choice(service.id)
            assert choice is not None
            replicas = dict(tried.shared_replicas)[choice.key] if shared else one.replicas
            pool = problem.fleet.pool(one.pool)
            option = Option(
                variant=one.variant,
                pool=one.pool,
                batch_size=one.batch_size,
                replicas=replicas,
                predicted_ns=one.predicted_ns,
                accuracy_ppm=one.accuracy_ppm,
                cost_uph=choice_cost_uph(choice, pool, replicas, problem.settings),
            )
            found.append((one, option))
    found.sort(key=lambda pair: (pair[1].cost_uph, -pair[0].merit_ppm, pair[1].variant))
    return found


def _step(service: Service, option: Option, *, relative_ppm: int, change: str) -> _Step:
    alternative = Alternative(objectives=service.objectives, option=option, change=change)
    return _Step(relative_ppm=relative_ppm, alternative=alternative)


def _accuracy(problem: Problem, selection: Selection, service: Service) -> Iterator[_Step]:
    floor_ppm = service.objectives.accuracy_floor_ppm
    bound = service.objectives.accuracy_bound
    metric_is_error = any(
        not meets_floor(variant.accuracy, 0, bound)
        for variant in problem.catalog.variants_of(service.model)
    )
    loosest = ONE_PPM if metric_is_error else 0
    objectives = replace(service.objectives, accuracy_floor_ppm=loosest)
    relaxed = replace(service, objectives=objectives)
    fitting = _fitting(problem, selection, relaxed)
    if not fitting:
        return
    best, option = max(fitting, key=lambda pair: (pair[0].merit_ppm, -pair[1].cost_uph))
    figures = {v.id: v.accuracy for v in problem.catalog.variants}[best.variant]
    new_ppm = held_ppm(figures, bound)
    yield _step(
        replace(service, objectives=replace(objectives, accuracy_floor_ppm=new_ppm)),
        option,
        relative_ppm=abs(floor_ppm - new_ppm) * ONE_PPM // max(1, floor_ppm),
        change=f"accuracy floor {format_ratio(new_ppm)} instead of {format_ratio(floor_ppm)}",
    )


def _latency(problem: Problem, selection: Selection, service: Service) -> Iterator[_Step]:
    target_ns = service.objectives.latency_ns
    least_ns = _least_latency_ns(problem, selection, service)
    if least_ns is None or least_ns <= target_ns:
        return
    new_ns = -(-least_ns // MILLISECOND) * MILLISECOND
    objectives = replace(service.objectives, latency_ns=new_ns)
    relaxed = replace(service, objectives=objectives)
    for _, option in _fitting(problem, selection, relaxed)[:1]:
        change = f"target {format_duration(new_ns)} instead of {format_duration(target_ns)}"
        relative_ppm = (new_ns - target_ns) * ONE_PPM // target_ns
        yield _step(relaxed, option, relative_ppm=relative_ppm, change=change)


def _least_latency_ns(
    problem: Problem, selection: Selection, service: Service
) -> Nanoseconds | None:
    """Return the least percentile of latency on all the workers that are left and affordable."""
    settings, objectives = problem.settings, service.objectives
    least: Nanoseconds | None = None
    for variant in problem.catalog.variants_of(service.model):
        floor_ppm = objectives.accuracy_floor_ppm
        if not meets_floor(variant.accuracy, floor_ppm, objectives.accuracy_bound):
            continue
        for pool in problem.fleet.pools:
            profile = variant.profile(pool.id)
            room = _room(problem, selection, service, pool)
            if profile is None or room < 1 or not may_use(service, pool):
                continue
            for batch in profile.batches:
                if batch.size not in variant.batch_sizes or batch.size < service.load.rows_max:
                    continue
                latency_ns = predicted_ns(
                    execution(batch, service.load, objectives.percentile_ppm),
                    rate_rps=service.load.peak_rate_rps,
                    replicas=room,
                    settings=settings,
                )
                if latency_ns is not None and (least is None or latency_ns < least):
                    least = latency_ns
    return least


def _room(problem: Problem, selection: Selection, service: Service, pool: Pool) -> int:
    """Return how many more workers of ``pool`` the service could have beside ``selection``."""
    taken = usage(selection)
    price_uph = pool.accelerator_price_uph
    limits = [
        problem.settings.replicas_max,
        accelerators_limit(problem.fleet, pool),
        pool.accelerators_max - taken.of_pool(pool.id),
    ]
    for host in problem.fleet.hosts:
        if pool.id in host.pools:
            used = sum(taken.of_pool(p) * problem.fleet.pool(p).cores for p in host.pools)
            limits.append((host.cores - used) // pool.cores)
    ceiling_uph = namespace_budget(problem.demand, service.namespace)
    if price_uph > 0:
        if service.objectives.cost_budget_uph is not None:
            limits.append(service.objectives.cost_budget_uph // price_uph)
        if ceiling_uph is not None:
            spent = taken.namespace_cost_uph(problem.fleet, service.namespace)
            limits.append((ceiling_uph - spent) // price_uph)
    return min(limits)


def _budget(problem: Problem, selection: Selection, service: Service) -> Iterator[_Step]:
    budget_uph = service.objectives.cost_budget_uph
    if budget_uph is None:
        return
    relaxed = replace(service, objectives=replace(service.objectives, cost_budget_uph=None))
    for _, option in _fitting(problem, selection, relaxed)[:1]:
        if option.cost_uph <= budget_uph:
            return
        objectives = replace(service.objectives, cost_budget_uph=option.cost_uph)
        change = (
            f"budget ${format_price(option.cost_uph)}/h instead of ${format_price(budget_uph)}/h"
        )
        relative_ppm = (option.cost_uph - budget_uph) * ONE_PPM // max(1, budget_uph)
        yield _step(
            replace(service, objectives=objectives),
            option,
            relative_ppm=relative_ppm,
            change=change,
        )


def _namespace(problem: Problem, selection: Selection, service: Service) -> Iterator[_Step]:
    ceiling_uph = namespace_budget(problem.demand, service.namespace)
    if ceiling_uph is None:
        return
    others = tuple(b for b in problem.demand.budgets if b.namespace != service.namespace)
    unlimited = replace(problem, demand=replace(problem.demand, budgets=others))
    for one, option in _fitting(unlimited, selection, service)[:1]:
        spent = usage(selection).namespace_cost_uph(problem.fleet, service.namespace)
        price_uph = problem.fleet.pool(one.pool).accelerator_price_uph
        needed_uph = spent + option.replicas * price_uph
        change = (
            f"budget of namespace {service.namespace} ${format_price(needed_uph)}/h instead of "
            f"${format_price(ceiling_uph)}/h"
        )
        relative_ppm = max(0, needed_uph - ceiling_uph) * ONE_PPM // max(1, ceiling_uph)
        yield _step(service, option, relative_ppm=relative_ppm, change=change)


def _capacity(problem: Problem, selection: Selection, service: Service) -> Iterator[_Step]:
    """Look past the limits of one pool, and of the machine that it lies on, at a time."""
    for pool in problem.fleet.pools:
        if not may_use(service, pool):
            continue
        pools = tuple(
            replace(other, nodes_max=NODES_UNLIMITED) if other.id == pool.id else other
            for other in problem.fleet.pools
        )
        hosts = tuple(host for host in problem.fleet.hosts if pool.id not in host.pools)
        unlimited = replace(problem, fleet=Fleet(pools=pools, hosts=hosts))
        on_it = replace(service, pools=(pool.id,))
        for _, option in _fitting(unlimited, selection, on_it)[:1]:
            accelerators = usage(selection).of_pool(pool.id) + option.replicas
            yield _raised(problem, selection, service, option, pool=pool, needed=accelerators)


def _raised(
    problem: Problem,
    selection: Selection,
    service: Service,
    option: Option,
    *,
    pool: Pool,
    needed: int,
) -> _Step:
    nodes = nodes_needed(pool, needed)
    if nodes > pool.nodes_max:
        relative_ppm = (nodes - pool.nodes_max) * ONE_PPM // max(1, pool.nodes_max)
        change = f"pool {pool.id}: {nodes} nodes instead of {pool.nodes_max}"
        return _step(service, option, relative_ppm=relative_ppm, change=change)
    host = next((one for one in problem.fleet.hosts if pool.id in one.pools), None)
    assert host is not None, "neither nodes nor a machine stood in the way"
    cores = _cores(problem, selection, host) + option.replicas * pool.cores
    relative_ppm = max(0, cores - host.cores) * ONE_PPM // max(1, host.cores)
    change = f"machine {host.id}: {cores} cores instead of {host.cores}"
    if not is_machine(host, pool):
        least, most = -(-cores // pool.cores), host.cores // pool.cores
        change = f"pool {pool.id}: {least} accelerators instead of {most}"
    return _step(service, option, relative_ppm=relative_ppm, change=change)


def _cores(problem: Problem, selection: Selection, host: Host) -> int:
    taken = usage(selection)
    return sum(taken.of_pool(pool) * problem.fleet.pool(pool).cores for pool in host.pools)
