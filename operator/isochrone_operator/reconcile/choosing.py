"""The one plan that would be best now: asked of the planner, with what traffic and live requests have taught.

A cell whose routes changed a moment ago is *unsettled*: a cheaper plan may move the others at once,
and this one when its dwell is over. Called by ``cycle``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

from isochrone.api.convert import plan_of
from isochrone.ids import ModelId, Namespace, PoolId, ServiceId, split_qualified
from isochrone.plan import Plan, PlanReason
from isochrone.planning import Problem, plan
from isochrone.planning.changing import change_uph
from isochrone.planning.judge import violations
from isochrone.planning.problem import nodes_bill_uph
from isochrone.units import ONE_PPM, Instant, Nanoseconds
from isochrone_operator.reconcile import publish
from isochrone_operator.reconcile.intake import Intake, problem_of
from isochrone_operator.reconcile.memory import Learned, Memory
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, with_learned
from isochrone_operator.reconcile.slowness import sparing
from isochrone_operator.reconcile.values import Planned

_SPARING_MAX: Final = 2
"""How often it is tried to plan with what live requests took, before nobody is."""


def choose(
    intake: Intake, memories: Mapping[Namespace, Memory], now: Instant, dwell_ns: Nanoseconds
) -> Planned:
    """Return what the planner wants, beside what is in force."""
    current = {
        namespace: publish.standing(it, intake.prices, intake.everything)
        for namespace, it in sorted(intake.plans.items())
        if namespace not in intake.frozen
    }
    settled_at = {it: memories[it].changed_at + dwell_ns for it in current if it in memories}
    unsettled = frozenset(it for it, at in settled_at.items() if now < at)
    problem, made = _as_slow_as_seen(
        problem_of(intake, publish.running(current)), intake, unsettled
    )
    learned = dict(intake.learned)
    short: frozenset[ServiceId] = frozenset()
    for known in (_remembered(memories), _nothing):
        grown = _unserved_by_traffic(made, problem, intake)
        if not grown:
            break
        # What traffic asks for must never cost a service what it declared: take less.
        short |= grown
        learned |= {it: known(it) for it in grown}
        problem = _with_learned(problem, intake, learned)
        made = best_plan(problem, unsettled)
    return Planned(
        problem=problem,
        plan=made,
        current=current | {it: plan_of(intake.plans[it]) for it in sorted(intake.frozen)},
        learned=learned,
        short=short,
        wake_at=min((settled_at[it] for it in unsettled), default=None),
    )


def _as_slow_as_seen(
    problem: Problem, intake: Intake, unsettled: frozenset[Namespace]
) -> tuple[Problem, Plan]:
    """Return ``problem`` with profiles as slow as live requests are, and its plan.

    What was seen must never cost a service its plan: for the models of those that would lose theirs, and
    where that is not enough for all, the profiles count as they were measured.
    """
    measured = best_plan(problem, unsettled)
    if intake.slowed is intake.catalog:
        return problem, measured
    models = {it.id: it.model for it in problem.demand.services}
    spared: set[ModelId] = set()
    for _ in range(_SPARING_MAX):
        slower = replace(problem, catalog=sparing(intake.slowed, intake.catalog, spared))
        made = best_plan(slower, unsettled)
        lost = _served(measured) - _served(made)
        if not lost:
            return slower, made
        spared |= {models[it] for it in lost}
    return problem, measured


def _served(made: Plan) -> frozenset[ServiceId]:
    return frozenset(it.service for it in made.explanations if it.reason is PlanReason.FEASIBLE)


def best_plan(problem: Problem, unsettled: frozenset[Namespace]) -> Plan:
    """Return the planner's answer, in which the ``unsettled`` move only where they must.

    Where the best for the others does not go together with that, or then saves too little, nobody
    moves without need.
    """
    best = _plan(problem, may_improve=True)
    moved = _namespaces(problem) & unsettled
    if problem.running is None or not moved:
        return best
    calm = _plan(problem, may_improve=False)
    if best == calm or not _namespaces(problem) - unsettled:
        return calm
    mixed = spliced(problem, best, calm, unsettled)
    saving_ppm = problem.settings.switch_saving_ppm
    more_uph = change_uph(problem, mixed) - change_uph(problem, calm)
    cheaper = (mixed.cost_uph + more_uph) * ONE_PPM <= calm.cost_uph * (ONE_PPM - saving_ppm)
    return mixed if cheaper and not violations(problem, mixed) else calm


@lru_cache(maxsize=16)
def _plan(problem: Problem, *, may_improve: bool) -> Plan:
    """Return the planner's answer; the same question again costs nothing."""
    return plan(problem, may_improve=may_improve)


def _namespaces(problem: Problem) -> frozenset[Namespace]:
    return frozenset(it.namespace for it in problem.demand.services)


def spliced(problem: Problem, plan: Plan, part: Plan, namespaces: frozenset[Namespace]) -> Plan:
    """Return ``plan`` with ``namespaces`` as in ``part``: no group is in two of them."""

    def is_of_part(service: ServiceId) -> bool:
        return split_qualified(service)[0] in namespaces

    groups = [it for it in part.groups if it.namespace in namespaces]
    groups += [it for it in plan.groups if it.namespace not in namespaces]
    services = [it for it in part.services if is_of_part(it.service)]
    services += [it for it in plan.services if not is_of_part(it.service)]
    told = [it for it in part.explanations if is_of_part(it.service)]
    told += [it for it in plan.explanations if not is_of_part(it.service)]
    held: dict[PoolId, int] = {}
    for group in groups:
        held[group.pool] = held.get(group.pool, 0) + group.replicas
    return replace(
        plan,
        groups=tuple(sorted(groups, key=lambda it: it.id)),
        services=tuple(sorted(services, key=lambda it: it.service)),
        explanations=tuple(sorted(told, key=lambda it: it.service)),
        cost_uph=nodes_bill_uph(problem.fleet, held),
    )


def broken(planned: Planned, part: Plan, namespace: Namespace) -> str:
    """Return the first rule that ``part`` breaks as the plan of ``namespace``; empty where none."""
    whole = spliced(planned.problem, planned.plan, part, frozenset({namespace}))
    found = violations(planned.problem, whole)
    return f"{found[0].subject}: {found[0].message}" if found else ""


def _remembered(memories: Mapping[Namespace, Memory]) -> Callable[[ServiceId], Learned]:
    def learned(service: ServiceId) -> Learned:
        namespace, name = split_qualified(service)
        return memories.get(namespace, Memory()).learned.get(name, NOTHING_LEARNED)

    return learned


def _nothing(_service: ServiceId) -> Learned:
    return NOTHING_LEARNED


def _unserved_by_traffic(made: Plan, problem: Problem, intake: Intake) -> frozenset[ServiceId]:
    """Return the services that cannot be planned, and are sized for more than they declare."""
    loads = {it.id: it.load for it in problem.demand.services}
    return frozenset(
        it.service
        for it in made.explanations
        if it.reason is not PlanReason.FEASIBLE and loads[it.service] != intake.own[it.service]
    )


def _with_learned(
    problem: Problem, intake: Intake, learned: Mapping[ServiceId, Learned]
) -> Problem:
    services = tuple(
        replace(it, load=with_learned(intake.own[it.id], learned[it.id]))
        for it in problem.demand.services
    )
    return replace(problem, demand=replace(problem.demand, services=services))
