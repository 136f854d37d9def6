"""A plan in which some services stay as they are: those that wait for approval, or failed to move.

Called by ``targets``. Pure; the result may hold more than the planner's, never other routes.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Final

from isochrone.ids import GroupId, ServiceId, VariantId
from isochrone.plan import Group, Plan, Route, ServicePlan
from isochrone.units import ONE_PPM

_DIGEST: Final = 12

Ways = tuple[tuple[str, str, int, int], ...]
"""What tells one way of serving from another: variant, group, batch size and share."""


def ways(plan: Plan, service: ServiceId) -> Ways:
    """Return how ``plan`` serves ``service``; empty where it does not."""
    served = plan.service(service)
    return () if served is None else ways_of(served.routes)


def ways_of(routes: tuple[Route, ...]) -> Ways:
    """Return ``routes`` without their predictions, which change nothing by themselves."""
    return tuple((it.variant, it.group, it.batch_size, it.share_ppm) for it in routes)


def digest(value: object) -> str:
    """Return a short digest of ``value``, whose ``repr`` must not depend on the process."""
    return sha256(repr(value).encode()).hexdigest()[:_DIGEST]


def plan_hash(plan: Plan, served: ServicePlan) -> str:
    """Return what names a service's part of ``plan``: routes, workers and cost."""
    groups = {group.id: group for group in plan.groups}
    workers = [
        (route.group, groups[route.group].pool, groups[route.group].replicas)
        for route in served.routes
    ]
    return digest((ways_of(served.routes), workers, served.cost_uph))


def held_back(
    target: Plan, current: Plan, services: Collection[ServiceId], before: Mapping[str, int]
) -> Plan:
    """Return ``target`` with ``services`` served as in ``current``, on as many workers as before.

    ``before`` gives the workers of a group before a change began, where that differs from
    ``current``. Groups that nothing uses any more are left out.
    """
    if not services:
        return target
    kept = [_kept(it, target) for it in current.services if it.service in services]
    others = [it for it in target.services if it.service not in services]
    mixed = sorted((*kept, *others), key=lambda it: it.service)
    wanted = {group.id: group for group in target.groups}
    there = {group.id: group for group in current.groups}
    held = {route.group for it in kept for route in it.all_routes}
    used: dict[GroupId, set[VariantId]] = {}
    for it in mixed:
        for route in it.all_routes:
            used.setdefault(route.group, set()).add(route.variant)
    groups: list[Group] = []
    for name in sorted(used):
        replicas = wanted[name].replicas if name in wanted else 0
        if name in held:
            was = there[name].replicas if name in there else replicas
            replicas = max(replicas, before.get(name, was))
        base = wanted[name] if name in wanted else there[name]
        groups.append(replace(base, replicas=replicas, variants=tuple(sorted(used[name]))))
    return replace(target, groups=tuple(groups), services=tuple(mixed))


def _kept(served: ServicePlan, target: Plan) -> ServicePlan:
    """Return ``served`` without the routes of ``target`` that a change had begun to add to it."""
    # Old and new stand side by side only in a change; a mix of pools has several routes for good.
    if len(served.routes) < 2 or served.mixed:  # noqa: PLR2004
        return served
    goal = target.service(served.service)
    aims = set() if goal is None else {(it.variant, it.group) for it in goal.routes}
    old = tuple(it for it in served.routes if (it.variant, it.group) not in aims)
    if not old:
        return served if goal is None else goal
    if len(old) == 1:
        old = (replace(old[0], share_ppm=ONE_PPM),)
    return replace(served, routes=old)
