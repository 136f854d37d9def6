"""The status of one InferenceService, whole, as it should be now.

Called by ``cycle`` for every service, the unusable included. An SLO breach never flips ``Ready``;
``Reconciling`` stands there while something is on its way, ``Stalled`` while only a person can help.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.common import Condition, exact_duration, exact_ratio
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.inferenceservice_status import (
    InferenceServiceStatus,
    Observed,
    PendingPlan,
    PlannedVariant,
    ServicePlanStatus,
)
from isochrone.catalog import Catalog
from isochrone.ids import split_qualified
from isochrone.plan import Explanation, Group, Plan, PlanReason, Route, ServicePlan
from isochrone.units import SECOND, Instant, Nanoseconds, format_money, format_price
from isochrone_operator.jobs.conditions import (
    FALSE,
    TRUE,
    UNKNOWN,
    Wanted,
    following,
    instant_of,
    written,
)
from isochrone_operator.reconcile.frozen import FROZEN
from isochrone_operator.reconcile.holding import plan_hash
from isochrone_operator.reconcile.intake import Complaint
from isochrone_operator.reconcile.memory import Pending
from isochrone_operator.reconcile.service_promises import (
    SLO_ATTAINED,
    accuracy_verified,
    observed_of,
    slo_attained,
    within_budget,
)
from isochrone_operator.reconcile.service_readiness import (
    Place,
    endpoints_ready,
    models_loaded,
    nodes_ready,
)
from isochrone_operator.reconciliation import EventType
from isochrone_operator.settings import Settings

OBSERVED_EVERY_NS: Final[Nanoseconds] = 30 * SECOND
"""Figures that no condition depends on are written at most so often."""

EVENTS: Final[Mapping[str, Mapping[str, EventType]]] = {
    "PlanAccepted": {
        PlanReason.FEASIBLE.value: EventType.NORMAL,
        **{it.value: EventType.WARNING for it in PlanReason if it is not PlanReason.FEASIBLE},
        "ModelMissing": EventType.WARNING,
        "PoolMissing": EventType.WARNING,
        "ModelUnreadable": EventType.WARNING,
        "PoolUnreadable": EventType.WARNING,
        "BudgetUnreadable": EventType.WARNING,
        "PendingApproval": EventType.NORMAL,
    },
    "Ready": dict.fromkeys(("Serving", "Suspended", "ScaledToZero"), EventType.NORMAL),
    "SLOAttained": {"Attained": EventType.NORMAL, "Breached": EventType.WARNING},
    "WithinBudget": {
        "OverServiceBudget": EventType.WARNING,
        "OverNamespaceBudget": EventType.WARNING,
    },
    "Reconciling": {"RollingOut": EventType.NORMAL},
    "Stalled": {
        "RolledBack": EventType.WARNING,
        "TooLarge": EventType.WARNING,
        FROZEN: EventType.WARNING,
    },
    "NodesReady": {"Unschedulable": EventType.WARNING},
    "ModelsLoaded": {"ExecutorsNotRunning": EventType.WARNING},
}
"""Which changes of conditions are worth an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """Everything that the status of one service is made from.

    ``asleep``: it has no workers, for want of traffic. ``frozen``: why nothing of its cell changes; empty where it may. ``waiting``: its new route is not loaded yet. ``failed``: its new plan did not become ready and
    the old one stays. ``pending``: a plan that waits for approval, up to ``expires_at``.
    ``building``: variants of its Model are on their way. ``note``: added to what the plan says.
    """

    resource: InferenceService
    complaint: Complaint | None
    explanation: Explanation | None
    place: Place
    asleep: bool
    frozen: str
    waiting: bool
    failed: bool
    pending: Pending | None
    building: bool
    note: str
    ceiling_uph: int | None
    spent_uph: int
    catalog: Catalog


