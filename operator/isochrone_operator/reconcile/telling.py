"""What people are told: every status that differs from the one there is, and events of changes.

Called by ``cycle`` after everything is decided; decides nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isochrone.api.common import Condition
from isochrone.api.resource import Resource
from isochrone.api.schema import API_VERSION, Part
from isochrone.ids import Namespace, ServiceId, split_qualified
from isochrone.plan import EMPTY_PLAN, Plan, ServicePlan
from isochrone.planning.problem import namespace_budget
from isochrone.units import Instant, format_price
from isochrone_operator.children.pods import reference_to
from isochrone_operator.jobs.conditions import condition_of, events_of, written
from isochrone_operator.reconcile.cell_status import (
    budget_status,
    observed_costs,
    plan_status,
    pool_status,
)
from isochrone_operator.reconcile.facts import NOTHING_KNOWN, Facts
from isochrone_operator.reconcile.frozen import FROZEN
from isochrone_operator.reconcile.holding import ways
from isochrone_operator.reconcile.intake import Intake
from isochrone_operator.reconcile.service_readiness import Place
from isochrone_operator.reconcile.service_status import EVENTS, ServiceView, service_status
from isochrone_operator.reconcile.values import Cell, Planned
from isochrone_operator.reconcile.wanted import Wants
from isochrone_operator.reconciliation import Event, EventType, StatusWrite
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot, Unreadable

_SHORT: Final = "; its traffic asks for more than could be planned, so it is sized for less"
_OURS: Final = f"{API_VERSION.partition('/')[0]}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Statuses that differ from those in the cluster, and events of what changed."""

    statuses: tuple[StatusWrite, ...]
    events: tuple[Event, ...]


def tell(  # noqa: PLR0913, PLR0917 - each is a fact of its own, and none has a default
    snapshot: Snapshot,
    intake: Intake,
    planned: Planned,
    cells: Mapping[Namespace, Cell],
    wants: Wants,
    facts: Mapping[str, Facts],
    now: Instant,
    settings: Settings,
) -> Told:
    """Return what to tell people about everything.

    Where the operator is confined to some namespaces, it may only read pools and budgets: then their
    statuses are left alone.
    """
    statuses: list[StatusWrite] = []
    events: list[Event] = []

    def note(
        resource: Resource,
        before: Part,
        after: Part,
        known: Sequence[Condition],
        new: Sequence[Condition],
    ) -> None:
        statuses.extend(_write(resource, before, after))
        events.extend(events_of(reference_to(resource), known, new, EVENTS))

    for view in _views(snapshot, intake, planned, cells, facts):
        resource = view.resource
        status, conditions = service_status(view, now, settings)
        note(resource, resource.status, status, resource.status.conditions, conditions)
        events.extend(_moved(view, planned))
        events.extend(_lapsed(view, cells.get(resource.namespace)))
    for namespace, existing in intake.plans.items():
        cell = cells.get(namespace)
        if cell is None and namespace not in intake.frozen:
            continue
        waiting = 0 if cell is None else len(cell.step.waiting)
        stalled = (
            (FROZEN, intake.frozen[namespace]) if cell is None else ("TooLarge", cell.complaint)
        )
        known = facts.get(namespace, NOTHING_KNOWN)
        after = plan_status(existing, known, waiting, stalled, now)
        note(existing, existing.status, after, existing.status.conditions, after.conditions)
    if not settings.watch_namespaces:
        for look in intake.pools:
            pool = look.resource
            held = wants.used.get(look.pool.id, 0)
            taken = wants.taken.get(look.pool.id, 0)
            counts = pool_status(look, held, taken, snapshot, now)
            note(pool, pool.status, counts, pool.status.conditions, counts.conditions)
        costs = {it: _cost_uph(plan, intake) for it, plan in _in_force(planned, cells).items()}
        spent = observed_costs(snapshot, intake.pools)
        for budget in snapshot.budgets:
            if budget.metadata.deletion_timestamp:
                continue
            sums = budget_status(
                budget, intake.demand.budgets, costs, spent, snapshot.namespaces, now
            )
            note(budget, budget.status, sums, budget.status.conditions, sums.conditions)
    ours = [it for it in snapshot.unreadable if it.ref.namespace or not settings.watch_namespaces]
    statuses += [write for it in ours for write in _unreadable(it, now)]
    return Told(statuses=tuple(statuses), events=tuple(events))


