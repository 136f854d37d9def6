"""Problems too large for one solver call: every namespace planned for itself, then set side by side.

Namespaces share pools and nothing else. Where there is room for what each of them would choose alone,
that is the plan, dearer than a joint one by parts of nodes at most. Where there is not, services of
all namespaces are placed one after the other in the one serving order, each beside what is there.
Called by ``planner`` for more than `TOGETHER_MAX` services. Bounded: one table a service and one pass
over the candidates of each; what a namespace would choose is kept, so that a change in one costs one.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from math import floor, log2
from typing import Final, TypeVar

from isochrone.catalog import Catalog
from isochrone.demand import Demand, Service
from isochrone.fleet import Fleet, Host
from isochrone.ids import HostId, Namespace, PoolId, split_qualified
from isochrone.plan import Group, Plan, ServicePlan
from isochrone.planning import greedy
from isochrone.planning.candidates import ServiceOptions
from isochrone.planning.options import tables as tables_of
from isochrone.planning.problem import WORK_MIN, Problem, nodes_bill_uph, serving_order
from isochrone.planning.selection import NOTHING, Selection, usage

TOGETHER_MAX: Final = 64
"""Services up to which all are planned jointly: beyond, the solver's start alone takes seconds."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Parts = Mapping[Namespace, Problem]
Chosen = dict[Namespace, Selection]


def is_large(problem: Problem) -> bool:
    """Return whether ``problem`` is to be planned namespace by namespace."""
    namespaces = {service.namespace for service in problem.demand.services}
    return len(problem.demand.services) > TOGETHER_MAX and len(namespaces) > 1


def parts_of(problem: Problem) -> dict[Namespace, Problem]:
    """Return the problem of each namespace, with its part of the solver's work, in order.

    It holds nothing that comes from the others, so that it is the same again while they change.
    """
    demand, running = problem.demand, problem.running
    services = _parted(demand.services, lambda it: it.namespace)
    budgets = _parted(demand.budgets, lambda it: it.namespace)
    models = {it.id: it for it in problem.catalog.models}
    variants = _parted(problem.catalog.variants, lambda it: it.model)
    groups = _parted(() if running is None else running.groups, lambda it: it.namespace)
    served = _parted(
        () if running is None else running.services, lambda it: split_qualified(it.service)[0]
    )
    parts: dict[Namespace, Problem] = {}
    for namespace in sorted(services):
        own = services[namespace]
        wanted = sorted({it.model for it in own})
        work = _work(problem.settings.work_limit, len(own) / len(demand.services))
        before = groups.get(namespace, ()), served.get(namespace, ())
        parts[namespace] = Problem(
            catalog=Catalog(
                models=tuple(models[it] for it in wanted if it in models),
                variants=tuple(
                    sorted(
                        (one for it in wanted for one in variants.get(it, ())), key=lambda it: it.id
                    )
                ),
            ),
            fleet=problem.fleet,
            demand=Demand(services=own, budgets=budgets.get(namespace, ())),
            running=None if running is None else _running(*before, problem.fleet),
            settings=replace(problem.settings, work_limit=work),
        )
    return parts


def _parted(values: Iterable[V], key: Callable[[V], K]) -> dict[K, tuple[V, ...]]:
    """Return ``values`` by what ``key`` says of each, in their order."""
    found: dict[K, list[V]] = {}
    for it in values:
        found.setdefault(key(it), []).append(it)
    return {name: tuple(them) for name, them in found.items()}


def _work(limit: float, share: float) -> float:
    """Return the solver's work for ``share`` of all services; none where that is too little to begin.

    A half, a quarter, and so on, of ``limit``, rounded up: a service more in one namespace is no reason
    to ask for the plans of all others anew.
    """
    work = limit / 2 ** floor(-log2(share))
    return work if work >= WORK_MIN else 0.0


def _running(groups: tuple[Group, ...], services: tuple[ServicePlan, ...], fleet: Fleet) -> Plan:
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
