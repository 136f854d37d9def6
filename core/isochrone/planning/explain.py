"""Why each service is served the way it is, or why not: chosen, runners-up, what binds, ways out.

Called by ``planner`` for the plan that it is about to return. Bounded: `RUNNERS_UP_MAX` per
service, so that no ServingPlan grows without limit.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from isochrone.demand import Service
from isochrone.ids import GroupId
from isochrone.plan import Explanation, Group, Option, PlanReason, ServicePlan
from isochrone.planning.alternatives import nearest_feasible
from isochrone.planning.board import Board
from isochrone.planning.candidates import Candidate, Rejection, ServiceOptions, Stage
from isochrone.planning.problem import Problem, may_use, namespace_budget, serving_order
from isochrone.planning.selection import (
    Choice,
    Selection,
    bill_uph,
    is_running,
    obstacle,
    usage,
)
from isochrone.planning.shadow import affordable, shadow_prices
from isochrone.planning.variation import added, fits, removed
from isochrone.units import (
    format_duration,
    format_percentile,
    format_price,
    format_ratio,
)

RUNNERS_UP_MAX: Final = 3
"""Enough to see the trade-offs; a plan of hundreds of services stays far below etcd's limit."""

_REASONS: Final = {
    Stage.ACCURACY: PlanReason.INFEASIBLE_ACCURACY,
    Stage.PROFILE: PlanReason.PROFILE_MISSING,
    Stage.MEMORY: PlanReason.NO_CAPACITY,
    Stage.LATENCY: PlanReason.INFEASIBLE_LATENCY,
    Stage.CAPACITY: PlanReason.NO_CAPACITY,
    Stage.COST: PlanReason.INFEASIBLE_COST,
}
_SHOWN: Final = (
    Stage.LATENCY,
    Stage.ACCURACY,
    Stage.CAPACITY,
    Stage.COST,
    Stage.MEMORY,
    Stage.PROFILE,
    Stage.DOMINATED,
)
"""The order in which reasons are shown where there is room for three."""


def explain(
    problem: Problem,
    options: tuple[ServiceOptions, ...],
    selection: Selection,
    *,
    groups: tuple[Group, ...],
    services: tuple[ServicePlan, ...],
) -> tuple[Explanation, ...]:
    """Return an explanation for every service, sorted by service."""
    tables = {table.service.id: table for table in options}
    priced = affordable(problem, serving_order(problem))
    plans = {plan.service: plan for plan in services}
    by_id = {group.id: group for group in groups}
    board = Board(problem, selection)
    result: list[Explanation] = []
    for service in problem.demand.services:
        choice = selection.choice(service.id)
        if service.suspended:
            result.append(_plain(service, "suspended: no workers"))
        elif choice is None:
            result.append(_unserved(problem, tables[service.id], selection))
        else:
            plan = plans[service.id]
            told = _served(problem, tables[service.id], selection, choice, plan, by_id)
            if service.id in priced:
                prices = shadow_prices(problem, tables[service.id], board)
                told = replace(told, shadow_prices=prices)
            result.append(told)
    return tuple(result)


def _plain(service: Service, message: str) -> Explanation:
    return Explanation(
        service=service.id,
        reason=PlanReason.FEASIBLE,
        message=message,
        chosen=(),
        runners_up=(),
        binding=(),
        nearest_feasible=None,
    )


