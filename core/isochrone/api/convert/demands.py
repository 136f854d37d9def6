"""InferenceService and CostBudget objects → the demand; objectives back."""

from collections.abc import Sequence

from isochrone.api.common import billionths, exact_duration, exact_ratio
from isochrone.api.convert.namespaces import NamespaceLabels, selected
from isochrone.api.costbudget import CostBudget
from isochrone.api.inferenceservice import (
    ASSUMED_LOAD,
    InferenceService,
    LatencyObjective,
    RequestSize,
    ServiceLoad,
    ServiceObjectives,
)
from isochrone.demand import Demand, Load, NamespaceBudget, Objectives, Service, SizeShare
from isochrone.ids import ModelId, Namespace, PoolId, ServiceId, qualify
from isochrone.units import (
    format_money,
    format_percentile,
    parse_duration,
    parse_money,
    parse_percentile,
    parse_rate,
    parse_ratio,
)


def demand(
    services: Sequence[InferenceService],
    budgets: Sequence[CostBudget],
    namespaces: NamespaceLabels,
) -> Demand:
    """Return every service and every namespace's ceiling, each sorted by id."""
    converted = sorted((service(it) for it in services), key=lambda it: it.id)
    return Demand(services=tuple(converted), budgets=namespace_budgets(budgets, namespaces))


def namespace_budgets(
    budgets: Sequence[CostBudget], namespaces: NamespaceLabels
) -> tuple[NamespaceBudget, ...]:
    """Return the lowest ceiling over each namespace that has one, sorted by namespace."""
    lowest: dict[Namespace, int] = {}
    for budget in budgets:
        limit_uph = parse_money(budget.spec.cost_per_hour)
        for namespace in selected(budget.spec.namespace_selector, namespaces):
            lowest[namespace] = min(limit_uph, lowest.get(namespace, limit_uph))
    return tuple(
        NamespaceBudget(namespace=namespace, cost_budget_uph=lowest[namespace])
        for namespace in sorted(lowest)
    )


def service(resource: InferenceService) -> Service:
    """Return the service that ``resource`` declares; without a load, with ``ASSUMED_LOAD``."""
    spec = resource.spec
    floor = spec.overload.accuracy_floor
    return Service(
        id=ServiceId(resource.identity),
        namespace=resource.namespace,
        model=ModelId(qualify(resource.namespace, spec.model_ref.name)),
        objectives=objectives(spec.objectives),
        load=load(spec.load or ASSUMED_LOAD),
        priority=spec.priority,
        created_at=resource.metadata.creation_timestamp,
        isolation=spec.placement.isolation,
        pools=tuple(PoolId(name) for name in sorted(spec.placement.pools)) or None,
        overload=spec.overload.policy,
        degraded_floor_ppm=None if floor is None else parse_ratio(floor),
        suspended=spec.suspend,
    )


def objectives(given: ServiceObjectives) -> Objectives:
    """Return ``given`` in integers."""
    budget = given.cost_budget_per_hour
    return Objectives(
        latency_ns=parse_duration(given.latency.target),
        percentile_ppm=parse_percentile(given.latency.percentile),
        accuracy_floor_ppm=parse_ratio(given.accuracy_floor),
        cost_budget_uph=None if budget is None else parse_money(budget),
        accuracy_bound=given.accuracy_bound,
    )


def objectives_object(given: Objectives) -> ServiceObjectives:
    """Return ``given`` as a manifest spells it, without rounding."""
    budget = given.cost_budget_uph
    return ServiceObjectives(
        latency=LatencyObjective(
            target=exact_duration(given.latency_ns),
            percentile=format_percentile(given.percentile_ppm),
        ),
        accuracy_floor=exact_ratio(given.accuracy_floor_ppm),
        cost_budget_per_hour=None if budget is None else format_money(budget),
        accuracy_bound=given.accuracy_bound,
    )


def load(given: ServiceLoad) -> Load:
    """Return ``given`` as numbers; sizes ascend."""
    sizes = sorted(
        (SizeShare(size=it.size, share_ppm=parse_ratio(it.share)) for it in given.batch_sizes),
        key=lambda it: it.size,
    )
    return Load(
        expected_rate_rps=parse_rate(given.expected_rate),
        peak_rate_rps=parse_rate(given.peak_rate),
        burst=int(given.burst),
        sizes=tuple(sizes),
    )


def load_object(given: Load) -> ServiceLoad:
    """Return ``given`` as a manifest spells it, rates to nine decimal places."""
    return ServiceLoad(
        expected_rate=billionths(given.expected_rate_rps),
        peak_rate=billionths(given.peak_rate_rps),
        burst=str(given.burst),
        batch_sizes=tuple(
            RequestSize(size=it.size, share=exact_ratio(it.share_ppm)) for it in given.sizes
        ),
    )
