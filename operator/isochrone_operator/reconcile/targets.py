"""What each cell aims at: the planner's plan, less what waits for a person or has failed before.

Called by ``reconcile`` between the planner and ``transition``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from isochrone.api.inferenceservice import InferenceService
from isochrone.ids import Namespace, ServiceId, split_qualified
from isochrone.plan import EMPTY_PLAN, Explanation, Group, Plan, ServicePlan
from isochrone.units import Instant, Nanoseconds
from isochrone_operator.reconcile.approval import Breaks, weigh
from isochrone_operator.reconcile.holding import digest, held_back, ways, ways_of
from isochrone_operator.reconcile.memory import Failure, Memory, Pending, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What one cell aims at, and why that may be less than the planner's plan.

    ``pending``: plans that wait for approval, by service; ``lapsed``: services whose pending plan is over
    with this look, and why. ``failed``: services whose new
    plan did not become ready and is not tried again; ``rolled_back`` those where that is news.
    """

    plan: Plan
    memory: Memory
    pending: Mapping[ServiceId, Pending]
    lapsed: Mapping[ServiceId, str]
    failed: frozenset[ServiceId]
    rolled_back: tuple[ServiceId, ...]
    wake_at: Instant | None


def plans_of_namespaces(plan: Plan) -> dict[Namespace, Plan]:
    """Return the parts of ``plan`` that each namespace's cell obeys, for those of which it says anything."""
    groups: dict[Namespace, list[Group]] = {}
    for group in plan.groups:
        groups.setdefault(group.namespace, []).append(group)
    services: dict[Namespace, list[ServicePlan]] = {}
    for served in plan.services:
        services.setdefault(split_qualified(served.service)[0], []).append(served)
    told: dict[Namespace, list[Explanation]] = {}
    for it in plan.explanations:
        told.setdefault(split_qualified(it.service)[0], []).append(it)
    return {
        namespace: replace(
            plan,
            groups=tuple(groups.get(namespace, ())),
            services=tuple(services.get(namespace, ())),
            explanations=tuple(told.get(namespace, ())),
        )
        for namespace in sorted({*groups, *services, *told})
    }


def goal_of(  # noqa: PLR0913 - each is a fact of its own, and named
    planned: Plan,
    current: Plan | None,
    memory: Memory,
    services: Sequence[InferenceService],
    inputs: Callable[[], str],
    breaks: Breaks,
    *,
    now: Instant,
    acting_since: Instant,
    rollout_ns: Nanoseconds,
    approval_ns: Nanoseconds,
) -> Goal:
    """Return what the cell aims at, given what the planner wants and what is in force.

    ``inputs`` returns the digest of what this cell's plan was made from. ``acting_since``: only from
    then on does the time count that a plan may take to become ready. ``breaks``: why a plan of this cell
    cannot be had. ``approval_ns``: how long a plan waits for a person.
    """
    there = EMPTY_PLAN if current is None else current
    weighed = weigh(
        planned, there, services, memory.pending, breaks, now=now, expiry_ns=approval_ns
    )
    plan = held_back(weighed.plan, there, weighed.pending, {})
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
    # While nobody acted, nothing could become ready.
    due_at = None if rollout is None else max(rollout.since, acting_since) + rollout_ns
    if rollout is not None and due_at is not None and now >= due_at:
        rolled_back = moved
        routes = {} if failure is None else dict(failure.routes)
        routes |= {it: digest(ways(plan, it)) for it in moved}
        failure = Failure(inputs=inputs(), routes=routes, before=rollout.before)
        plan = held_back(plan, there, moved, rollout.before)
        failed |= frozenset(moved)
        rollout, due_at = None, None
    return Goal(
        plan=plan,
        memory=replace(memory, rollout=rollout, failure=failure, pending=weighed.kept),
        pending=weighed.pending,
        lapsed=weighed.lapsed,
        failed=failed,
        rolled_back=rolled_back,
        wake_at=min(
            (
                at
                for at in (due_at, *(it.since + approval_ns for it in weighed.pending.values()))
                if at is not None
            ),
            default=None,
        ),
    )


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
