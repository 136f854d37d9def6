"""Plans that wait for a person (``approval: Manual``): each frozen as it was shown, until it is over.

What a person approves must be what is then done: so the first plan that differs from what runs is kept,
with its hash, though the planner would choose otherwise by now. It is over when it is in force, when
nothing else than what runs is wanted any more, after a stated time, and when it breaks a constraint by
then: a fresh one takes its place, and says what became of the one before. Called by ``targets``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.inferenceservice import Approval, InferenceService
from isochrone.ids import GroupId, ServiceId, VariantId
from isochrone.plan import Group, Plan
from isochrone.units import Instant, Nanoseconds, format_duration
from isochrone_operator.reconcile.holding import Ways, plan_hash, ways, ways_of
from isochrone_operator.reconcile.memory import Pending

PENDING_MAX: Final = 64
"""Services of a cell whose pending plans are kept, each about a kilobyte: an object's annotations may
hold 256 KiB. The plans of further ones are shown as they are now."""
Breaks = Callable[[Plan], str]
"""Why a cell's plan cannot be had beside all others; empty where it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What approvals make of a plan.

    ``plan`` holds what was approved; ``pending`` what was not, by service, and is still in ``plan``.
    ``kept`` is to be remembered. ``lapsed``: services whose pending plan is over with this look, and why.
    """

    plan: Plan
    pending: Mapping[ServiceId, Pending]
    kept: Mapping[str, Pending]
    lapsed: Mapping[ServiceId, str]


def weigh(
    planned: Plan,
    current: Plan,
    services: Sequence[InferenceService],
    known: Mapping[str, Pending],
    breaks: Breaks,
    *,
    now: Instant,
    expiry_ns: Nanoseconds,
) -> Weighed:
    """Return ``planned`` with what was approved, and what of it waits; ``known`` as remembered."""
    pending: dict[ServiceId, Pending] = {}
    kept: dict[str, Pending] = {}
    lapsed: dict[ServiceId, str] = {}
    plan = planned
    for resource in services:
        if resource.spec.approval is not Approval.MANUAL:
            continue
        service, name = ServiceId(resource.identity), resource.metadata.name
        approved = resource.spec.approved_plan
        fresh = _fresh(planned, current, service, now)
        held, over = known.get(name), ""
        if held is not None and not _is_moot(held, fresh, ways(current, service), approved):
            over = _over(held, plan, breaks, approved=approved, now=now, expiry_ns=expiry_ns)
        else:
            held = None
        if over:
            lapsed[service] = over
        if held is None or over:
            held = None if fresh is None else replace(fresh, before=over)
        if held is None:
            continue
        if len(kept) < PENDING_MAX:
            kept[name] = held
        if held.hash == approved:
            plan = with_part(plan, held)
        else:
            pending[service] = held
    return Weighed(plan=plan, pending=pending, kept=kept, lapsed=lapsed)


def _is_moot(held: Pending, fresh: Pending | None, runs: Ways, approved: str) -> bool:
    """Return whether ``held`` is in force, or, unless it was approved, what runs is best again."""
    return ways_of(held.served.routes) == runs or (fresh is None and approved != held.hash)


def _fresh(planned: Plan, current: Plan, service: ServiceId, now: Instant) -> Pending | None:
    """Return what the planner wants for ``service`` now, where that is not what runs."""
    new = planned.service(service)
    if new is None or not new.routes or ways_of(new.routes) == ways(current, service):
        return None
    used = {route.group for route in new.all_routes}
    return Pending(
        hash=plan_hash(planned, new),
        since=now,
        served=new,
        groups=tuple(group for group in planned.groups if group.id in used),
    )


def _over(
    held: Pending,
    plan: Plan,
    breaks: Breaks,
    *,
    approved: str,
    now: Instant,
    expiry_ns: Nanoseconds,
) -> str:
    """Return why ``held`` can be had no more; empty where it can."""
    if approved != held.hash and now - held.since >= expiry_ns:
        return f"plan {held.hash} expired: nobody approved it within {format_duration(expiry_ns)}"
    broken = breaks(with_part(plan, held))
    return f"plan {held.hash} cannot be had any more: {broken}" if broken else ""


def with_part(plan: Plan, held: Pending) -> Plan:
    """Return ``plan`` with one service served as in ``held``, and the groups that this takes."""
    others = [it for it in plan.services if it.service != held.served.service]
    services = sorted((*others, held.served), key=lambda it: it.service)
    shared = {route.group for it in others for route in it.all_routes}
    used: dict[GroupId, set[VariantId]] = {}
    for it in services:
        for route in it.all_routes:
            used.setdefault(route.group, set()).add(route.variant)
    planned = {group.id: group for group in plan.groups}
    own = {group.id: group for group in held.groups}
    groups: list[Group] = []
    for name in sorted(used):
        replicas = max(
            planned[name].replicas if name in shared else 0,
            own[name].replicas if name in own else 0,
        )
        base = planned[name] if name in planned else own[name]
        groups.append(replace(base, replicas=replicas, variants=tuple(sorted(used[name]))))
    return replace(plan, groups=tuple(groups), services=tuple(services))
