"""An independent judge of plans: every promise recomputed from the problem, nothing believed.

It shares the models of waiting with the solvers, and nothing else: no candidate, no selection, no
figure that the plan states. Called by ``planner`` on every plan that it returns, on the running
plan, and by tests.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from isochrone.catalog import Variant
from isochrone.demand import Isolation, Service
from isochrone.fleet import Pool
from isochrone.ids import PoolId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan, meets_floor
from isochrone.planning.attainment import Execution, execution, predicted_ns
from isochrone.planning.mixed_question import mixed_problem
from isochrone.planning.mixing import carries, counts_of
from isochrone.planning.problem import Problem, may_use
from isochrone.planning.sharing import Member, member, shared_holds, shared_level
from isochrone.units import ONE_PPM, format_duration, format_price


class ViolationKind(Enum):
    """Which rule a plan breaks."""

    UNKNOWN = "Unknown"
    STALE = "Stale"
    SUSPENDED = "Suspended"
    DUPLICATE = "Duplicate"
    ROUTES = "Routes"
    ISOLATION = "Isolation"
    IMAGE = "Image"
    PLACEMENT = "Placement"
    PROFILE = "Profile"
    ACCURACY = "Accuracy"
    MEMORY = "Memory"
    LATENCY = "Latency"
    SERVICE_BUDGET = "ServiceBudget"
    NAMESPACE_BUDGET = "NamespaceBudget"
    POOL_LIMIT = "PoolLimit"
    HOST_CORES = "HostCores"
    BILL = "Bill"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One broken rule: which, whose (an id), and a sentence for a person."""

    kind: ViolationKind
    subject: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """One service with one of its routes, all names resolved; no ``figures`` in a mix of pools."""

    service: Service
    plan: ServicePlan
    route: Route
    group: Group
    pool: Pool
    variant: Variant
    figures: Execution | None


def violations(problem: Problem, plan: Plan) -> tuple[Violation, ...]:
    """Return every rule that ``plan`` breaks, in a fixed order; none for a plan that holds."""
    found: list[Violation] = []
    found += _groups(problem, plan)
    found += _images(problem, plan)
    resolved: list[_Served] = []
    for served in plan.services:
        for outcome in _resolve(problem, plan, served):
            if isinstance(outcome, _Served):
                resolved.append(outcome)
                found += _placement(outcome)
            else:
                found.append(outcome)
    for served in plan.services:
        found += _degraded(problem, plan, served)
    for served in plan.services:
        if served.mixed:
            found += _mix(problem, [one for one in resolved if one.plan is served])
    for group in plan.groups:
        members = [one for one in resolved if one.group.id == group.id]
        found += _carried(problem, group, members)
    found += _capacity(problem, plan)
    found += _money(problem, plan)
    return tuple(found)


def _groups(problem: Problem, plan: Plan) -> Iterator[Violation]:
    pools = {pool.id: pool for pool in problem.fleet.pools}
    variants = {variant.id for variant in problem.catalog.variants}
    for identity, count in Counter(group.id for group in plan.groups).items():
        if count > 1:
            yield _broken(ViolationKind.DUPLICATE, identity, "two groups bear this name")
    for service, count in Counter(served.service for served in plan.services).items():
        if count > 1:
            yield _broken(ViolationKind.DUPLICATE, service, "it is planned twice")
    for group in plan.groups:
        if group.pool not in pools:
            yield _broken(ViolationKind.UNKNOWN, group.id, f"there is no pool {group.pool}")
        for variant in group.variants:
            if variant not in variants:
                yield _broken(ViolationKind.UNKNOWN, group.id, f"there is no variant {variant}")
        most = problem.settings.replicas_max
        if not 1 <= group.replicas <= most:
            message = f"{group.replicas} workers; a group has 1 to {most}"
            yield _broken(ViolationKind.POOL_LIMIT, group.id, message)


def _images(problem: Problem, plan: Plan) -> Iterator[Violation]:
    variants = {variant.id: variant for variant in problem.catalog.variants}
    for group in plan.groups:
        if len({variants[one].backend.family for one in group.variants if one in variants}) > 1:
            yield _broken(ViolationKind.IMAGE, group.id, "its variants need different images")