def _served(
    problem: Problem,
    table: ServiceOptions,
    selection: Selection,
    choice: Choice,
    plan: ServicePlan,
    groups: Mapping[GroupId, Group],
) -> Explanation:
    pools = {route.group: problem.fleet.pool(groups[route.group].pool) for route in plan.routes}
    chosen = tuple(
        Option(
            variant=route.variant,
            pool=pools[route.group].id,
            batch_size=route.batch_size,
            replicas=groups[route.group].replicas,
            predicted_ns=route.predicted_ns,
            accuracy_ppm=plan.accuracy_ppm,
            cost_uph=plan.cost_uph
            if not plan.mixed
            else groups[route.group].replicas * pools[route.group].accelerator_price_uph,
        )
        for route in plan.routes
    )
    percentile = format_percentile(plan.objectives.percentile_ppm)
    ways = " and ".join(f"{it.pool} in batches of up to {it.batch_size}" for it in chosen)
    message = (
        f"{chosen[0].variant} on {ways}: "
        f"p{percentile} {format_duration(max(it.predicted_ns for it in chosen))}, "
        f"accuracy {format_ratio(plan.accuracy_ppm)}, ${format_price(plan.cost_uph)}/h"
    )
    return Explanation(
        service=plan.service,
        reason=PlanReason.FEASIBLE,
        message=message,
        chosen=chosen,
        runners_up=_runners_up(problem, table, selection, choice),
        binding=_binding(problem, table, selection, choice),
        nearest_feasible=None,
    )


def _runners_up(
    problem: Problem, table: ServiceOptions, selection: Selection, choice: Choice
) -> tuple[Option, ...]:
    """Return the best other way that could serve, then one per reason, then others that could."""
    chosen = choice.candidate
    without = removed(problem, selection, table.service.id)
    possible: list[tuple[int, Option]] = []
    seen = set() if chosen.parts else {(chosen.variant, chosen.pool)}
    for one in sorted(table.candidates, key=lambda c: (c.cost_uph, -c.merit_ppm, c.variant)):
        if (one.variant, one.pool) not in seen and not one.parts:  # options are of one pool
            seen.add((one.variant, one.pool))
            possible.append(_verdict(problem, selection, without, choice, one))
    possible.sort(key=lambda pair: (pair[0], -pair[1].accuracy_ppm, pair[1].variant, pair[1].pool))
    could = [option for _, option in possible]
    shown = could[:1] + _by_stage(table.rejections) + could[1:]
    return tuple(shown[:RUNNERS_UP_MAX])


def _by_stage(rejections: tuple[Rejection, ...]) -> list[Option]:
    """Return the one that came closest, of each stage that ruled something out."""
    result: list[Option] = []
    for stage in _SHOWN:
        there = [one for one in rejections if one.stage is stage]
        if there:
            result.append(_option(min(there, key=_closeness)))
    return result


def _closeness(one: Rejection) -> tuple[bool, int, int, int, str, str]:
    """Order the rejections of one stage: known sizes first, then the better or cheaper."""
    sized = one.replicas > 0 or one.stage not in {Stage.CAPACITY, Stage.COST}
    merit = -one.merit_ppm if one.stage in {Stage.ACCURACY, Stage.DOMINATED} else 0
    return not sized, merit, one.cost_uph, one.predicted_ns, one.variant, one.pool


def _verdict(
    problem: Problem,
    selection: Selection,
    without: Selection,
    choice: Choice,
    one: Candidate,
) -> tuple[int, Option]:
    """Return what serving by ``one`` instead would add to the bill, and what rules it out."""
    for shared in (False, True):
        tried = added(problem, without, one, shared=shared)
        if tried is not None and fits(problem, tried):
            break
    else:
        shared, tried = one.replicas == 0, None
    replicas = one.shared_replicas if shared else one.replicas
    more = 0
    if tried is None:
        why = obstacle(problem, without, one, replicas)
        why = why or "beside the others of its group a promise or the memory would not hold"
    else:
        more = bill_uph(problem, tried) - bill_uph(problem, selection)
        why = _compared(problem, choice, one, more)
    option = Option(
        variant=one.variant,
        pool=one.pool,
        batch_size=one.batch_size,
        replicas=replicas,
        predicted_ns=one.predicted_ns,
        accuracy_ppm=one.accuracy_ppm,
        cost_uph=one.cost_uph,
        ruled_out_by=why,
    )
    return more, option