def service_status(
    view: ServiceView, now: Instant, settings: Settings
) -> tuple[InferenceServiceStatus, tuple[Condition, ...]]:
    """Return the status and its conditions."""
    resource, place = view.resource, view.place
    generation = resource.metadata.generation
    known = resource.status.conditions
    conditions = following(known, _wanted(view), generation=generation, now=now)
    written_at = _status_written(resource)
    recent = written_at is not None and now - written_at < OBSERVED_EVERY_NS
    calm = recent and _states(conditions) == _states(known)
    if calm:  # figures in sentences wait for their turn, too
        said = {it.type: it.message for it in known}
        conditions = tuple(
            it.model_copy(update={"message": said[it.type]}) if it.type == SLO_ATTAINED else it
            for it in conditions
        )
    namespace, name = split_qualified(resource.identity)
    host = f"isochrone-gateway.{namespace}.svc.{settings.cluster_domain}"
    status = InferenceServiceStatus(
        observed_generation=generation,
        url=f"http://{host}/v2/models/{name}",
        plan=_plan_status(place.plan, place.served),
        pending_plan=_pending_status(view, settings),
        observed=_observed(view, calm=calm),
        conditions=conditions,
    )
    return status, conditions


def _wanted(view: ServiceView) -> list[Wanted]:
    resource, place = view.resource, view.place
    accepted = _accepted(view)
    nodes, models, endpoints = nodes_ready(place), models_loaded(place), endpoints_ready(place)
    suspended = resource.spec.suspend
    serving = place.served is not None and bool(place.served.routes)
    if not serving:
        idle = "it is suspended" if suspended else "it is not planned"
        idle = "it is scaled to zero" if view.asleep else idle
        nodes = _idle(nodes, idle)
        models = _idle(models, idle)
    ready = _ready(view, (accepted, nodes, models, endpoints), suspended=suspended)
    seen = place.facts.observed(resource.identity)
    result = [
        ready,
        accepted,
        nodes,
        models,
        endpoints,
        slo_attained(place.served, seen),
        within_budget(place.served, view.ceiling_uph, view.spent_uph),
        accuracy_verified(place.served, place.plan, view.catalog),
    ]
    return result + _progress(view, ready, accepted)


def _idle(condition: Wanted, why: str) -> Wanted:
    return Wanted(type=condition.type, status=UNKNOWN, reason="NotServed", message=why)


def _accepted(view: ServiceView) -> Wanted:
    """Whether the service could be planned, in the planner's own words, with the way out."""
    kind = "PlanAccepted"
    if view.complaint is not None:
        reason, message = view.complaint.reason, view.complaint.message
        return Wanted(type=kind, status=FALSE, reason=reason, message=message)
    if view.frozen:
        served = bool(view.place.served and view.place.served.routes)
        status = TRUE if served else UNKNOWN
        return Wanted(type=kind, status=status, reason=FROZEN, message=view.frozen)
    explanation = view.explanation
    if explanation is None:
        message = "the service has not been planned yet"
        return Wanted(type=kind, status=UNKNOWN, reason="Unplanned", message=message)
    message = explanation.message + view.note
    if view.asleep:
        message = "no request came for as long as spec.scaling says: no workers until the next one"
    if view.pending is not None:
        cost = format_price(view.pending.served.cost_uph)
        more_uph = _difference_uph(view, view.pending)
        than = (
            f"${format_price(abs(more_uph))}/h {'less' if more_uph < 0 else 'more'} than what runs"
        )
        before = f"; {view.pending.before}" if view.pending.before else ""
        message = (
            f"a plan at ${cost}/h, {than}, waits for approval: set spec.approvedPlan to "
            f"{view.pending.hash}{before}; {message}"
        )
        served = bool(view.place.served and view.place.served.routes)
        status = TRUE if served else FALSE
        return Wanted(type=kind, status=status, reason="PendingApproval", message=message)
    nearest = explanation.nearest_feasible
    if nearest is not None:
        option = nearest.option
        message += (
            f"; nearest feasible: {nearest.change}, by {split_qualified(option.variant)[1]} on "
            f"{option.replicas} × {option.pool} at ${format_price(option.cost_uph)}/h"
        )
    status = TRUE if explanation.reason is PlanReason.FEASIBLE else FALSE
    return Wanted(type=kind, status=status, reason=explanation.reason.value, message=message)


