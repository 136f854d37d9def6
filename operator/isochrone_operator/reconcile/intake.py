"""Snapshot → the planner's problem, and what is wrong with single objects.

Bad objects stop no others: what cannot be used is left out here, with a sentence that the statuses
show on the object itself. Called once per look by ``reconcile``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from isochrone.api.common import ConditionStatus
from isochrone.api.convert import catalog as catalog_value
from isochrone.api.convert import namespace_budgets
from isochrone.api.convert import service as service_value
from isochrone.api.inferenceservice import InferenceService
from isochrone.api.modelvariant import ModelVariant
from isochrone.api.servingplan import ServingPlan
from isochrone.catalog import Catalog, Precision
from isochrone.demand import Demand, Load, Service
from isochrone.fleet import Fleet
from isochrone.ids import Namespace, ServiceId
from isochrone.plan import Plan
from isochrone.planning import PlannerSettings, Problem
from isochrone.units import Instant, parse_duration
from isochrone_operator import names
from isochrone_operator.reconcile.capacity import PoolLook, every_pool, fleet_of, look_at_pools
from isochrone_operator.reconcile.facts import Facts
from isochrone_operator.reconcile.frozen import BUDGET, Unread, frozen_cells, unread_of
from isochrone_operator.reconcile.memory import Learned, Memory, Rest
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, sized, with_learned
from isochrone_operator.reconcile.rest import rested, sleeps_at
from isochrone_operator.reconcile.sizes import with_mix
from isochrone_operator.reconcile.slowness import as_slow_as_seen
from isochrone_operator.settings import Settings
from isochrone_operator.snapshot import Snapshot

PLANNER_SETTINGS: Final = PlannerSettings(work_limit=0.1)
"""Less work than the command line's: a plan is made again whenever something changes, and what is
found from the running plan in a tenth of the solver's seconds is within percents of the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What is wrong with one object: a CamelCase reason, and a sentence that says what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What one look may work with.

    ``frozen``: cells that must stay as they are, each with why. ``prices`` holds every pool as declared, ``fleet`` those that may be planned with. ``catalog`` is
    planned with, and ``slowed`` in its place where live requests take longer (the same where none do);
    ``everything`` holds all variants that still exist, for plans in force. ``own`` is
    each service's declared or assumed load, ``learned`` what its traffic has taught. ``resting``: how
    services stand that may have no workers without traffic.
    """

    plans: Mapping[Namespace, ServingPlan]
    frozen: Mapping[Namespace, str]
    services: tuple[InferenceService, ...]
    complaints: Mapping[ServiceId, Complaint]
    pools: tuple[PoolLook, ...]
    fleet: Fleet
    prices: Fleet
    catalog: Catalog
    slowed: Catalog
    everything: Catalog
    variants: Mapping[str, ModelVariant]
    demand: Demand
    own: Mapping[ServiceId, Load]
    learned: Mapping[ServiceId, Learned]
    resting: Mapping[ServiceId, Rest]
    wake_at: Instant | None


def take_in(
    snapshot: Snapshot,
    variants: Sequence[ModelVariant],
    facts: Mapping[str, Facts],
    memories: Mapping[Namespace, Memory],
    now: Instant,
    settings: Settings,
) -> Intake:
    """Return what of ``snapshot`` may be planned with; ``variants`` are as builder steps left them."""
    pools = look_at_pools(snapshot, settings)
    services = tuple(
        it
        for it in snapshot.services
        if not it.metadata.deletion_timestamp and it.metadata.namespace in snapshot.namespaces
    )
    models = tuple(it for it in snapshot.models if not it.metadata.deletion_timestamp)
    known = {it.identity for it in models}
    there = {it.identity: it for it in (*snapshot.variants, *variants)}
    plans, unread = _plans(snapshot), unread_of(snapshot)
    frozen = frozen_cells(plans, there, unread)
    complaints: dict[ServiceId, Complaint] = {}
    wanted: list[Service] = []
    own: dict[ServiceId, Load] = {}
    learned: dict[ServiceId, Learned] = {}
    resting: dict[ServiceId, Rest] = {}
    wakes: list[Instant] = []
    for resource in services:
        value = service_value(resource)
        if value.namespace in frozen:
            continue
        complaint = _complaint(resource, value, known, pools, unread)
        if complaint is not None:
            complaints[value.id] = complaint
            continue
        own[value.id] = value.load
        memory = memories.get(value.namespace, Memory())
        cell = facts.get(value.namespace)
        taught = memory.learned.get(resource.metadata.name, NOTHING_LEARNED)
        seen = None if cell is None else cell.observed(value.id)
        size = sized(value.load, taught, seen, now, settings.shrink_after_ns)
        learned[value.id] = with_mix(
            size.learned,
            taught,
            value.load,
            None if seen is None else seen.rows,
            percentile_ppm=value.objectives.percentile_ppm,
            now=now,
        )
        if size.wake_at is not None:
            wakes.append(size.wake_at)
        idle_ns = resource.spec.scaling.scale_to_zero_after
        if idle_ns is not None and not value.suspended:
            after_ns = parse_duration(idle_ns)
            rest = rested(
                memory.resting.get(resource.metadata.name, Rest()),
                seen,
                after_ns,
                now,
            )
            resting[value.id] = rest
            wakes += [at for at in [sleeps_at(rest, after_ns)] if at is not None]
            value = replace(value, suspended=rest.asleep)
        wanted.append(replace(value, load=with_learned(value.load, learned[value.id])))
    existing = {it.identity for it in snapshot.models}
    of_models = [it for it in there.values() if _model_of(it) in existing]
    usable = [it for it in variants if _model_of(it) in known and _is_ready(it)]
    catalog = catalog_value(models, usable)
    return Intake(
        plans=plans,
        frozen=frozen,
        services=services,
        complaints=complaints,
        pools=pools,
        fleet=fleet_of(pools, snapshot, taken=_kept(plans, frozen, facts)),
        prices=every_pool(snapshot),
        catalog=catalog,
        slowed=as_slow_as_seen(catalog, usable, now),
        everything=catalog_value(snapshot.models, of_models),
        variants=there,
        demand=Demand(
            services=tuple(sorted(wanted, key=lambda it: it.id)),
            budgets=namespace_budgets(
                [it for it in snapshot.budgets if not it.metadata.deletion_timestamp],
                snapshot.namespaces,
            ),
        ),
        own=own,
        learned=learned,
        resting=resting,
        wake_at=min(wakes, default=None),
    )


def _plans(snapshot: Snapshot) -> dict[Namespace, ServingPlan]:
    return {
        it.namespace: it
        for it in snapshot.plans
        if it.metadata.name == names.CELL and not it.metadata.deletion_timestamp
    }


def _kept(
    plans: Mapping[Namespace, ServingPlan],
    frozen: Mapping[Namespace, str],
    facts: Mapping[str, Facts],
) -> dict[str, int]:
    """Return the accelerators by pool that the groups of frozen cells hold or may yet take."""
    kept: dict[str, int] = {}
    for namespace in frozen:
        held = facts[namespace].held if namespace in facts else {}
        for group in plans[namespace].spec.groups:
            workers = max(group.replicas, held.get(group.name, 0))
            kept[group.pool] = kept.get(group.pool, 0) + workers
    return kept


def _complaint(
    resource: InferenceService,
    value: Service,
    models: set[str],
    pools: Sequence[PoolLook],
    unread: Unread,
) -> Complaint | None:
    """Return why ``resource`` cannot be planned at all; None when the planner may see it."""
    name = resource.spec.model_ref.name
    budgets = sorted(it[2] for it in unread if it[0] == BUDGET)
    if budgets:
        return Complaint(
            reason="BudgetUnreadable",
            message=(
                f"CostBudget {budgets[0]} cannot be read, and may limit this namespace: its own "
                "conditions say why"
            ),
        )
    if ("Model", value.namespace, name) in unread:
        return Complaint(
            reason="ModelUnreadable",
            message=f"Model {name} cannot be read: its own conditions say why",
        )
    if value.model not in models:
        return Complaint(
            reason="ModelMissing",
            message=(
                f"there is no Model {name} in namespace {value.namespace}: create it, or name "
                "another in spec.modelRef"
            ),
        )
    there = {look.pool.id for look in pools}
    missing = [it for it in value.pools or () if it not in there]
    unreadable = [it for it in missing if ("AcceleratorPool", "", it) in unread]
    if missing and len(missing) == len(value.pools or ()):
        if unreadable:
            return Complaint(
                reason="PoolUnreadable",
                message=(
                    f"AcceleratorPool {', '.join(unreadable)} cannot be read: its own conditions "
                    "say why"
                ),
            )
        return Complaint(
            reason="PoolMissing",
            message=(
                f"there is no AcceleratorPool {', '.join(missing)}: create it, or change "
                "spec.placement.pools"
            ),
        )
    return None


def _model_of(variant: ModelVariant) -> str:
    return f"{variant.metadata.namespace}/{variant.spec.model_ref.name}"


def _is_ready(variant: ModelVariant) -> bool:
    """Whether ``variant`` may be planned with: its artifact is good, and its accuracy is known.

    A declared accuracy is that of the fp32 original; what another precision loses is not known
    before it is measured.
    """
    if variant.metadata.deletion_timestamp:
        return False
    broken = any(
        it.type == "ArtifactReady" and it.status is ConditionStatus.FALSE
        for it in variant.status.conditions
    )
    known = variant.status.accuracy is not None or variant.spec.precision is Precision.FP32
    return known and not broken


def problem_of(intake: Intake, running: Plan | None) -> Problem:
    """Return the planner's question."""
    return Problem(
        catalog=intake.catalog,
        fleet=intake.fleet,
        demand=intake.demand,
        running=running,
        settings=PLANNER_SETTINGS,
    )
