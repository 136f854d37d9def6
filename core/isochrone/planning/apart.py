"""Problems too large for one solver call: every namespace planned for itself, then set side by side.

Namespaces share pools and nothing else. Where there is room for what each of them would choose alone,
that is the plan, dearer than a joint one by parts of nodes at most. Where there is not, services of
all namespaces are placed one after the other in the one serving order, each beside what is there.
Called by ``planner`` for more than `TOGETHER_MAX` services. Bounded: one table a service and one pass
over the candidates of each; what a namespace would choose is kept, so that a change in one costs one.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from isochrone.demand import Demand, Service
from isochrone.fleet import Fleet, Host
from isochrone.ids import HostId, Namespace, PoolId, ServiceId, split_qualified
from isochrone.plan import Plan
from isochrone.planning import greedy
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.options import tables as tables_of
from isochrone.planning.problem import Problem, nodes_bill_uph, serving_order
from isochrone.planning.selection import NOTHING, Selection, usage

TOGETHER_MAX: Final = 64
"""Services up to which all are planned jointly: beyond, the solver's start alone takes seconds."""

Parts = Mapping[Namespace, Problem]
Chosen = dict[Namespace, Selection]


def is_large(problem: Problem) -> bool:
    """Return whether ``problem`` is to be planned namespace by namespace."""
    namespaces = {service.namespace for service in problem.demand.services}
    return len(problem.demand.services) > TOGETHER_MAX and len(namespaces) > 1


def parts_of(problem: Problem) -> dict[Namespace, Problem]:
    """Return the problem of each namespace, with its part of the solver's work, in order."""
    total = len(problem.demand.services)
    services: dict[Namespace, list[ServiceId]] = {}
    for service in problem.demand.services:
        services.setdefault(service.namespace, []).append(service.id)
    return {
        namespace: _part(problem, namespace, len(services[namespace]) / total)
        for namespace in sorted(services)
    }


def _part(problem: Problem, namespace: Namespace, share: float) -> Problem:
    services = tuple(it for it in problem.demand.services if it.namespace == namespace)
    models = {it.model for it in services}
    running = problem.running
    return Problem(
        catalog=replace(
            problem.catalog,
            models=tuple(it for it in problem.catalog.models if it.id in models),
            variants=tuple(it for it in problem.catalog.variants if it.model in models),
        ),
        fleet=problem.fleet,
        demand=Demand(
            services=services,
            budgets=tuple(it for it in problem.demand.budgets if it.namespace == namespace),
        ),
        running=None if running is None else _running(running, namespace, problem.fleet),
        settings=replace(problem.settings, work_limit=problem.settings.work_limit * share),
    )


def _running(plan: Plan, namespace: Namespace, fleet: Fleet) -> Plan:
    groups = tuple(it for it in plan.groups if it.namespace == namespace)
    services = tuple(it for it in plan.services if split_qualified(it.service)[0] == namespace)
    held: dict[PoolId, int] = {}
    for group in groups:
        held[group.pool] = held.get(group.pool, 0) + group.replicas
    return Plan(
        revision=0,
        groups=groups,
        services=services,
        explanations=(),
        cost_uph=nodes_bill_uph(fleet, held),
    )


def merged(problem: Problem, plans: Mapping[Namespace, Plan]) -> Plan:
    """Return ``plans`` as one, with the bill of the whole nodes that they need together."""
    ordered = [plans[it] for it in sorted(plans)]
    groups = sorted((g for it in ordered for g in it.groups), key=lambda g: (g.id, g.namespace))
    return Plan(
        revision=0,
        groups=tuple(groups),
        services=tuple(sorted((s for it in ordered for s in it.services), key=lambda s: s.service)),
        explanations=tuple(
            sorted((e for it in ordered for e in it.explanations), key=lambda e: e.service)
        ),
        cost_uph=nodes_bill_uph(problem.fleet, _held(ordered)),
    )


def _held(plans: list[Plan]) -> dict[PoolId, int]:
    held: dict[PoolId, int] = {}
    for plan in plans:
        for group in plan.groups:
            held[group.pool] = held.get(group.pool, 0) + group.replicas
    return held