def _resolve(problem: Problem, plan: Plan, served: ServicePlan) -> Iterator[_Served | Violation]:
    """Yield each route of the service with its names resolved, or what is wrong with it."""
    service = _service(problem, served.service)
    if service is None:
        yield _broken(ViolationKind.UNKNOWN, served.service, "there is no such service")
    elif served.objectives != service.objectives:
        yield _broken(ViolationKind.STALE, service.id, "its objectives have changed")
    elif service.suspended:
        if served.routes:
            yield _broken(ViolationKind.SUSPENDED, service.id, "it is suspended, and has routes")
    elif (len(served.routes) < 2 if served.mixed else len(served.routes) != 1) or sum(  # noqa: PLR2004
        route.share_ppm for route in served.routes
    ) != ONE_PPM:
        message = "it must have one route, or those of a mix of pools, for all of its requests"
        yield _broken(ViolationKind.ROUTES, service.id, message)
    else:
        for route in served.routes:
            yield _follow(problem, plan, served, service, route)


def _follow(
    problem: Problem, plan: Plan, served: ServicePlan, service: Service, route: Route
) -> _Served | Violation:
    """Return the service with what ``route`` names, or what is not there."""
    group = next((one for one in plan.groups if one.id == route.group), None)
    variant = next((one for one in problem.catalog.variants if one.id == route.variant), None)
    pool = next(
        (one for one in problem.fleet.pools if group is not None and one.id == group.pool), None
    )
    if group is None or variant is None or pool is None:
        message = f"its route names {route.variant} in {route.group}, which is not all there"
        return _broken(ViolationKind.UNKNOWN, service.id, message)
    profile = variant.profile(pool.id)
    batch = None if profile is None else profile.batch(route.batch_size)
    if batch is None or batch.size not in variant.batch_sizes:
        message = f"{variant.id} has no profile at batch {route.batch_size} on {pool.id}"
        return _broken(ViolationKind.PROFILE, service.id, message)
    if batch.size < service.load.rows_max and not served.mixed:
        message = f"batch {batch.size} is smaller than a request of {service.load.rows_max} rows"
        return _broken(ViolationKind.ROUTES, service.id, message)
    return _Served(
        service=service,
        plan=served,
        route=route,
        group=group,
        pool=pool,
        variant=variant,
        figures=None
        if served.mixed
        else execution(batch, service.load, service.objectives.percentile_ppm),
    )


def _mix(problem: Problem, routes: list[_Served]) -> Iterator[Violation]:
    """Judge the routes of one mix of pools together: one variant, that carries the sizes in time."""
    if not routes:
        return
    first = routes[0]
    service, held = first.service, {one.pool.id: one.group.replicas for one in routes}
    if len({one.variant.id for one in routes}) > 1 or len(held) < len(routes):
        message = "a mix is of one variant, with one group on each of its pools"
        yield _broken(ViolationKind.ROUTES, service.id, message)
        return
    question = mixed_problem(problem, service, first.variant)
    counts = None if question is None else counts_of(question, held)
    if question is None or counts is None or not carries(question, service, counts):
        message = "its pools together do not carry its sizes of requests at the peak rate in time"
        yield _broken(ViolationKind.LATENCY, service.id, message)
    cost_uph = sum(one.group.replicas * one.pool.accelerator_price_uph for one in routes)
    budget_uph = service.objectives.cost_budget_uph
    if budget_uph is not None and cost_uph > budget_uph:
        yield _over_budget(service, cost_uph, budget_uph)


def _over_budget(service: Service, cost_uph: int, budget_uph: int) -> Violation:
    message = f"costs ${format_price(cost_uph)}/h, the budget is ${format_price(budget_uph)}/h"
    return _broken(ViolationKind.SERVICE_BUDGET, service.id, message)