def _ready(view: ServiceView, parts: tuple[Wanted, ...], *, suspended: bool) -> Wanted:
    if suspended and view.complaint is None:
        drained = view.place.served is None or not view.place.served.routes
        message = "suspended: no executors; the endpoint stays and answers 503"
        if drained:
            return Wanted(type="Ready", status=TRUE, reason="Suspended", message=message)
    if view.asleep and parts[0].status is TRUE:
        message = "scaled to zero for want of traffic: the endpoint stays, and a request wakes it"
        if view.place.served is None or not view.place.served.routes:
            return Wanted(type="Ready", status=TRUE, reason="ScaledToZero", message=message)
    for status in (FALSE, UNKNOWN):
        for part in parts:
            if part.status is status:
                return Wanted(
                    type="Ready",
                    status=status,
                    reason=part.reason,
                    message=f"{part.type}: {part.message}",
                )
    message = "planned, loaded and reachable"
    return Wanted(type="Ready", status=TRUE, reason="Serving", message=message)


def _progress(view: ServiceView, ready: Wanted, accepted: Wanted) -> list[Wanted]:
    """Return Reconciling or Stalled, or neither when nothing is to be done."""
    if view.frozen:
        return [Wanted(type="Stalled", status=TRUE, reason=FROZEN, message=view.frozen)]
    if view.failed:
        message = (
            "a new plan did not become ready in time and was rolled back; it is not tried again "
            "before the service, its variants or the pools change"
        )
        return [Wanted(type="Stalled", status=TRUE, reason="RolledBack", message=message)]
    if view.waiting:
        message = "a new plan is being loaded; until it is, the old one serves"
        return [Wanted(type="Reconciling", status=TRUE, reason="RollingOut", message=message)]
    if ready.status is TRUE:
        return []
    stuck = accepted.status is FALSE and accepted.reason != "PendingApproval"
    if stuck and not (accepted.reason == PlanReason.PROFILE_MISSING.value and view.building):
        return [
            Wanted(type="Stalled", status=TRUE, reason=accepted.reason, message=accepted.message)
        ]
    return [Wanted(type="Reconciling", status=TRUE, reason=ready.reason, message=ready.message)]


def _plan_status(plan: Plan, served: ServicePlan | None) -> ServicePlanStatus | None:
    if served is None or not served.routes:
        return None
    groups = {group.id: group for group in plan.groups}
    return ServicePlanStatus(
        hash=plan_hash(plan, served),
        variants=tuple(_variant_status(it, groups[it.group]) for it in served.routes),
        cost_per_hour=format_money(served.cost_uph),
        accuracy=exact_ratio(served.accuracy_ppm),
    )


def _variant_status(route: Route, group: Group) -> PlannedVariant:
    return PlannedVariant(
        name=split_qualified(route.variant)[1],
        pool=group.pool,
        batch_size=route.batch_size,
        replicas=group.replicas,
        share=exact_ratio(route.share_ppm),
        predicted_latency=exact_duration(route.predicted_ns),
    )


def _difference_uph(view: ServiceView, held: Pending) -> int:
    """Return what the pending plan costs beyond what runs."""
    served = view.place.served
    return held.served.cost_uph - (0 if served is None else served.cost_uph)


def _pending_status(view: ServiceView, settings: Settings) -> PendingPlan | None:
    held = view.pending
    if held is None:
        return None
    groups = {group.id: group for group in held.groups}
    return PendingPlan(
        hash=held.hash,
        variants=tuple(_variant_status(it, groups[it.group]) for it in held.served.routes),
        cost_per_hour=format_money(held.served.cost_uph),
        accuracy=exact_ratio(held.served.accuracy_ppm),
        cost_difference_per_hour=format_money(_difference_uph(view, held)),
        expires_at=written(held.since + settings.approval_ns),
    )


def _observed(view: ServiceView, *, calm: bool) -> Observed | None:
    """Return what was observed; ``calm``: what the status says already was written only just now."""
    before = view.resource.status.observed
    seen = view.place.facts.observed(view.resource.identity)
    if seen is None or (calm and before is not None):
        return before
    cost_uph = 0 if view.place.served is None else view.place.served.cost_uph
    return observed_of(seen, cost_uph)


def _states(conditions: Sequence[Condition]) -> list[tuple[str, str, str]]:
    return [(it.type, it.status.value, it.reason) for it in conditions]


def _status_written(resource: InferenceService) -> Instant | None:
    """Return when the status was last written, as the API server noted it beside the object."""
    times = [
        instant
        for it in resource.metadata.managed_fields
        if it.get("subresource") == "status"
        and isinstance(stamp := it.get("time"), str)
        and (instant := instant_of(stamp)) is not None
    ]
    return max(times, default=None)