def there_is_room(fleet: Fleet, held: Mapping[PoolId, int]) -> bool:
    """Return whether nodes and machines have ``held`` accelerators."""
    pools = {pool.id: pool for pool in fleet.pools}
    return all(count <= pools[pool].accelerators_max for pool, count in held.items()) and all(
        sum(held.get(it, 0) * pools[it].cores for it in host.pools) <= host.cores
        for host in fleet.hosts
    )


def fits_together(problem: Problem, plan: Plan) -> bool:
    """Return whether the fleet has what ``plan`` holds."""
    return there_is_room(problem.fleet, _held([plan]))


def place_in_order(
    problem: Problem,
    parts: Parts,
    holding: Callable[[Problem, tuple[ServiceOptions, ...]], Selection | None],
) -> dict[Namespace, tuple[Problem, tuple[ServiceOptions, ...], Selection]]:
    """Return what each namespace gets where they cannot all have what they would choose.

    ``holding`` returns what runs in a namespace, where it breaks no rule. What runs stays, unless a
    service of higher priority than one that runs finds no room: then all are placed anew. The
    problem that comes with each choice has the room that the others leave.
    """
    tables = {namespace: tables_of(part, _in_id_order(part)) for namespace, part in parts.items()}
    kept: Chosen = {
        namespace: holding(part, tables[namespace]) or NOTHING for namespace, part in parts.items()
    }
    chosen = None
    if there_is_room(problem.fleet, _by_pool(kept)):
        chosen = _filled(problem, parts, tables, kept)
        if _someone_waits_behind_lesser(problem, chosen, kept):
            chosen = None
    if chosen is None:
        chosen = _filled(problem, parts, tables, dict.fromkeys(parts, NOTHING))
    return {
        namespace: (_beside(part, namespace, chosen), tables[namespace], chosen[namespace])
        for namespace, part in parts.items()
    }


def _in_id_order(part: Problem) -> list[Service]:
    return sorted(serving_order(part), key=lambda service: service.id)


def _filled(
    problem: Problem,
    parts: Parts,
    tables: Mapping[Namespace, tuple[ServiceOptions, ...]],
    start: Mapping[Namespace, Selection],
) -> Chosen:
    by_service = {table.service.id: table for rows in tables.values() for table in rows}
    chosen = dict(start)
    for service in serving_order(problem):
        mine = chosen[service.namespace]
        if mine.choice(service.id) is not None:
            continue
        part = _beside(parts[service.namespace], service.namespace, chosen)
        found = greedy.place(part, mine, by_service[service.id])
        if found is not None:
            chosen[service.namespace] = found
    return chosen


def _someone_waits_behind_lesser(
    problem: Problem, chosen: Mapping[Namespace, Selection], kept: Mapping[Namespace, Selection]
) -> bool:
    """Return whether a service goes without while one of lower priority kept its place."""
    lowest = min(
        (
            it.priority
            for it in problem.demand.services
            if kept[it.namespace].choice(it.id) is not None
        ),
        default=None,
    )
    return lowest is not None and any(
        it.priority > lowest and chosen[it.namespace].choice(it.id) is None
        for it in serving_order(problem)
    )


def _by_pool(chosen: Mapping[Namespace, Selection]) -> dict[PoolId, int]:
    held: dict[PoolId, int] = {}
    for selection in chosen.values():
        for pool, count in usage(selection).by_pool().items():
            held[pool] = held.get(pool, 0) + count
    return held


def _beside(part: Problem, namespace: Namespace, chosen: Mapping[Namespace, Selection]) -> Problem:
    """Return ``part`` with the room that the other namespaces leave, as bounds over single pools."""
    others = _by_pool({it: chosen[it] for it in chosen if it != namespace})
    hosts = [
        replace(
            host,
            cores=host.cores
            - sum(others.get(it, 0) * part.fleet.pool(it).cores for it in host.pools),
        )
        for host in part.fleet.hosts
    ]
    for pool in part.fleet.pools:
        if others.get(pool.id):
            left = (pool.accelerators_max - others[pool.id]) * pool.cores
            hosts.append(Host(id=HostId(f"left of {pool.id}"), cores=left, pools=(pool.id,)))
    return replace(part, fleet=replace(part.fleet, hosts=tuple(hosts)))