def _degraded(problem: Problem, plan: Plan, served: ServicePlan) -> Iterator[Violation]:
    """Judge the routes for overload: wanted, hosted, and not below the second floor."""
    service = _service(problem, served.service)
    if service is None:
        return
    if (served.overload, served.priority) != (service.overload, service.priority):
        yield _broken(
            ViolationKind.STALE, service.id, "its overload policy or priority has changed"
        )
    for route in served.degraded_routes:
        group = next((one for one in plan.groups if one.id == route.group), None)
        variant = next((one for one in problem.catalog.variants if one.id == route.variant), None)
        floor_ppm = service.degraded_floor_ppm
        if group is None or variant is None or variant.id not in group.variants:
            message = f"{route.group} does not host {route.variant}, which is for overload"
            yield _broken(ViolationKind.ROUTES, service.id, message)
        elif floor_ppm is None or not meets_floor(
            variant.accuracy, floor_ppm, service.objectives.accuracy_bound
        ):
            message = f"{variant.id} misses the second floor, or there is none"
            yield _broken(ViolationKind.ACCURACY, service.id, message)
        elif variant.model != service.model or variant.profile(group.pool) is None:
            message = f"{variant.id} is of another model, or has no profile on {group.pool}"
            yield _broken(ViolationKind.PROFILE, service.id, message)


def _placement(one: _Served) -> Iterator[Violation]:
    service, group = one.service, one.group
    promised = service.objectives
    if one.variant.model != service.model:
        yield _broken(ViolationKind.ROUTES, service.id, f"{one.variant.id} is of another model")
    if not meets_floor(one.variant.accuracy, promised.accuracy_floor_ppm, promised.accuracy_bound):
        yield _broken(ViolationKind.ACCURACY, service.id, f"{one.variant.id} misses the floor")
    if not may_use(service, one.pool):
        yield _broken(ViolationKind.PLACEMENT, service.id, f"it may not use pool {one.pool.id}")
    if group.namespace != service.namespace:
        message = f"group {group.id} belongs to namespace {group.namespace}"
        yield _broken(ViolationKind.PLACEMENT, service.id, message)
    if one.variant.id not in group.variants:
        message = f"group {group.id} does not host {one.variant.id}"
        yield _broken(ViolationKind.ROUTES, service.id, message)
    if service.isolation is Isolation.DEDICATED and group.isolation is Isolation.SHARED:
        yield _broken(ViolationKind.ISOLATION, service.id, f"group {group.id} is shared")


def _carried(problem: Problem, group: Group, members: list[_Served]) -> Iterator[Violation]:
    """Memory, latency and cost of the services of one group."""
    pool = next((one for one in problem.fleet.pools if one.id == group.pool), None)
    if pool is None:
        return
    page = problem.settings.page_bytes
    pages = {identity: _pages(problem, identity, group.pool) for identity in group.variants}
    if sum(pages.values()) * page > pool.memory_bytes // page * page:
        message = f"its variants take {sum(pages.values())} pages, more than {pool.id} has"
        yield _broken(ViolationKind.MEMORY, group.id, message)
    if not members:
        yield _broken(ViolationKind.ROUTES, group.id, "no service uses it")
        return
    if group.isolation is Isolation.DEDICATED:
        spare = {it.variant for one in members for it in one.plan.degraded_routes}
        if len(members) > 1 or len(set(group.variants) - spare) > 1:
            message = "it is dedicated, and more than one service or variant is there"
            yield _broken(ViolationKind.ISOLATION, group.id, message)
        for one in members:
            if one.figures is not None:
                yield from _alone(problem, one, one.figures)
    elif any(one.plan.mixed for one in members):
        yield _broken(ViolationKind.ISOLATION, group.id, "a mix of pools has workers of its own")
    else:
        yield from _together(problem, group, members)
    yield from _costs(problem, group, pool, [one for one in members if not one.plan.mixed])


