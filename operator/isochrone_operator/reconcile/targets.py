"""What each cell aims at: the planner's plan, less what waits for a person or has failed before.

Called by ``reconcile`` between the planner and ``transition``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from isochrone.api.inferenceservice import Approval, InferenceService
from isochrone.ids import Namespace, ServiceId, split_qualified
from isochrone.plan import EMPTY_PLAN, Plan, ServicePlan
from isochrone.units import Instant, Nanoseconds
from isochrone_operator.reconcile.holding import digest, held_back, plan_hash, ways, ways_of
from isochrone_operator.reconcile.memory import Failure, Memory, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What one cell aims at, and why that may be less than the planner's plan.

    ``pending``: parts of plans that wait for approval, by service. ``failed``: services whose new
    plan did not become ready and is not tried again; ``rolled_back`` those where that is news.
    """

    plan: Plan
    memory: Memory
    pending: Mapping[ServiceId, tuple[Plan, ServicePlan]]
    failed: frozenset[ServiceId]
    rolled_back: tuple[ServiceId, ...]
    wake_at: Instant | None


def plan_of_namespace(plan: Plan, namespace: Namespace) -> Plan:
    """Return the part of ``plan`` that one namespace's cell obeys."""
    return replace(
        plan,
        groups=tuple(it for it in plan.groups if it.namespace == namespace),
        services=tuple(it for it in plan.services if split_qualified(it.service)[0] == namespace),
        explanations=tuple(
            it for it in plan.explanations if split_qualified(it.service)[0] == namespace
        ),
    )


def goal_of(
    planned: Plan,
    current: Plan | None,
    memory: Memory,
    services: Sequence[InferenceService],
    inputs: Callable[[], str],
    *,
    now: Instant,
    rollout_ns: Nanoseconds,
) -> Goal:
    """Return what the cell aims at, given what the planner wants and what is in force.

    ``inputs`` returns the digest of what this cell's plan was made from.
    """
    there = EMPTY_PLAN if current is None else current
    pending = _pending(planned, there, services)
    plan = held_back(planned, there, pending, {})
    failure = memory.failure
    if failure is not None and failure.inputs != inputs():
        failure = None
    if failure is not None:
        failure = _still_failing(failure, plan, there)
    failed = frozenset() if failure is None else frozenset(ServiceId(it) for it in failure.routes)
    plan = held_back(plan, there, failed, {} if failure is None else failure.before)
    moved = _moved(plan, there)
    rollout = _rollout(moved, plan, there, memory, now)
    rolled_back: tuple[ServiceId, ...] = ()
    if rollout is not None and now - rollout.since >= rollout_ns:
        rolled_back = moved
        routes = {} if failure is None else dict(failure.routes)
        routes |= {it: digest(ways(plan, it)) for it in moved}
        failure = Failure(inputs=inputs(), routes=routes, before=rollout.before)
        plan = held_back(plan, there, moved, rollout.before)
        failed |= frozenset(moved)
        rollout = None
    return Goal(
        plan=plan,
        memory=replace(memory, rollout=rollout, failure=failure),
        pending=pending,
        failed=failed,
        rolled_back=rolled_back,
        wake_at=None if rollout is None else rollout.since + rollout_ns,
    )


def _pending(
    planned: Plan, current: Plan, services: Sequence[InferenceService]
) -> dict[ServiceId, tuple[Plan, ServicePlan]]:
    pending: dict[ServiceId, tuple[Plan, ServicePlan]] = {}
    for resource in services:
        if resource.spec.approval is not Approval.MANUAL:
            continue
        service = ServiceId(resource.identity)
        new = planned.service(service)
        if new is None or not new.routes or ways_of(new.routes) == ways(current, service):
            continue
        if resource.spec.approved_plan != plan_hash(planned, new):
            pending[service] = (planned, new)
    return pending


def _still_failing(failure: Failure, plan: Plan, current: Plan) -> Failure | None:
    """Return ``failure`` without services that aim elsewhere by now, or have got there."""
    routes = {
        name: known
        for name, known in failure.routes.items()
        if digest(aim := ways(plan, ServiceId(name))) == known
        and aim != ways(current, ServiceId(name))
    }
    return replace(failure, routes=routes) if routes else None


def _moved(plan: Plan, current: Plan) -> tuple[ServiceId, ...]:
    return tuple(
        it.service
        for it in plan.services
        if it.routes
        and ways(current, it.service)
        and ways_of(it.routes) != ways(current, it.service)
    )


def _rollout(
    moved: tuple[ServiceId, ...], plan: Plan, current: Plan, memory: Memory, now: Instant
) -> Rollout | None:
    if not moved:
        return None
    goal = digest(tuple((it, ways(plan, it)) for it in moved))
    known = memory.rollout
    if known is not None and known.goal == goal:
        return known
    before: Mapping[str, int] = {it.id: it.replicas for it in current.groups}
    if known is not None:  # the goal has moved on: what was before the whole change is what counts
        before = known.before
    return Rollout(goal=goal, since=now, before=before)