def _views(
    snapshot: Snapshot,
    intake: Intake,
    planned: Planned,
    cells: Mapping[Namespace, Cell],
    facts: Mapping[str, Facts],
) -> list[ServiceView]:
    explanations = {it.service: it for it in planned.plan.explanations}
    building = {
        it.identity
        for it in snapshot.models
        if condition_of(it.status.conditions, "Stalled") is None
    }
    in_force = _in_force(planned, cells)
    spent = {it: _cost_uph(plan, intake) for it, plan in in_force.items()}
    views: list[ServiceView] = []
    for resource in intake.services:
        service = ServiceId(resource.identity)
        namespace = resource.namespace
        cell = cells.get(namespace)
        made = None if cell is None else cell.published
        # While a plan cannot be written, the one in the cluster is what is in force.
        plan = (
            in_force[namespace] if made is not None else planned.current.get(namespace, EMPTY_PLAN)
        )
        place = Place(
            served=plan.service(service),
            plan=plan,
            revision=0 if made is None else made.resource.spec.revision,
            facts=facts.get(namespace, NOTHING_KNOWN),
            squeezed={} if cell is None else cell.step.squeezed,
            pools=intake.pools,
        )
        views.append(
            ServiceView(
                resource=resource,
                complaint=intake.complaints.get(service),
                explanation=explanations.get(service),
                place=place,
                asleep=service in intake.resting and intake.resting[service].asleep,
                frozen=intake.frozen.get(namespace, ""),
                waiting=cell is not None and service in cell.step.waiting,
                failed=cell is not None and service in cell.goal.failed,
                pending=None if cell is None else cell.goal.pending.get(service),
                building=f"{namespace}/{resource.spec.model_ref.name}" in building,
                note=_SHORT if service in planned.short else "",
                ceiling_uph=namespace_budget(intake.demand, namespace),
                spent_uph=spent[namespace],
                catalog=intake.everything,
            )
        )
    return views


def _in_force(planned: Planned, cells: Mapping[Namespace, Cell]) -> dict[Namespace, Plan]:
    """Return what every cell holds: its next step, or, where it is frozen, what stands there."""
    return {**planned.current, **{it: cell.step.plan for it, cell in cells.items()}}


def _cost_uph(plan: Plan, intake: Intake) -> int:
    prices = {pool.id: pool.accelerator_price_uph for pool in intake.prices.pools}
    return sum(group.replicas * prices.get(group.pool, 0) for group in plan.groups)


def _write(resource: Resource, before: Part, after: Part) -> tuple[StatusWrite, ...]:
    if after == before:
        return ()
    new, old = _document(after), _document(before)
    return () if new == old else (StatusWrite(ref=reference_to(resource), status=new),)


def _document(status: Part) -> dict[str, object]:
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def _lapsed(view: ServiceView, cell: Cell | None) -> tuple[Event, ...]:
    """Return an event when the plan that waited for approval is over with this look."""
    why = "" if cell is None else cell.goal.lapsed.get(ServiceId(view.resource.identity), "")
    if not why:
        return ()
    regarding = reference_to(view.resource)
    return (
        Event(regarding=regarding, type=EventType.WARNING, reason="PendingPlanLapsed", message=why),
    )


def _moved(view: ServiceView, planned: Planned) -> tuple[Event, ...]:
    """Return an event when the service's routes change with this look."""
    service = ServiceId(view.resource.identity)
    before = planned.current.get(view.resource.namespace, EMPTY_PLAN)
    after = view.place.plan
    if ways(before, service) == ways(after, service):
        return ()
    served = after.service(service)
    message = f"{_in_words(after, served)}, before: {_in_words(before, before.service(service))}"
    return (
        Event(
            regarding=reference_to(view.resource),
            type=EventType.NORMAL,
            reason="PlanChanged",
            message=message,
        ),
    )


def _in_words(plan: Plan, served: ServicePlan | None) -> str:
    if served is None or not served.routes:
        return "served by nothing"
    groups = {group.id: group for group in plan.groups}
    parts = [
        f"{split_qualified(it.variant)[1]} on {groups[it.group].replicas} × {groups[it.group].pool}"
        for it in served.routes
    ]
    return f"served by {' and '.join(parts)} at ${format_price(served.cost_uph)}/h"


def _unreadable(it: Unreadable, now: Instant) -> tuple[StatusWrite, ...]:
    """Return the status of an object of ours that the operator cannot read."""
    if not it.ref.api_version.startswith(_OURS):
        return ()
    known = it.status.get("conditions")
    before = [one for one in known if isinstance(one, Mapping)] if isinstance(known, list) else []
    conditions = [
        {
            "type": kind,
            "status": status,
            "observedGeneration": max(0, it.generation),
            "lastTransitionTime": next(
                (
                    one["lastTransitionTime"]
                    for one in before
                    if one.get("type") == kind and one.get("status") == status
                ),
                written(now),
            ),
            "reason": "Unreadable",
            "message": it.problem,
        }
        for kind, status in (("Ready", "False"), ("Stalled", "True"))
    ]
    status = {**it.status, "observedGeneration": it.generation, "conditions": conditions}
    return () if status == it.status else (StatusWrite(ref=it.ref, status=status),)