def _costs(
    problem: Problem, group: Group, pool: Pool, members: list[_Served]
) -> Iterator[Violation]:
    """Judge what each of ``members`` pays for its part of the group."""
    page = problem.settings.page_bytes
    for one in members:
        cost = group.replicas * pool.accelerator_price_uph
        if group.isolation is Isolation.SHARED:
            lanes = _member(problem, one).work_ppm / ONE_PPM / group.replicas
            pages = _pages(problem, one.variant.id, pool.id)
            held = pages / (pool.memory_bytes // page)
            cost = int(cost * max(lanes, held))
        budget = one.service.objectives.cost_budget_uph
        if budget is not None and cost > budget:
            yield _over_budget(one.service, cost, budget)


def _alone(problem: Problem, one: _Served, figures: Execution) -> Iterator[Violation]:
    latency_ns = predicted_ns(
        figures,
        rate_rps=one.service.load.peak_rate_rps,
        replicas=one.group.replicas,
        settings=problem.settings,
    )
    target_ns = one.service.objectives.latency_ns
    if latency_ns is None or latency_ns > target_ns:
        would = "is out of bounds" if latency_ns is None else f"is {format_duration(latency_ns)}"
        message = f"the predicted latency {would}, the target {format_duration(target_ns)}"
        yield _broken(ViolationKind.LATENCY, one.service.id, message)


def _together(problem: Problem, group: Group, members: list[_Served]) -> Iterator[Violation]:
    parts = tuple(_member(problem, one) for one in members)
    level = shared_level(parts, group.replicas, problem.settings)
    if level is None:
        yield _broken(ViolationKind.LATENCY, group.id, "its lanes are too busy")
    elif not shared_holds(parts, group.replicas, level):
        yield _broken(ViolationKind.LATENCY, group.id, "a member would wait beyond its target")


def _capacity(problem: Problem, plan: Plan) -> Iterator[Violation]:
    used: Counter[PoolId] = Counter()
    for group in plan.groups:
        used[group.pool] += group.replicas
    for pool in problem.fleet.pools:
        nodes = -(-used[pool.id] // pool.accelerators_per_node)
        if nodes > pool.nodes_max:
            message = f"needs {nodes} nodes, the limit is {pool.nodes_max}"
            yield _broken(ViolationKind.POOL_LIMIT, pool.id, message)
    for host in problem.fleet.hosts:
        cores = sum(
            used[pool.id] * pool.cores for pool in problem.fleet.pools if pool.id in host.pools
        )
        if cores > host.cores:
            message = f"needs {cores} cores, the machine has {host.cores}"
            yield _broken(ViolationKind.HOST_CORES, host.id, message)


def _money(problem: Problem, plan: Plan) -> Iterator[Violation]:
    pools = {pool.id: pool for pool in problem.fleet.pools}
    known = [group for group in plan.groups if group.pool in pools]
    for budget in problem.demand.budgets:
        spent = sum(
            group.replicas * pools[group.pool].accelerator_price_uph
            for group in known
            if group.namespace == budget.namespace
        )
        if spent > budget.cost_budget_uph:
            message = (
                f"holds ${format_price(spent)}/h, the budget is "
                f"${format_price(budget.cost_budget_uph)}/h"
            )
            yield _broken(ViolationKind.NAMESPACE_BUDGET, budget.namespace, message)
    bill = 0
    for pool in problem.fleet.pools:
        accelerators = sum(group.replicas for group in known if group.pool == pool.id)
        nodes = max(pool.nodes_min, -(-accelerators // pool.accelerators_per_node))
        bill += nodes * pool.node_price_uph
    if bill != plan.cost_uph:
        message = f"states ${format_price(plan.cost_uph)}/h, its nodes cost ${format_price(bill)}/h"
        yield _broken(ViolationKind.BILL, f"revision {plan.revision}", message)


def _member(problem: Problem, one: _Served) -> Member:
    assert one.figures is not None, "a mix shares no workers"
    return member(
        one.figures,
        load=one.service.load,
        objectives=one.service.objectives,
        settings=problem.settings,
    )


def _pages(problem: Problem, identity: VariantId, pool: PoolId) -> int:
    for variant in problem.catalog.variants:
        profile = variant.profile(pool) if variant.id == identity else None
        if profile is not None:
            size = profile.weights_bytes + profile.workspace_bytes
            return -(-size // problem.settings.page_bytes)
    return 0


def _service(problem: Problem, identity: ServiceId) -> Service | None:
    return next((one for one in problem.demand.services if one.id == identity), None)


def _broken(kind: ViolationKind, subject: str, message: str) -> Violation:
    return Violation(kind=kind, subject=subject, message=message)