def _compared(problem: Problem, choice: Choice, one: Candidate, more: int) -> str:
    if more > 0:
        return f"costs ${format_price(more)}/h more in whole nodes"
    if more < 0:
        return f"costs ${format_price(-more)}/h less: too little to change what runs"
    if is_running(problem, choice):
        return "costs as much, and would change what runs"
    chosen = choice.candidate
    if one.merit_ppm < chosen.merit_ppm:
        better = format_ratio(chosen.accuracy_ppm, places=4)
        worse = format_ratio(one.accuracy_ppm, places=4)
        return f"costs as much, with accuracy {worse}, not {better}"
    return "costs as much, and is no more accurate"


def _binding(
    problem: Problem, table: ServiceOptions, selection: Selection, choice: Choice
) -> tuple[str, ...]:
    """Return the constraints without which something cheaper or more accurate could be chosen."""
    found: list[str] = []
    for stage, name in (
        (Stage.ACCURACY, "accuracyFloor"),
        (Stage.LATENCY, "latency"),
        (Stage.MEMORY, "memory"),
        (Stage.COST, "costBudgetPerHour"),
    ):
        if any(one.stage is stage for one in table.rejections):
            found.append(name)
    taken = usage(selection)
    names = [it for it, _ in choice.held] or [choice.candidate.pool]
    found += [
        f"pool {it} maxNodes"
        for it in names
        if taken.of_pool(it) == problem.fleet.pool(it).accelerators_max
    ]
    for host in problem.fleet.hosts:
        used = sum(taken.of_pool(p) * problem.fleet.pool(p).cores for p in host.pools)
        if used == host.cores and set(names) & set(host.pools):
            found.append(f"machine {host.id} cores")
    namespace = table.service.namespace
    ceiling_uph = namespace_budget(problem.demand, namespace)
    if ceiling_uph is not None:
        left_uph = ceiling_uph - taken.namespace_cost_uph(problem.fleet, namespace)
        if left_uph < min(problem.fleet.pool(it).accelerator_price_uph for it in names):
            found.append(f"budget of namespace {namespace}")
    return tuple(found)


def _unserved(problem: Problem, table: ServiceOptions, selection: Selection) -> Explanation:
    service = table.service
    reason, message = _reason(problem, table, selection)
    ruled_out = _by_stage(table.rejections)
    return Explanation(
        service=service.id,
        reason=reason,
        message=message,
        chosen=(),
        runners_up=tuple(ruled_out[:RUNNERS_UP_MAX]),
        binding=(),
        nearest_feasible=nearest_feasible(problem, selection, service),
    )


def _reason(
    problem: Problem, table: ServiceOptions, selection: Selection
) -> tuple[PlanReason, str]:
    """Return the reason of whatever came closest to serving, and its sentence."""
    service = table.service
    if table.candidates:
        one = min(table.candidates, key=lambda c: (c.cost_uph, -c.merit_ppm, c.variant))
        extra = one.replicas or one.shared_replicas
        why = obstacle(problem, selection, one, extra) or "the others leave it no room"
        by_budget = "budget of namespace" in why
        reason = PlanReason.INFEASIBLE_COST if by_budget else PlanReason.NO_CAPACITY
        return reason, f"{one.variant} on {one.pool} {why}"
    if not any(may_use(service, pool) for pool in problem.fleet.pools):
        return PlanReason.NO_CAPACITY, "it may use none of the pools"
    if not table.rejections:
        return PlanReason.PROFILE_MISSING, f"model {service.model} has no variant yet"
    stage = max(one.stage for one in table.rejections)
    closest = min((one for one in table.rejections if one.stage is stage), key=_closeness)
    place = f" on {closest.pool}" if closest.pool else ""
    return _REASONS[stage], f"{closest.variant}{place}: {closest.why}"


def _option(one: Rejection) -> Option:
    return Option(
        variant=one.variant,
        pool=one.pool,
        batch_size=one.batch_size,
        replicas=one.replicas,
        predicted_ns=one.predicted_ns,
        accuracy_ppm=one.accuracy_ppm,
        cost_uph=one.cost_uph,
        ruled_out_by=one.why,
    )
