"""Routes for overload: to variants below a service's floor, and not below its second one.

Called by ``assembly`` when everything else is settled: such a variant gets the pages that are left on
the workers that its service has anyway, so it costs nothing and moves nobody. Where none fits, a
request that cannot be on time is refused, as without the policy.
"""

from dataclasses import replace

from isochrone.catalog import BatchProfile, Profile, Variant
from isochrone.demand import OverloadPolicy, Service
from isochrone.ids import GroupId
from isochrone.plan import Group, Route, ServicePlan, meets_floor
from isochrone.planning.problem import Problem
from isochrone.units import SECOND, Nanoseconds

BLOCKED_BATCHES = 2
"""A request that just missed a batch waits for that one, and then for its own."""


def with_degraded_routes(
    problem: Problem, groups: tuple[Group, ...], services: tuple[ServicePlan, ...]
) -> tuple[tuple[Group, ...], tuple[ServicePlan, ...]]:
    """Return both with a route for overload for each service that wants one and can have it.

    In order of id; each gets, on the workers of its first route, the variant that takes least of
    their time for a row, if that is less than the route's own takes.
    """
    wanted = {service.id: service for service in problem.demand.services}
    hosted: dict[GroupId, Group] = {group.id: group for group in groups}
    planned: list[ServicePlan] = []
    for served in services:
        service = wanted[served.service]
        if service.overload is OverloadPolicy.DEGRADE and served.routes:
            route = _best(problem, service, served.routes[0], hosted[served.routes[0].group])
            if route is not None:
                group = hosted[route.group]
                variants = tuple(sorted({*group.variants, route.variant}))
                hosted[route.group] = replace(group, variants=variants)
                served = replace(served, degraded_routes=(route,))  # noqa: PLW2901 - the same one
        planned.append(served)
    return tuple(hosted[group.id] for group in groups), tuple(planned)


def _best(problem: Problem, service: Service, route: Route, group: Group) -> Route | None:
    """Return the route for overload of ``service``, which runs on ``group`` by ``route``."""
    variants = {variant.id: variant for variant in problem.catalog.variants}
    own = variants[route.variant]
    profile = own.profile(group.pool)
    usual = None if profile is None else profile.batch(route.batch_size)
    if usual is None:
        return None
    best: tuple[float, str, Route] | None = None
    for variant in problem.catalog.variants_of(service.model):
        found = _profiled(problem, service, variant, group)
        if found is None or variant.backend.family is not own.backend.family:
            continue
        batch = _batch(problem, service, variant, found)
        row_ns = 0.0 if batch is None else batch.mean_ns / batch.size
        if batch is None or row_ns >= usual.mean_ns / usual.size:
            continue
        if best is None or (row_ns, variant.id) < best[:2]:
            best = (row_ns, variant.id, _route(problem, group, variant, batch))
    return None if best is None else best[2]


def _profiled(problem: Problem, service: Service, variant: Variant, group: Group) -> Profile | None:
    """Return the profile of ``variant`` where it is only for overload, and fits on the workers."""
    bound = service.objectives.accuracy_bound
    floor_ppm = service.degraded_floor_ppm
    if (
        floor_ppm is None
        or meets_floor(variant.accuracy, service.objectives.accuracy_floor_ppm, bound)
        or not meets_floor(variant.accuracy, floor_ppm, bound)
    ):
        return None
    profile = variant.profile(group.pool)
    page = problem.settings.page_bytes
    hosted = {*group.variants, variant.id}
    pages = 0
    for one in problem.catalog.variants:
        its = one.profile(group.pool) if one.id in hosted else None
        if its is not None:
            pages += -(-(its.weights_bytes + its.workspace_bytes) // page)
    return profile if pages <= problem.fleet.pool(group.pool).memory_bytes // page else None


def _batch(
    problem: Problem, service: Service, variant: Variant, profile: Profile
) -> BatchProfile | None:
    """Return the batch of best throughput that holds every request, and that the target permits."""
    time_ns: Nanoseconds = service.objectives.latency_ns - problem.settings.overhead_ns
    fitting = [
        batch
        for batch in profile.batches
        if batch.size in variant.batch_sizes
        and batch.size >= service.load.rows_max
        and BLOCKED_BATCHES * batch.p99_ns <= time_ns
    ]
    return min(fitting, key=lambda batch: (batch.mean_ns / batch.size, batch.size), default=None)


def _route(problem: Problem, group: Group, variant: Variant, batch: BatchProfile) -> Route:
    """Return the route; it has no share of requests or lanes, for nothing is planned to take it."""
    return Route(
        variant=variant.id,
        group=group.id,
        batch_size=batch.size,
        share_ppm=0,
        lane_share=0.0,
        predicted_ns=BLOCKED_BATCHES * batch.p99_ns + problem.settings.overhead_ns,
        capacity_rps=group.replicas * batch.size * SECOND / batch.mean_ns,
    )
